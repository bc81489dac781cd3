from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from benchmarks import honesty_study
from benchmarks.honesty_pairs import default_pairs
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.honesty import HonestySettings, honesty_checks
from moth_eval.loading.files import save_network, sha256_of
from moth_eval.robustness import PGD
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples
from tests.support.subjects import Prototypes, prototype_subject

ARCH = "tests.support.subjects:prototype_network"
CHECKS = ("accuracy", "mask-and-pattern", "signed-pixels", "pgd-0", "pgd-1", "patches-crop")
FILES = {
    "honesty.csv", "growth.csv", "robust-accuracy.csv", "patches.csv", "honesty.json",
    "growth.png", "growth.svg", "robust-accuracy.png", "robust-accuracy.svg", "patches.png",
    "patches.svg",
}  # fmt: skip


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a backdoor to class 2, the same without, as `harden` leaves one, and images.

    `four` has the classes 0 to 3 only.
    """
    folder = tmp_path_factory.mktemp("honesty") / "models"
    (folder / "hardened").mkdir(parents=True)
    subject = prototype_subject(target=2)
    save_file(subject.module.state_dict(), folder / "before.safetensors")
    mended = prototype_subject().module
    save_file(mended.state_dict(), folder / "after.safetensors")
    save_network(
        folder / "hardened" / "model.safetensors",
        mended,
        architecture=f"classification:{ARCH}",
        num_classes=5,
    )
    (folder / "hardened" / "card.json").write_text("{}")
    four = Prototypes(4, torch.Generator().manual_seed(0), None)
    save_file(four.state_dict(), folder / "four.safetensors")
    write_images(folder / "images.npz", subject.examples)
    return folder


def write_images(path: Path, examples: Examples) -> None:
    images = (examples.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(path, images=images, labels=examples.labels.numpy())


def arguments(models: Path, run: Path, *more: str, after: str = "after.safetensors") -> list[str]:
    return [
        "honesty", str(models / "before.safetensors"), str(models / after), "--examples",
        str(models / "images.npz"), "--arch", ARCH, "--device", "cpu", "--pairs", "0-2,1-2",
        "--restarts", "1", "--patches", "crop", "--patch-sizes", "9,4", "--epsilon", "8/255,0.4",
        "--out", str(run), *more,
    ]  # fmt: skip


def honesty(models: Path, run: Path, *more: str, after: str = "after.safetensors") -> Result:
    return CliRunner().invoke(main, arguments(models, run, *more, after=after))


def data_of(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "honesty.json").read_text())
    return data


def files_of(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return run, honesty(models, run)


def test_the_mended_backdoor_shows_in_every_check_and_every_file_is_there(
    undisturbed: tuple[Path, Result],
) -> None:
    run, result = undisturbed
    assert result.exit_code == 0, result.output
    assert {p.name for p in run.iterdir()} - {".lock"} == {*FILES, "run.json", "checks"}
    assert {p.stem for p in (run / "checks").iterdir()} == set(CHECKS)
    data = data_of(run)
    assert data["complete"] is True
    for inverter in data["inverters"]:
        assert inverter["derived"]["growth"]["factor"] > 1.5
        assert inverter["derived"]["transferred_before"] < 0.9
    assert [one["attack"]["epsilon"] for one in data["robustness"]] == [8 / 255, 0.4]
    assert "6/6  patches-crop" in result.output
    assert "before before, after after: 2 pairs of classes, 1 restart" in result.output
    assert f"wrote {run / 'honesty.csv'}" in result.output


def test_the_figures_are_those_of_the_library(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    subject = prototype_subject(target=2)
    images = (subject.examples.images * 255).round() / 255
    before = replace(subject, examples=replace(subject.examples, images=images))
    after = replace(before, module=prototype_subject().module)
    settings = HonestySettings(
        pairs=((0, 2), (1, 2)),
        restarts=1,
        attacks=(PGD(), PGD(epsilon=0.4, step_size=0.1)),
        patch_kinds=("crop",),
        patch_sizes=(4, 9),
    )
    expected = json.loads(
        json.dumps(honesty_checks(before, after, settings, generator=generator_for(0)).to_json())
    )
    data = data_of(undisturbed[0])
    assert data["settings"] == expected["settings"]
    assert data["inverters"] == expected["inverters"]
    assert data["curves"] == expected["curves"]
    assert data["accuracy"] == expected["accuracy"]
    assert data["growth_ratio"] == expected["growth_ratio"]
    for one, other in zip(data["robustness"], expected["robustness"], strict=True):
        assert one["before"] == other["before"]["robust"]
        assert one["per_class_after"] == other["after"]["per_class"]
    assert data["backward_passes"] == expected["cost"]["backward_passes"]


def test_the_manifest_says_what_was_compared_and_how(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    manifest = json.loads((undisturbed[0] / "run.json").read_text())
    assert manifest["kind"] == "honesty"
    for side in ("before", "after"):
        file = models / f"{side}.safetensors"
        assert manifest[side]["sha256"] == sha256_of(file)
        assert manifest[side]["model"] == str(file.resolve())
        assert manifest[side]["architecture_option"] == ARCH
    assert manifest["settings"]["pairs"] == [[0, 2], [1, 2]]
    assert manifest["settings"]["attacks"][1]["step_size"] == pytest.approx(0.1)
    assert (manifest["pairs_named"], manifest["seed"]) == (True, 0)
    assert {"torch", "moth-eval", "python"} <= manifest["versions"].keys()
    assert manifest["notes"] == [
        "fewer than 100 images, all of them are used: class 0 (12), 1 (12)"
    ]


def test_the_same_command_again_checks_nothing_and_leaves_every_byte(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = files_of(run)
    again = honesty(models, run)
    assert again.exit_code == 0
    assert "is finished already, nothing is done again" in again.output
    assert files_of(run) == before


def test_the_report_is_made_again_without_the_models(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    for name, content in files_of(undisturbed[0]).items():
        if name not in FILES:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
    result = CliRunner().invoke(main, ["report", str(copy)])
    assert result.exit_code == 0, result.output
    assert files_of(copy) == files_of(undisturbed[0])


def test_a_missing_check_is_made_again_and_nothing_else(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    whole = files_of(undisturbed[0])
    for name, content in whole.items():
        if name not in FILES and "signed" not in name:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_bytes(content)
    made = []
    real = honesty_study.as_record

    def noted(check: Any, *, seconds: float) -> Any:
        made.append(check.name)
        return real(check, seconds=seconds)

    monkeypatch.setattr(honesty_study, "as_record", noted)
    result = honesty(models, run)
    assert result.exit_code == 0, result.output
    assert "continuing" in result.output
    assert "5 of 6 checks are done" in result.output
    assert made == ["signed-pixels"]
    assert (run / "growth.csv").read_bytes() == whole["growth.csv"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed", "1"), "a run with --seed 0, this one has 1"),
        (("--restarts", "2"), "the setting restarts 1, this one has 2"),
        (("--pairs", "0-2"), "the setting pairs ((0, 2), (1, 2)), this one has ((0, 2),)"),
        (("--epsilon", "0.4"), "the setting attacks"),
        (("--precision", "bfloat16"), "the setting precision 'float32', this one has 'bfloat16'"),
        (("--first", "59"), "a run with images with the hash"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    more: tuple[str, str], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = files_of(run)
    result = honesty(models, run, *more)
    assert result.exit_code == 2
    assert message in result.output
    assert files_of(run) == before


def test_another_network_in_the_same_folder_is_refused(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = files_of(run)
    result = honesty(models, run, after="before.safetensors")
    assert result.exit_code == 2
    assert "a run with AFTER's sha256" in result.output
    assert files_of(run) == before


def test_a_folder_that_holds_something_else_is_left_alone(models: Path, tmp_path: Path) -> None:
    before = files_of(models / "hardened")
    result = honesty(models, models / "hardened")
    assert result.exit_code == 2
    assert "holds card.json, model.arch.json, model.safetensors, but no honesty run" in (
        result.output
    )
    assert {k: v for k, v in files_of(models / "hardened").items() if k != ".lock"} == before
    (models / "hardened" / ".lock").unlink()
    (tmp_path / "run.json").write_text('{"kind": "distance"}')
    result = honesty(models, tmp_path)
    assert result.exit_code == 2
    assert "cannot be read as the manifest of a run of honesty checks" in result.output


def test_the_folder_of_a_hardening_is_taken_and_gives_the_same_figures(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    result = honesty(models, tmp_path / "run", after="hardened")
    assert result.exit_code == 0, result.output
    ours, whole = data_of(tmp_path / "run"), data_of(undisturbed[0])
    for name in ("accuracy", "inverters", "robustness", "curves"):
        assert ours[name] == whole[name]


def test_a_network_compared_with_itself_is_noted_and_has_not_changed(
    models: Path, tmp_path: Path
) -> None:
    quick = ("--patches", "none", "--epsilon", "none")
    result = honesty(models, tmp_path / "run", *quick, after="before.safetensors")
    assert result.exit_code == 0, result.output
    assert "note: both files are the same, byte for byte" in result.output
    data = data_of(tmp_path / "run")
    assert (data["accuracy"]["lost"], data["accuracy"]["gained"]) == (0, 0)
    assert data["growth_ratio"] == pytest.approx(1)
    assert (data["robustness"], data["curves"]) == ([], [])
    assert not (tmp_path / "run" / "patches.csv").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--pairs", "0-7"), "0-7 is no pair of two classes: the model has the classes 0 to 4"),
        (("--pairs", "0to1"), "--pairs: expected SOURCE-TARGET such as 0-1, got '0to1'"),
        (("--pairs", "none"), "--pairs: expected SOURCE-TARGET such as 0-1, got 'none'"),
        (("--pairs", "0-x"), "--pairs: expected whole numbers"),
        (("--epsilon", "8"), "epsilon must be in (0, 1]"),
        (("--epsilon", "8/0"), "--epsilon: expected numbers such as 0.5 or 8/255, got '8/0'"),
        (("--epsilon", "nan"), "epsilon must be in (0, 1]"),
        (("--epsilon", ""), "--epsilon: expected numbers such as 0.5 or 8/255, got ''"),
        (("--patches", "solid,round"), "--patches: expected some of solid, crop, optimised, got"),
        (("--patch-sizes", "4,13"), "expected sides from 1 to 12 pixels, which is the image's"),
        (("--patch-sizes", "none"), "expected sides from 1 to 12 pixels, which is the image's"),
        (("--patch-sizes", "4,b"), "--patch-sizes: expected whole numbers"),
        (("--first", "24"), "there is none of class 2: give examples of it, or leave crop out"),
        (("--first", "13"), "but there is only one of class 1"),
        (("--images-per-class", "1"), "and --images-per-class 1 allows one alone: expected at"),
        (("--first", "12"), "there is no example of class 1"),
        (("--examples", "nowhere"), "nowhere does not exist"),
        (("--arch-after", "resnet18"), "after.safetensors: the weights do not fit"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: Sequence[str], message: str, models: Path, tmp_path: Path
) -> None:
    result = honesty(models, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("", "AFTER: expected one model"),
        ("none.safetensors", "none.safetensors does not exist"),
        ("four.safetensors", "is labelled class 4, but the classes are 0 to 3"),
    ],
)
def test_a_second_network_that_does_not_fit_is_refused(
    after: str, message: str, models: Path, tmp_path: Path
) -> None:
    result = honesty(models, tmp_path / "run", after=after)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_networks_with_different_classes_are_no_two_states_of_one(
    models: Path, tmp_path: Path
) -> None:
    fewer = prototype_subject(classes=4).examples
    write_images(tmp_path / "images.npz", fewer)
    line = arguments(models, tmp_path / "run", after="four.safetensors")
    line += ["--examples", str(tmp_path / "images.npz"), "--arch-after", f"{__name__}:four_classes"]
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 2
    assert "has 5 classes and images of shape (3, 12, 12), AFTER" in result.output
    assert "has 4 and (3, 12, 12): expected the same network before and after" in result.output


def four_classes() -> torch.nn.Module:
    return Prototypes(4, torch.Generator().manual_seed(0), None)


@pytest.mark.parametrize("option", ["--arch", "--arch-after"])
@pytest.mark.parametrize("side", ["before", "after"])
def test_code_beside_either_model_is_not_run(
    side: str, option: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrusted = tmp_path / "untrusted"
    untrusted.mkdir()
    for name in ("model.safetensors", "model.arch.json"):
        (untrusted / name).write_bytes((models / "hardened" / name).read_bytes())
    (untrusted / "beside.py").write_text("open('ran', 'w').close()\ndef net(): ...\n")
    monkeypatch.chdir(untrusted)
    line = arguments(models, tmp_path / "run", option, "beside:net")
    line[1 if side == "before" else 2] = str(untrusted)
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 2
    assert "note: no code is imported from" in result.output
    assert not (untrusted / "ran").exists()


def labelled(*labels: int) -> Examples:
    return Examples(images=torch.zeros(len(labels), 1, 2, 2), labels=torch.tensor(labels))


def test_pairs_that_are_not_named_are_one_per_source_or_all_of_few() -> None:
    assert default_pairs(labelled(0, 1, 2, 3, 4), 5) == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0))
    assert default_pairs(labelled(4, 1, 1, 7), 9) == ((1, 4), (4, 7), (7, 1))
    few = default_pairs(labelled(0, 1, 2), 3)
    assert few == ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1))
    with pytest.raises(InputError, match="expected examples of at least two classes"):
        default_pairs(labelled(3, 3), 5)


def test_the_choice_of_pairs_is_told_and_all_takes_every_one(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty_study, "finished_checks", lambda *_, **__: iter(()))
    for pairs, count, told in (("", 5, True), ("all", 20, False)):
        run = tmp_path / f"run-{count}"
        result = honesty(models, run, "--pairs", pairs)
        assert result.exit_code == 0, result.output
        assert f": {count} pairs of classes" in result.output
        note = "no pairs were named: one pair per source class, each with the next class"
        assert (note in result.output) is told


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_goes_on_where_it_was(
    sign: signal.Signals, code: int, models: Path, tmp_path: Path, repository: Path
) -> None:
    run = tmp_path / "run"
    line = arguments(models, run, "--restarts", "4")
    with subprocess.Popen(
        [sys.executable, "-m", "moth_eval.cli", *line],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if (run / "checks" / "accuracy.json").is_file():
                break
            time.sleep(0.02)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    before = files_of(run / "checks")
    assert 0 < len([name for name in before if name.endswith(".json")]) < len(CHECKS)
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert "continuing" in result.output
    after = files_of(run / "checks")
    assert {name: after[name] for name in before if name.endswith(".json")} == {
        name: content for name, content in before.items() if name.endswith(".json")
    }
    assert data_of(run)["complete"] is True
