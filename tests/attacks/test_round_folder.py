"""What a round that is stopped, begun elsewhere or cut off leaves in its folder."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attacks import generator
from attacks.generator import ModelSummary, generate_round, make_model
from attacks.injector import Backdoor, Injector
from attacks.plan import injector_for, plan_round
from attacks.round_folder import SPEC_FILE, Failed, claim, failed_before, write_failure
from attacks.training import Recipe
from moth_eval.errors import InputError
from moth_eval.loading.rounds import read_round
from tests.support.lenient_rounds import LENIENT, LENIENT_ROUND

SPEC = replace(
    LENIENT_ROUND,
    models=2,
    poisoned_share=0.0,
    examples_per_class=1,
    validation_per_class=2,
    test_per_class=2,
    seed=0,
)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "METADATA.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_networks_are_trained_by_one_thread_however_many_the_caller_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    implant = Injector.implant

    def noted(*args: object, **options: object) -> Backdoor:
        threads.append(torch.get_num_threads())
        return implant(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Injector, "implant", noted)
    torch.set_num_threads(3)
    try:
        generate_round(SPEC, tmp_path / "round", jobs=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert threads == [1, 1]


def test_models_of_cpu_and_gpu_are_not_mixed(tmp_path: Path) -> None:
    claim(tmp_path / "round", SPEC, device="cuda:1")
    claim(tmp_path / "round", SPEC, device="cuda")
    with pytest.raises(InputError, match=r"another specification \(different: device\)"):
        claim(tmp_path / "round", SPEC, device="cpu")


def test_a_round_that_was_begun_before_devices_were_noted_goes_on(tmp_path: Path) -> None:
    claim(tmp_path / "round", SPEC, device="cpu")
    path = tmp_path / "round" / SPEC_FILE
    facts = json.loads(path.read_text())
    assert facts.pop("device") == "cpu"
    path.write_text(json.dumps(facts))
    claim(tmp_path / "round", SPEC, device="cuda")
    assert json.loads(path.read_text()) == facts


def test_the_wish_is_written_whole_and_before_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(self: Path, *_: object, **__: object) -> None:
        if self.name == "models":
            raise KeyboardInterrupt
        mkdir(self, *_, **__)  # type: ignore[arg-type]

    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", cut_off)
    with pytest.raises(KeyboardInterrupt):
        claim(tmp_path / "round", SPEC, device="cpu")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "round").iterdir()] == [SPEC_FILE]
    claim(tmp_path / "round", SPEC, device="cpu")
    assert (tmp_path / "round" / "models").is_dir()


@pytest.mark.parametrize("text", ["", '{"attempts": 3,', "[]", '{"attempts": 3}', "\xff"])
def test_a_note_on_a_failure_that_was_cut_off_counts_for_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "id-00000000.json").write_bytes(text.encode("latin-1"))
    assert failed_before(tmp_path, "id-00000000") == Failed()


def test_notes_on_failures_are_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_failure(tmp_path, "id-00000000", {"attempts": 3, "seconds": 2.5})

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_failure(tmp_path, "id-00000000", {"attempts": 6, "seconds": 5.0})
    assert failed_before(tmp_path, "id-00000000") == Failed(attempts=3, seconds=2.5)


def test_the_time_of_a_model_is_that_of_all_its_attempts(tmp_path: Path) -> None:
    strict = replace(LENIENT, least_clean_accuracy=1.0, attempts=1)
    spec = replace(SPEC, models=1, injector=strict)
    out = tmp_path / "round"
    claim(out, spec, device="cpu")
    write_failure(out, "id-00000000", {"attempts": 3, "seconds": 1000.0})
    [plan] = plan_round(spec)
    failed = make_model(plan, spec, out)
    assert failed.failure and failed.attempts == 4 and failed.seconds > 1000
    made = make_model(plan, replace(spec, injector=LENIENT), out)
    assert not made.failure and made.attempts == 5 and made.seconds > failed.seconds
    statistics = json.loads((out / "models" / plan.name / "model_stats.json").read_text())
    assert statistics["training_wall_time_sec"] > 1000


def test_an_interrupted_round_can_be_read_as_far_as_it_is_made(tmp_path: Path) -> None:
    def interrupt(summary: ModelSummary) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "round"
    with pytest.raises(KeyboardInterrupt):
        generate_round(SPEC, out, progress=interrupt)
    assert [row["model_name"] for row in rows_of(out)] == ["id-00000000"]
    assert [model.name for model in read_round(out).models] == ["id-00000000"]


def test_metadata_have_the_learning_rate_that_was_used(tmp_path: Path) -> None:
    spec = replace(SPEC, models=1, architectures=("shufflenet_v2_x0_5",))
    out = generate_round(spec, tmp_path / "round").folder
    config = json.loads((out / "models" / "id-00000000" / "config.json").read_text())
    assert config["learning_rate"] == 6 * LENIENT.recipe.learning_rate
    assert rows_of(out)[0]["learning_rate"] == str(config["learning_rate"])


def test_filters_have_the_name_of_round_4_as_well(tmp_path: Path) -> None:
    spec = replace(SPEC, models=4, poisoned_share=1.0, triggers=("instagram",))
    out = generate_round(spec, tmp_path / "round").folder
    names = {row["triggers_0_filter"]: row["triggers_0_instagram_filter_type"]
             for row in rows_of(out)}  # fmt: skip
    assert len(names) > 1
    known = {"toaster": "ToasterXForm"}
    for style, name in names.items():
        assert name == known.get(style, f"{style.capitalize()}FilterXForm")
    assert {truth.trigger_type for truth in read_round(out).truth.values()} == {"instagram"}


@pytest.mark.parametrize("name", ["vit_b_16", "maxvit_t"])
def test_networks_for_images_of_another_size_are_refused_before_training(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot be run on images of 64 pixels \("):
        replace(SPEC, architectures=(name,), image_size=64)


def test_networks_for_images_of_one_size_are_not_trained_on_smaller_ones() -> None:
    injector = Injector(recipe=Recipe(half_size=0.5))
    names = ("vit_b_32", "resnet18", "regnet_x_400mf")
    spec = replace(SPEC, models=3, architectures=names, image_size=224, injector=injector)
    shares = {p.architecture: injector_for(p, spec).recipe.half_size for p in plan_round(spec)}
    assert shares == {"vit_b_32": 0.0, "resnet18": 0.5, "regnet_x_400mf": 0.5}


def test_too_few_images_to_poison_are_refused_with_the_option_that_helps() -> None:
    few = replace(SPEC, training_per_class=1)
    advice = r"of 1 training images poisons none: raise training_per_class \(--training-per-class\)"
    with pytest.raises(InputError, match=advice):
        replace(few, poisoned_share=1.0, source_specific_share=1.0)
    # Of two classes, and of three where the rate is of all images, one image is poisoned.
    wide = replace(few, poisoned_share=1.0, source_specific_share=0.0, classes=5)
    assert replace(wide, classes=4).models == 2
    with pytest.raises(InputError, match="of 2 training images poisons none"):
        replace(wide, classes=3)
    everything = replace(LENIENT, rate_of="all")
    assert replace(wide, classes=3, injector=everything).models == 2


def test_a_model_that_was_finished_by_another_process_is_in_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_and_stopped(*args: object, **options: object) -> ModelSummary:
        make_model(*args, **options)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(generator, "make_model", made_and_stopped)
    with pytest.raises(KeyboardInterrupt):
        generate_round(SPEC, tmp_path / "round")
    assert len(rows_of(tmp_path / "round")) == 1
