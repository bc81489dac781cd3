from __future__ import annotations

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import false_positives as study_module
from benchmarks import false_positives_command
from benchmarks.cells import Cell
from benchmarks.harden_data import Drawing, per_class
from moth_eval.cli import main
from moth_eval.loading.images import read_pictures
from moth_eval.records import RunFolder
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
MOTH = (
    "moth:rounds=4,warm_up_rounds=1,warm_up_steps=20,fresh_steps=20,inversion_images=8,"
    "inversion_batch=8,pairs_per_round=2,stamped=2,clean=10,recipe.shift=0"
)


def arguments(models: Path, out: Path, *more: str) -> list[str]:
    return [
        "false-positives", "--models", str(models), "--scanner", "nc:max_images=30",
        "--harden", MOTH, "--share", "0.5", "--arch", ARCH, "--device", "cpu", "--jobs", "2",
        "--threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def false_positives(models: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(models, out, *more))


def rows(run: Path) -> dict[str, dict[str, str]]:
    with (run / "false_positives.csv").open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("false-positives") / "models"
    write_prototype_round(folder, models=2)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, false_positives(models, out)


def test_flagged_models_are_hardened_and_scanned_again_and_no_others(
    undisturbed: tuple[Path, Result],
) -> None:
    run, result = undisturbed
    assert result.exit_code == 0, result.output
    found = rows(run)
    assert [row["poisoned"] for row in found.values()] == ["False", "True"]
    flagged = [name for name, row in found.items() if row["flagged_before"] == "True"]
    assert flagged == ["model-1"]
    assert found["model-1"]["score_after"] != found["model-1"]["score_before"]
    assert found["model-0"]["score_after"] == ""
    assert found["model-0"]["flagged_after"] == "False"
    for name in ("scan-again", "scan-after"):
        entries = RunFolder(run / name).manifest().entries
        assert [entry.name for entry in entries] == flagged
    assert "published cut of nc:max_images=30" in result.output


def test_a_scanner_without_a_cut_is_refused_before_anything_is_scanned(
    models: Path, tmp_path: Path
) -> None:
    result = false_positives(models, tmp_path / "run", "--scanner", "nc:statistic=size")
    assert result.exit_code == 2
    assert "scanner 'nc:statistic=size' has no cut" in result.output
    assert "give --threshold as a number" in result.output
    assert not (tmp_path / "run").exists()


def test_the_scan_before_is_the_one_that_trojai_makes(undisturbed: tuple[Path, Result]) -> None:
    run, _ = undisturbed
    result = CliRunner().invoke(main, ["report", str(run / "scan-before")])
    assert result.exit_code == 0
    assert "2 models under 1 scanner: 2 scored" in result.output


def test_the_hardened_model_is_scanned_as_the_original_was(
    undisturbed: tuple[Path, Result],
) -> None:
    run, _ = undisturbed
    before, after = (
        {r.model: r for r in RunFolder(run / name).records().values()}
        for name in ("scan-before", "scan-after")
    )
    one, other = before["model-1"], after["model-1"]
    same = ("scanner", "seed", "examples", "num_classes", "normalisation", "image_shape", "rule")
    assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
    assert one.sha256 != other.sha256
    # Another normalisation, chosen anew, would be another question.
    assert len(one.normalisations_tried) > 1
    assert list(other.normalisations_tried) == [one.normalisation]
    [card] = (run / "cells").glob("*/card.json")
    assert json.loads(card.read_text())["run"]["normalisation"] == one.normalisation


@pytest.mark.parametrize(
    ("data", "share", "trained"),
    [(False, None, 1.0), (True, None, 0.05), (False, 0.5, 0.5), (True, 0.5, 0.5)],
)
def test_a_models_own_examples_are_trained_on_whole_unless_asked_otherwise(
    data: bool, share: float | None, trained: float, models: Path, tmp_path: Path
) -> None:
    study = study_module.FalsePositivesStudy(
        models=models, run=tmp_path / "run", architecture=ARCH, device="cpu", share=share,
        data=models / "model-0.npz" if data else None,
    )  # fmt: skip
    plan = study_module.plan(study)
    assert plan.manifest.share == trained
    cell = study_module._cell(plan, study, plan.scan.tasks[0])
    assert cell.study.share == trained
    pictures = read_pictures(cell.study.data, layout="files", crop=None, num_classes=5)
    drawn = Drawing(share=cell.study.share, seed=0).training(pictures)
    of_a_class = {1.0: 10, 0.05: 1, 0.5: 5}[trained]  # of 12, of which 2 are held out
    assert per_class(drawn.examples(), 5) == (of_a_class,) * 5


def test_the_command_leaves_the_share_to_the_study(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[study_module.FalsePositivesStudy]()
    monkeypatch.setattr(
        false_positives_command, "run_study", lambda context, study: asked.append(study) or 0
    )
    command = ["false-positives", "--models", str(models), "--out", str(tmp_path / "run")]
    for more in ([], ["--share", "0.2"]):
        assert CliRunner().invoke(main, [*command, *more]).exit_code == 0
    assert [study.share for study in asked] == [None, 0.2]


def test_the_same_command_again_does_nothing_and_gives_the_same_bytes(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    again = false_positives(models, run)
    assert again.exit_code == 0
    assert "scanning: 2 of 2 done" in again.output
    assert "scanning hardened: 1 of 1 done" in again.output
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_the_answers_reach_neither_a_scan_nor_a_hardening(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = tmp_path / "solutions.csv"
    truth.write_text("model_name,poisoned\nmodel-0,True\nmodel-1,True\n")
    bare = tmp_path / "models"
    bare.mkdir()
    for path in models.glob("model-*"):
        (bare / path.name).write_bytes(path.read_bytes())
    cells: list[Cell] = []
    monkeypatch.setattr(
        study_module, "run_cells", lambda waiting, *_, **__: iter(cells.extend(waiting) or [])
    )
    monkeypatch.setattr("moth_eval.calls.called_as", lambda: ("--ground-truth", str(truth)))
    result = false_positives(bare, tmp_path / "run", "--ground-truth", str(truth))
    assert result.exit_code == 3, result.output
    assert [row["poisoned"] for row in rows(tmp_path / "run").values()] == ["True", "True"]
    assert [cell.model for cell in cells] == ["model-1"]
    handed = pickle.dumps(cells)
    assert b"solutions" not in handed
    assert b"poisoned" not in handed
    for name in ("scan-again", "scan-after"):
        manifest = RunFolder(tmp_path / "run" / name).manifest()
        assert not any(entry.truth for entry in manifest.entries)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_new_model_that_is_gone_or_altered_is_no_answer_and_not_the_end(
    damage: str, models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed[0], run)
    shutil.rmtree(run / "scan-after")
    [weights] = run.glob("cells/*/model.safetensors")
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes((models / "model-0.safetensors").read_bytes())
    result = false_positives(models, run)
    assert result.exit_code == 3
    row = rows(run)["model-1"]
    assert (row["verdict"], row["flagged_after"]) == ("no second answer", "")
    assert row["reason"]
    assert "no second answer, in no rate: model-1" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--threshold", "3"), "a run with threshold None, this one has 3.0"),
        (("--scanner", "nc:max_images=20"), "a run with scanner 'nc:max_images=30'"),
        (("--harden", "universal"), "a run with method"),
        (("--seed", "1"), "a run with seed 0, this one has 1"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_nothing_is_touched(
    more: tuple[str, str], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = (run / "scan-before" / "run.json").read_bytes()
    result = false_positives(models, run, *more)
    assert result.exit_code == 2
    assert message in result.output
    assert (run / "scan-before" / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--threshold", "high"), "--threshold: expected a number or 'published', got 'high'"),
        (("--threshold", "nan"), "--threshold must be 'published' or a number"),
        (("--harden", "moss"), "unknown name 'moss'"),
        (("--harden", "moth:stamped=0"), "--harden moth:stamped=0: expected at least 1, got"),
        (("--scanner", "moss"), "unknown name 'moss'"),
        (("--data", "nowhere"), "nowhere does not exist"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: tuple[str, str], message: str, models: Path, tmp_path: Path
) -> None:
    result = false_positives(models, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_while_it_hardens_ends_with_the_same_verdicts(
    sign: signal.Signals,
    code: int,
    models: Path,
    undisturbed: tuple[Path, Result],
    tmp_path: Path,
    repository: Path,
) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-m", "moth_eval.cli", *arguments(models, run)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 240
        while time.monotonic() < until and process.poll() is None:
            if list(run.glob("cells/*/unfinished")):
                break
            time.sleep(0.005)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    result = false_positives(models, run)
    assert result.exit_code == 0, result.output
    assert "scanning: 2 of 2 done" in result.output
    one, other = rows(run), rows(undisturbed[0])
    for name in one:
        for column in ("verdict", "accuracy_after", "flagged_again", "flagged_after"):
            assert one[name][column] == other[name][column]
