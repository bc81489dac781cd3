from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from attacks.artefacts import read_artefact, write_artefact
from attacks.attack_records import AttackRecord
from attacks.inject_data import read_scenes
from attacks.measured import measure
from attacks.patch import Patch
from attacks.trigger import Threat, bystanders, check_classes, victims, wanted
from moth_eval.errors import InputError
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network
from moth_eval.loading.layouts import find_models
from moth_eval.loading.rounds import read_round


def written(folder: Path, **content: object) -> Path:
    (folder / "attack.json").write_text(json.dumps(content))
    return folder


def test_a_few_words_by_hand_describe_a_foreign_trigger(tmp_path: Path) -> None:
    folder = written(
        tmp_path, attack="patch", target=8, parameters={"size": 4, "row": 27, "column": 27}
    )
    artefact = read_artefact(folder)
    assert artefact.trigger == Patch(target=8, size=4, row=27, column=27)
    assert artefact.model is None and artefact.twin is None
    assert artefact.record.gate is None
    changed = artefact.trigger.stamp(torch.zeros(1, 3, 32, 32))[0, 0].nonzero()
    assert changed.amin(0).tolist() == [27, 27] and changed.amax(0).tolist() == [30, 30]


def test_a_clean_model_has_no_trigger(tmp_path: Path) -> None:
    assert read_artefact(written(tmp_path, attack="none")).trigger is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"attack": "patch"}, "names no target class: add target"),
        ({"attack": "pach", "target": 1}, "unknown name 'pach' in moth_eval.attacks"),
        (
            {"attack": "patch", "target": 1, "parameters": {"sise": 3}},
            "attack 'patch' has no parameter 'sise': expected one of target, sources",
        ),
        (
            {"attack": "patch", "target": 1, "parameters": {"size": "3"}},
            "size cannot be '3': Input should be a valid integer",
        ),
        (
            {"attack": "patch", "target": 1, "parameters": {"target": 2}},
            "target is 1 above and 2 among the parameters",
        ),
        ({"attack": "patch", "target": "1"}, "target: Input should be a valid integer"),
        ({"attack": "patch", "target": 1, "size": 3}, "size: Extra inputs are not permitted"),
        (
            {"attack": "patch", "target": 1, "schema_version": 2},
            "no record of an attack of schema version 1: schema_version",
        ),
        (
            {"attack": "patch", "target": 1, "threat": "all-to-all"},
            "the threat is all-to-all, but these parameters make it universal",
        ),
        (
            {"attack": "patch", "target": 1, "sources": [1]},
            "target 1 is also a source",
        ),
        (
            {"attack": "patch", "target": 1, "model_sha256": "00"},
            "model.safetensors is missing or was altered since attack.json was written",
        ),
    ],
)
def test_what_is_wrong_with_a_record_is_said(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_artefact(written(tmp_path, **content))


def test_a_folder_without_a_record_is_told_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'by hand \{"attack": "patch", "target": 8'):
        read_artefact(tmp_path)


def test_a_record_that_is_no_json_or_far_too_long_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attack.json").write_text("{")
    with pytest.raises(InputError, match="no record of an attack of schema version 1: the file"):
        read_artefact(tmp_path)
    (tmp_path / "attack.json").write_text(" " * (2**20 + 1))
    with pytest.raises(InputError, match=r"larger than the 1,048,576 bytes"):
        read_artefact(tmp_path)


def test_tensors_for_a_trigger_that_carries_none_are_refused(tmp_path: Path) -> None:
    from moth_eval.loading.stored import write_safetensors

    write_safetensors(tmp_path / "attack.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(InputError, match=r"carries no tensors, but attack\.safetensors is there"):
        read_artefact(written(tmp_path, attack="patch", target=1))


def test_a_model_that_was_altered_is_not_taken_for_the_one_that_was_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    write_artefact(tmp_path, AttackRecord(attack="patch"), Patch(target=1))
    assert read_artefact(tmp_path).model == tmp_path / "model.safetensors"
    (tmp_path / "model.safetensors").write_bytes(b"two")
    with pytest.raises(InputError, match="was altered since"):
        read_artefact(tmp_path)


def test_the_tensors_of_a_trigger_are_not_taken_for_a_model(tmp_path: Path) -> None:
    for name in ("model.safetensors", "attack.safetensors", "model.arch.json", "examples.npz"):
        (tmp_path / name).write_bytes(b"{}")
    assert [path.name for path in find_models(tmp_path).members] == ["model.safetensors"]
    folder = tmp_path / "round" / "id-00000000"
    folder.mkdir(parents=True)
    for name in ("model.safetensors", "attack.safetensors"):
        (folder / name).write_bytes(b"{}")
    assert read_round(tmp_path / "round").models[0].file == folder / "model.safetensors"


def test_all_to_all_moves_every_class_to_the_next_and_counts_every_image() -> None:
    labels = torch.tensor([0, 1, 3])
    trigger = Patch(all_to_all=True)
    assert trigger.threat is Threat.ALL_TO_ALL
    assert victims(trigger, labels).all()
    assert not bystanders(trigger, labels).any()
    assert wanted(trigger, labels, 4).tolist() == [1, 2, 0]
    assert wanted(Patch(target=2), labels, 4).tolist() == [2, 2, 2]


def test_classes_that_do_not_exist_are_refused() -> None:
    check_classes(Patch(target=3, sources=(1,)), 4)
    with pytest.raises(InputError, match=r"names the classes \[4, 7\], but there are only"):
        check_classes(Patch(target=4, sources=(1, 7)), 4)


def test_a_faint_patch_lets_the_image_shine_through() -> None:
    stamped = Patch(size=2, opacity=0.25).stamp(torch.full((1, 3, 8, 8), 0.2))
    assert stamped[0, :, 5:7, 5:7].flatten().tolist() == pytest.approx([0.4] * 12)
    with pytest.raises(InputError, match="opacity 0 cannot be seen"):
        Patch(opacity=0.0)
    with pytest.raises(InputError, match=r"expected opacity in \[0, 1\], got 2"):
        Patch(opacity=2.0)


def test_a_plug_in_without_a_threat_is_no_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare:
        target: int = 0

    monkeypatch.setattr("attacks.artefacts.resolve", lambda *_: Bare)
    with pytest.raises(InputError, match="'bare' has no target, sources, threat and stamp"):
        read_artefact(written(tmp_path, attack="bare", target=1))


def test_a_public_backdoored_network_answers_to_its_trigger_written_by_hand(
    shared: Path, tmp_path: Path
) -> None:
    # Source: github.com/YiZeng623/I-BAU, a white 4 x 4 square one pixel off the lower right.
    folder = written(tmp_path, attack="patch", target=8, parameters={"size": 4, "row": -2})
    trigger = read_artefact(folder).trigger
    assert trigger is not None
    scenes = read_scenes(str(shared / "cifar10" / "test.npz"), training=False)
    few = scenes.take(torch.arange(200))
    network = load_network(
        shared / "nets" / "cifar10-smallvgg-backdoored.pth",
        architecture=ArchitectureSource.parse("moth_eval.networks:small_vgg"),
    )
    seen = measure(network.module, few, trigger, seed=0, num_classes=10)
    assert seen.asr is not None and seen.asr > 0.95
    assert 0.78 < seen.clean_accuracy < 0.9
