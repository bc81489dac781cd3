"""`--normalisation` and side-cars, from the command line to what is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import distance_study, false_positives, hardening, honesty_plan, removal, trojai
from benchmarks.distance_study import DistanceStudy
from benchmarks.false_positives import FalsePositivesStudy
from benchmarks.harden_plan import HardenStudy
from benchmarks.harden_plan import plan as plan_hardening
from benchmarks.hardening import HardeningStudy
from benchmarks.honesty_plan import HonestyStudy
from benchmarks.merging import merge
from benchmarks.removal import RemovalStudy
from benchmarks.removal_models import find_attacked
from benchmarks.trojai import TrojaiStudy
from moth_eval.cli import load_command, main
from moth_eval.distance import DistanceProtocol
from moth_eval.errors import RunError
from moth_eval.records import RunFolder
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
COMMANDS = (
    "trojai", "scan", "calibrate", "distance", "harden", "hardening", "removal",
    "false-positives", "honesty", "inject", "detector",
)  # fmt: skip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("normalisation") / "models"
    write_prototype_round(made, models=2)
    return made


def write_sidecar(models: Path, normalisation: object) -> None:
    content = {"architecture": "prototype_network", "normalisation": normalisation}
    (models / "model-0.arch.json").write_text(json.dumps(content))


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_that_opens_models_takes_a_normalisation(word: str, tmp_path: Path) -> None:
    [option] = [one for one in load_command(word).params if one.name == "normalisation"]
    assert option.opts == ["--normalisation"]
    refused = CliRunner().invoke(main, [word, "--normalisation", "0.5,0.5/1"])
    assert refused.exit_code == 2
    assert "a normalisation with 2 values as mean: expected one, or one for each" in refused.output
    unknown = CliRunner().invoke(main, [word, "--normalisation", "cifar"])
    assert "no normalisation 'cifar': expected one of unit, minmax, unit-bgr," in unknown.output
    assert list(tmp_path.iterdir()) == []


def scan_study(folder: Path, run: Path, **more: Any) -> TrojaiStudy:
    study = TrojaiStudy(
        models=folder, run=run, scanners=("weights",), architecture=ARCH, device="cpu", limit=1
    )
    return replace(study, **more)


def keys_of(study: TrojaiStudy) -> list[str]:
    return [task.key for task in trojai.plan(study).tasks]


def test_a_scan_under_another_normalisation_is_another_task(folder: Path, tmp_path: Path) -> None:
    names = ("", "unit", "minmax", "0.1,0.2,0.3/0.4,0.5,0.6")
    keys = [
        keys_of(scan_study(folder, tmp_path / str(i), normalisation=name))
        for i, name in enumerate(names)
    ]
    assert len({key for [key] in keys}) == len(names)


def test_a_changed_statement_of_a_side_car_is_another_task(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(folder, models)
    [unstated] = keys_of(scan_study(models, tmp_path / "run"))
    found = {unstated}
    for said in ("unit", "unit-half", {"mean": [0.5], "std": [0.25]}):
        write_sidecar(models, said)
        found.update(keys_of(scan_study(models, tmp_path / "run")))
    assert len(found) == 4
    [given] = keys_of(scan_study(models, tmp_path / "given", normalisation="unit"))
    assert given not in found
    write_sidecar(models, "minmax")
    assert keys_of(scan_study(models, tmp_path / "given", normalisation="unit")) == [given]


def test_a_scan_keeps_what_was_given_and_looks_at_nothing_else(
    folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = [
        "trojai", "--models", str(folder), "--arch", ARCH, "--device", "cpu", "--limit", "1",
        "--scanner", "weights", "--jobs", "1", "--threads", "1", "--out", str(run),
    ]  # fmt: skip
    given = ["--normalisation", "0.50,0.5,0.5/0.5,0.5,0.5"]
    result = CliRunner().invoke(main, [*command, *given])
    assert result.exit_code in (0, 1), result.output
    assert RunFolder(run).manifest().normalisation == "unit-half"
    [record] = RunFolder(run).records().values()
    assert record.normalisation == "unit-half"
    assert list(record.normalisations_tried) == ["unit-half"]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "a run with --normalisation 'unit-half', this one has ''" in again.output


def test_a_scan_takes_a_side_car_at_its_word_and_says_what_speaks_against_it(
    folder: Path, tmp_path: Path
) -> None:
    models, run = tmp_path / "models", tmp_path / "run"
    shutil.copytree(folder, models)
    write_sidecar(models, {"mean": [1.0], "std": [-1e-9]})
    study = scan_study(models, run)
    [wrong] = trojai.carry_out(trojai.plan(study), study, on_end=lambda _: None).values()
    assert wrong.status == "failed"
    assert wrong.reason.startswith("model-0 cannot be opened: its side-car is wrong: ")
    write_sidecar(models, {"mean": [500.0], "std": [1.0]})
    [record] = trojai.carry_out(trojai.plan(study), study, on_end=lambda _: None).values()
    assert record.status == "scored"
    assert record.normalisation == next(iter(record.normalisations_tried)) == "500/1"
    assert record.normalisations_tried["unit"] == 1.0
    assert record.doubts[0].startswith("the side-car states the normalisation 500/1, under which")
    assert record.doubts[0].endswith("--normalisation unit reads it so")


Plans = Callable[[Path, Path, str], Any]


def hardening_plan(folder: Path, run: Path, said: str) -> Any:
    return hardening.plan(
        HardeningStudy(
            models=folder, data=folder / "model-0.npz", run=run, architecture=ARCH, device="cpu",
            methods=("fine-tuning",), only=("model-0",), normalisation=said,
        )
    )  # fmt: skip


def removal_plan(folder: Path, run: Path, said: str) -> Any:
    return removal.plan(
        RemovalStudy(
            models=folder, data=folder / "model-0.npz", run=run, architecture=ARCH, device="cpu",
            methods=("fine-tuning",), seeds=(0,), only=("model-0",), normalisation=said,
        )
    )  # fmt: skip


def distance_plan(folder: Path, run: Path, said: str) -> Any:
    return distance_study.plan(
        DistanceStudy(
            model=folder / "model-0.safetensors", run=run, protocol=DistanceProtocol(),
            architecture=ARCH, device="cpu", normalisation=said,
        )
    )  # fmt: skip


def honesty_study_plan(folder: Path, run: Path, said: str) -> Any:
    return honesty_plan.plan(
        HonestyStudy(
            before=folder / "model-0.safetensors", after=folder / "model-1.safetensors", run=run,
            examples=folder / "model-0.npz", architecture=ARCH, device="cpu", normalisation=said,
        )
    )  # fmt: skip


def false_positives_plan(folder: Path, run: Path, said: str) -> Any:
    return false_positives.plan(
        FalsePositivesStudy(
            models=folder, run=run, scanner="nc", architecture=ARCH, device="cpu",
            normalisation=said,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    "make", [hardening_plan, removal_plan, distance_plan, honesty_study_plan, false_positives_plan]
)
def test_a_study_is_not_continued_under_another_normalisation(
    make: Plans, folder: Path, tmp_path: Path
) -> None:
    make(folder, tmp_path / "run", "minmax")
    make(folder, tmp_path / "run", "minmax")
    with pytest.raises(RunError, match=r"normalisation'? 'minmax', this one has 'unit-half'"):
        make(folder, tmp_path / "run", "unit-half")


def test_studies_hand_the_normalisation_to_all_that_opens_models(
    folder: Path, tmp_path: Path
) -> None:
    [cell] = hardening_plan(folder, tmp_path / "a", "minmax").cells
    assert cell.study.normalisation == "minmax"
    [removed] = removal_plan(folder, tmp_path / "b", "minmax").cells
    assert removed.study.normalisation == "minmax"
    assert removed.control.normalisation == "minmax"
    for before in find_attacked(folder, examples=folder, normalisation="minmax"):
        assert before.model.normalisation == "minmax"
    assert distance_plan(folder, tmp_path / "c", "minmax").manifest.normalisation == "minmax"
    plan = honesty_study_plan(folder, tmp_path / "d", "minmax")
    assert plan.before.preprocessing.name == plan.after.preprocessing.name == "minmax"
    tasks = false_positives_plan(folder, tmp_path / "e", "minmax").scan.tasks
    assert {task.model.normalisation for task in tasks} == {"minmax"}


def test_runs_under_different_normalisations_are_not_merged(folder: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run, name in zip(runs, ("unit", "minmax"), strict=True):
        trojai.plan(scan_study(folder, run, normalisation=name))
    with pytest.raises(RunError, match="normalisation is 'unit' there and 'minmax' here"):
        merge(runs, tmp_path / "both")


def test_a_hardening_trains_under_what_it_was_given_and_its_model_will_state_it(
    folder: Path, tmp_path: Path
) -> None:
    study = HardenStudy(
        model=folder / "model-0.safetensors", data=folder / "model-0.npz", run=tmp_path / "run",
        architecture=ARCH, device="cpu", normalisation="0.1,0.2,0.3/1", distance_pairs=0,
        method="fine-tuning",
    )  # fmt: skip
    plan = plan_hardening(study)
    assert plan.manifest.normalisation == "0.1,0.2,0.3/1"
    plan.reopening.save(tmp_path / "new.safetensors", plan.subject.module)
    content = json.loads((tmp_path / "new.arch.json").read_text())
    assert content["normalisation"] == {"mean": [0.1, 0.2, 0.3], "std": [1.0]}
