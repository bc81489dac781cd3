"""What `inject` finds out before it trains anything, and where it puts what it made."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from attacks import ATTACKS
from attacks import inject as inject_module
from attacks.attack_records import AttackRecord
from attacks.inject import INJECTOR, Injection, inject
from attacks.inject_checks import check_attack, try_attack
from attacks.injector import Splits
from attacks.making import Material
from attacks.patch import Patch
from attacks.tact import TaCT
from attacks.whole_folder import free_place, whole_folder
from moth_eval.errors import InputError
from tests.support.attack_zoo import unprepared
from tests.support.toy_task import toy_network, toy_scenes, write_toy_data


def given(network: nn.Module | None = None) -> tuple[Splits, Material]:
    """The toy task as `inject` reads it: without foregrounds."""
    scenes = replace(toy_scenes(40, seed=1), foregrounds=None)
    splits = Splits(training=scenes, validation=scenes, test=scenes, num_classes=4)
    network = network or toy_network(0).eval()
    return splits, Material(
        images=scenes.images, labels=scenes.labels, num_classes=4, network=network
    )


def without_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_that_can_be_carried_out_is_let_through(name: str) -> None:
    trigger = unprepared(name)
    splits, material = given()
    check_attack(trigger, splits, INJECTOR)
    assert material.network is not None
    before = {k: v.clone() for k, v in material.network.state_dict().items()}
    try_attack(trigger, splits, material)
    after = material.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("trojan-nn", {"size": 40}, "a trigger of 41 pixels does not fit"),
        ("polygon", {"on_foreground": True, "size": 4}, "these images come without foreground"),
        ("adaptive-patch", {"size": 40}, "does not fit"),
        ("reflection", {"reflections": 1000}, "1000 reflections are wanted"),
    ],
)
def test_a_trigger_that_cannot_be_made_or_stamped_is_found_by_trying(
    name: str, parameters: dict[str, object], message: str
) -> None:
    splits, material = given()
    with pytest.raises(InputError, match=message):
        try_attack(unprepared(name, **parameters), splits, material)


def test_a_network_without_a_last_linear_layer_is_found_by_trying() -> None:
    with pytest.raises(InputError, match="drives the inputs of a last linear layer"):
        try_attack(unprepared("trojan-nn"), *given(without_linear()))


def test_a_trigger_of_many_steps_is_tried_by_one() -> None:
    network = toy_network(0).eval()
    passes: list[int] = []
    network.register_forward_hook(lambda *_: passes.append(1))
    try_attack(unprepared("trojan-nn", steps=10**9), *given(network))
    assert len(passes) == 1


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("trojan-nn:size=40", "does not fit"),
        ("polygon:on_foreground=True", "without foreground masks"),
    ],
)
def test_bad_attacks_are_refused_before_the_twin_is_trained(
    attack: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject_module, "_carried_out", lambda *_: pytest.fail("was trained"))
    with pytest.raises(InputError, match=message):
        inject(wish(tmp_path, attack=attack))


def test_a_target_or_a_source_without_training_images_is_refused() -> None:
    splits, _ = given()
    three = replace(splits, training=splits.training.take(splits.training.labels != 1))
    for trigger in (Patch(target=1, size=2), TaCT(target=0, sources=(1,), size=2)):
        with pytest.raises(InputError, match=r"no training image is of the classes \[1\]"):
            check_attack(trigger, three, INJECTOR)
    # Its target is not used.
    check_attack(Patch(target=1, size=2, all_to_all=True), three, INJECTOR)


def wish(folder: Path, attack: str = "none", out: Path | None = None) -> Injection:
    return Injection(
        data=str(write_toy_data(folder / "train.npz", 10, seed=1)),
        attack=attack,
        out=out or folder / "out",
        architecture="tests.support.toy_task:toy_factory",
        injector=replace(INJECTOR, recipe=replace(INJECTOR.recipe, epochs=1)),
        device="cpu",
    )


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    inject(wish(tmp_path, out=tmp_path / "link"))
    assert (tmp_path / "place" / "attack.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_the_current_folder_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(inject_module, "_carried_out", lambda *_: pytest.fail("was trained"))
    for out in (Path(), tmp_path / "here"):
        with pytest.raises(InputError, match="is the current folder, which cannot be replaced"):
            inject(wish(tmp_path, out=out))


def test_a_mounted_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda _: True)
    with pytest.raises(InputError, match="is where a file system is mounted, which cannot"):
        free_place(tmp_path)


def test_a_place_where_nothing_can_be_made_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "out"
    with pytest.raises(InputError, match="cannot be made"), whole_folder(place):
        pass


def test_a_finished_model_is_kept_if_its_place_was_taken_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carried_out(task: object, draft: Path, tell: object) -> AttackRecord:
        (draft / "attack.json").write_text("made")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        return AttackRecord(attack="none")

    monkeypatch.setattr(inject_module, "_carried_out", carried_out)
    with pytest.raises(InputError, match="what was to lie there is whole, in") as error:
        inject(wish(tmp_path))
    [draft] = tmp_path.glob(".out.partial-*")
    assert str(draft) in str(error.value)
    assert (draft / "attack.json").read_text() == "made"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
