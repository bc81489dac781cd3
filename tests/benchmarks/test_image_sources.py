"""Every study takes the images that its user has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from torchvision import datasets

from benchmarks import (
    distance_study,
    false_positives,
    harden_plan,
    hardening,
    honesty_plan,
    removal,
    trojai,
)
from benchmarks.study_files import read_study
from moth_eval.cli import main
from moth_eval.distance import DistanceProtocol
from moth_eval.errors import InputError
from moth_eval.loading import preprocessing, subjects
from moth_eval.loading.sources import ImageSource, parse_source
from moth_eval.pictures import Pictures
from moth_eval.subject import Examples
from tests.support.subjects import write_prototype_round
from tests.support.torchvision_sets import Squares

ARCH = "tests.support.subjects:prototype_network"
COMMON: dict[str, Any] = {"architecture": ARCH, "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, and its images as a data set of torchvision."""
    monkeypatch.setattr(datasets, "Squares", Squares, raising=False)
    write_prototype_round(tmp_path / "models", models=1)
    arrays = np.load(tmp_path / "models" / "model-0.npz")
    for name, rows in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        images, labels = arrays["images"][rows], arrays["labels"][rows]
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)
    (tmp_path / "models" / "model-0.npz").unlink()
    return tmp_path


def plan_harden(data: ImageSource, test: ImageSource | None, folder: Path) -> list[object]:
    model = folder / "models" / "model-0.safetensors"
    study = harden_plan.HardenStudy(
        model=model, data=data, test=test, run=folder / "out", share=0.5, **COMMON
    )
    record = harden_plan.plan(study).manifest.data
    assert (record.given, record.tested, record.held_out) == (30, 30, None)
    return [record.training_sha256, record.test_sha256]


def plan_distance(data: ImageSource, test: ImageSource | None, folder: Path) -> list[object]:
    model = folder / "models" / "model-0.safetensors"
    study = distance_study.DistanceStudy(
        model=model, examples=test, run=folder / "out", first=27,
        protocol=DistanceProtocol(), **COMMON
    )  # fmt: skip
    return [distance_study.plan(study).manifest.examples_sha256]


def plan_honesty(data: ImageSource, test: ImageSource | None, folder: Path) -> list[object]:
    assert test is not None
    model = folder / "models" / "model-0.safetensors"
    study = honesty_plan.HonestyStudy(
        before=model, after=model, examples=test, first=27, run=folder / "out", **COMMON
    )
    honesty_plan.plan(study)
    return [honesty_plan.HonestyFolder(folder / "out").manifest().examples_sha256]


Plan = Callable[[ImageSource, ImageSource | None, Path], list[object]]


@pytest.mark.parametrize("plan", [plan_harden, plan_distance, plan_honesty])
def test_a_data_set_of_torchvision_gives_the_same_images_as_its_arrays(
    folder: Path, plan: Plan
) -> None:
    arrays = plan(folder / "train.npz", folder / "test.npz", folder)
    named = f"torchvision:Squares:{folder}"
    test = None if plan is plan_harden else parse_source(named, training=False)
    assert plan(parse_source(named, training=True), test, folder) == arrays


@pytest.mark.parametrize(
    ("plan", "used"), [(plan_harden, [15, 30]), (plan_distance, [27]), (plan_honesty, [27, 27])]
)
def test_only_images_that_are_used_become_floats(
    folder: Path, plan: Plan, used: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocessing, "ENOUGH", 3)
    monkeypatch.setattr(subjects, "_REPEATED", 2)
    converted: list[int] = []
    honest = Pictures.examples

    def counted(pictures: Pictures) -> Examples:
        converted.append(len(pictures))
        return honest(pictures)

    monkeypatch.setattr(Pictures, "examples", counted)
    plan(folder / "train.npz", folder / "test.npz", folder)
    assert [count for count in converted if count > 3] == used


def test_studies_of_many_models_take_its_parts_and_go_on_only_with_the_same_pictures(
    folder: Path,
) -> None:
    data = parse_source(f"torchvision:Squares:{folder}", training=True)
    models = folder / "models"
    hardened = hardening.plan(
        hardening.HardeningStudy(models=models, data=data, run=folder / "hardening", **COMMON)
    )
    repaired = removal.plan(
        removal.RemovalStudy(models=models, data=data, run=folder / "removal", **COMMON)
    )
    for manifest in (hardened.manifest, repaired.manifest):
        assert (manifest.data, manifest.test) == (str(data), str(data))
        assert manifest.data_sha256 != manifest.test_sha256
    for study in (hardened.cells[0].study, repaired.cells[0].study):
        assert (study.data, study.test) == (
            parse_source(str(data), training=True),
            parse_source(str(data), training=False),
        )
    flagged = false_positives.plan(
        false_positives.FalsePositivesStudy(
            models=models, data=data, run=folder / "flagged", **COMMON
        )
    )
    assert flagged.manifest.data_sha256 == hardened.manifest.data_sha256
    assert flagged.scan.tasks[0].data_sha256 == hardened.manifest.data_sha256


def test_a_scan_takes_the_pictures_that_models_were_not_trained_on(folder: Path) -> None:
    data = parse_source(f"torchvision:Squares:{folder}", training=False)
    study = trojai.TrojaiStudy(
        models=folder / "models", examples=data, run=folder / "scan", **COMMON
    )
    planned = trojai.plan(study)
    assert planned.manifest.examples == str(data)
    assert planned.tasks[0].model.examples == data
    assert planned.tasks[0].model.examples_named


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "torchvision:CIFAR10"], "expected torchvision:NAME:FOLDER, such as"),
        (["--data", "torchvision:CIFAR10:absent"], "absent is not there: expected torchvision"),
        (["--data", "absent.npz"], "absent.npz does not exist; name an existing file or folder"),
    ],
)
def test_what_is_not_there_is_said_by_the_command(
    folder: Path, words: list[str], message: str
) -> None:
    model = str(folder / "models" / "model-0.safetensors")
    result = CliRunner().invoke(
        main, ["harden", model, *words, "--arch", ARCH, "--out", str(folder / "out")]
    )
    assert result.exit_code == 2
    assert message in result.output


def test_images_in_a_study_file_are_named_by_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('[hardening]\nmodels = "m"\nout = "o"\ndata = "torchvision:MNIST:/data"\n')
    [(word, line)] = read_study(path)
    assert word == "hardening"
    assert "torchvision:MNIST:/data" in " ".join(line)
    path.write_text('[hardening]\nmodels = "m"\nout = "o"\ndata = 3\n')
    with pytest.raises(InputError, match="data"):
        read_study(path)
