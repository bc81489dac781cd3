from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.rules import require_rules
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.records import RunFolder
from moth_eval.scan_calibration import read_calibration
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
FAST = "nc:max_images=30"
COMMON = ("--arch", ARCH, "--device", "cpu", "--scanner", FAST, "--jobs", "1", "--threads", "1")


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words), *COMMON])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models of which the second and fourth have a backdoor, and `clean` with three others."""
    folder = tmp_path_factory.mktemp("scan")
    write_prototype_round(folder / "suspects")
    write_prototype_round(folder / "more", models=6)
    (folder / "clean").mkdir()
    for number in (0, 2, 4):
        for path in (folder / "more").glob(f"model-{number}.*"):
            path.rename(folder / "clean" / path.name)
    return folder


@pytest.fixture(scope="module")
def calibration(folder: Path) -> Path:
    out = folder / "calibration.json"
    result = call("calibrate", "--models", folder / "clean", "--out", out, "--run", folder / "crun")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-2:] == [
        f"{FAST}, 5 classes, 3x12x12, prototype_network: 3 clean models; promises no budget below "
        "0.25",
        f"wrote {out}",
    ]
    return out


@pytest.fixture(scope="module")
def scanned(folder: Path) -> Result:
    return call("scan", folder / "suspects", "--out", folder / "run")


def test_suspects_are_graded_without_their_truth(folder: Path, scanned: Result) -> None:
    assert scanned.exit_code == 1, scanned.output
    data = json.loads((folder / "run" / "verdicts.json").read_text())
    graded = {one["model"]: one["grade"] for one in data["models"]}
    assert graded["model-1"] == graded["model-3"] == "suspicious"
    assert "backdoored" not in graded.values()
    # truth.csv lies beside the models, and plays no part.
    assert all(entry.truth is None for entry in RunFolder(folder / "run").manifest().entries)
    assert not (folder / "run" / "roc.csv").exists()


def test_the_same_command_again_scans_nothing_and_judges_anew(
    folder: Path, scanned: Result
) -> None:
    again = call("scan", folder / "suspects", "--out", folder / "run", "--policy", "0.3")
    assert f"continuing {folder / 'run'}: 4 of 4 tasks are done" in again.output
    data = json.loads((folder / "run" / "verdicts.json").read_text())
    assert data["policy"] == {"backdoored": 0.3, "suspicious": 0.5}


def test_models_that_are_gone_are_no_longer_judged_and_a_study_takes_the_folder_over(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("model-0", "model-1"):
        for path in (folder / "suspects").glob(f"{name}.*"):
            (tmp_path / "models").mkdir(exist_ok=True)
            (tmp_path / "models" / path.name).write_bytes(path.read_bytes())
    run = tmp_path / "run"
    first = call("scan", tmp_path / "models", "--out", run)
    assert first.exit_code == 1, first.output
    for path in (tmp_path / "models").glob("model-1.*"):
        path.unlink()
    second = call("scan", tmp_path / "models", "--out", run)
    assert second.exit_code == 0, second.output
    data = json.loads((run / "verdicts.json").read_text())
    assert [one["model"] for one in data["models"]] == ["model-0"]
    # All that was scanned is still there, for a study that asks for it.
    study = call("trojai", "--models", tmp_path / "models", "--out", run)
    assert "\n2 models under " in study.output
    assert "no evidence found" not in study.output
    assert not (run / "policy.json").exists()
    assert {record.model for record in RunFolder(run).records().values()} == {"model-0", "model-1"}


def test_clean_models_set_the_threshold(folder: Path, calibration: Path) -> None:
    known = read_calibration(calibration)
    [group] = known.scanners[FAST].groups.values()
    assert len(group.scores) == 3
    result = call(
        "scan", folder / "suspects", "--out", folder / "calibrated", "--calibration", calibration,
        "--policy", "0.25", "--json",
    )  # fmt: skip
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    graded = {one["model"]: one["grade"] for one in data["models"]}
    assert graded["model-1"] == graded["model-3"] == "backdoored"
    assert data["models"][1]["scanners"][0]["p_value"] == 0.25


def test_backdoored_models_are_no_calibration(folder: Path, tmp_path: Path) -> None:
    out, run = tmp_path / "c.json", tmp_path / "run"
    result = call("calibrate", "--models", folder / "suspects", "--out", out, "--run", run)
    assert result.exit_code == 2
    assert "expected clean models only, got 2 of 4 that are backdoored by their" in result.output
    assert "(model-1, model-3): move them elsewhere" in result.output
    assert not out.exists()
    assert not run.exists()


def test_a_scanner_that_was_calibrated_otherwise_is_refused(
    folder: Path, calibration: Path, tmp_path: Path
) -> None:
    words = [
        "scan", str(folder / "suspects"), "--calibration", str(calibration), "--arch", ARCH,
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, [*words, "--scanner", "nc"])
    assert result.exit_code == 2
    assert f"the calibration has no scanner 'nc': expected one of {FAST}" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_models_are_one_scan_and_namesakes_go_by_their_folder(
    folder: Path, tmp_path: Path
) -> None:
    one, other = folder / "suspects" / "model-0.safetensors", folder / "clean"
    result = call("scan", one, other, "--out", tmp_path / "run", "--junit", tmp_path / "j.xml")
    assert result.exit_code in (0, 1), result.output
    names = [entry.name for entry in RunFolder(tmp_path / "run").manifest().entries]
    assert names == ["clean-model-0", "model-2", "model-4", "suspects-model-0"]
    assert (tmp_path / "j.xml").is_file()


def test_a_folder_and_a_model_in_it_are_scanned_once(folder: Path, tmp_path: Path) -> None:
    one = folder / "clean" / "model-0.safetensors"
    result = call("scan", one, folder / "clean", "--out", tmp_path / "run")
    assert result.exit_code in (0, 1), result.output
    names = [entry.name for entry in RunFolder(tmp_path / "run").manifest().entries]
    assert names == ["model-0", "model-2", "model-4"]


def test_images_for_all_models_are_wrong_once_and_before_anything_is_scanned(
    folder: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "odd.npz", images=np.zeros((2, 12, 12, 3), np.uint8))
    result = call(
        "scan", folder / "suspects", "--out", tmp_path / "run", "--examples", tmp_path / "odd.npz"
    )
    assert result.exit_code == 2
    assert result.output.count("odd.npz") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_without_any_answer_is_said_to_be_no_loss(folder: Path, tmp_path: Path) -> None:
    words = ("scan", folder / "suspects" / "model-0.safetensors", "--out", tmp_path / "run")
    fast = ("--device", "cpu", "--scanner", "weights", "--jobs", "1", "--threads", "1")
    bare = CliRunner().invoke(main, [*map(str, (*words, *fast))])
    assert bare.exit_code == 3, bare.output
    again = call(*words)
    assert again.exit_code == 2
    assert "no model has an answer in it: remove that folder, or choose another --out" in (
        again.output
    )


@pytest.mark.parametrize("option", ["--sarif", "--junit"])
def test_a_place_that_cannot_be_written_to_is_named_before_anything_is_scanned(
    option: str, folder: Path, tmp_path: Path
) -> None:
    result = call("scan", folder / "suspects", "--out", tmp_path / "run", option, "/proc/none/file")
    assert result.exit_code == 2
    assert f"{option}: /proc/none/file cannot be written: " in result.output
    assert not (tmp_path / "run").exists()


def test_a_calibration_that_cannot_be_written_is_named_before_anything_is_scanned(
    folder: Path, tmp_path: Path
) -> None:
    words = ("--out", "/proc/none/c.json", "--run", tmp_path / "run")
    result = call("calibrate", "--models", folder / "clean", *words)
    assert result.exit_code == 2
    assert "--out: /proc/none/c.json cannot be written: " in result.output
    assert not (tmp_path / "run").exists()


def test_models_with_images_that_are_not_theirs_are_no_part_of_a_calibration(
    folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("model-0", "model-2"):
        for path in (folder / "clean").glob(f"{name}.*"):
            (models / path.name).write_bytes(path.read_bytes())
    with np.load(models / "model-2.npz") as stored:
        odd = {**stored, "labels": (stored["labels"] + 1) % 5}
    np.savez(models / "model-2.npz", **odd)
    words = ("--out", tmp_path / "c.json", "--run", tmp_path / "r")
    result = call("calibrate", "--models", models, *words)
    assert result.exit_code == 3, result.output
    assert f"model-2, {FAST}: only 0 % of the clean examples are classified rightly" in (
        result.stderr
    )
    assert "1 clean models, 1 left out; promises no budget below 0.5" in result.output
    [group] = read_calibration(tmp_path / "c.json").scanners[FAST].groups.values()
    assert (len(group.scores), len(group.models), group.unanswered) == (1, 1, 1)
    assert group.examples == (60,)


def test_a_run_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    result = call("scan", folder / "suspects", "--out", "/proc/run")
    assert result.exit_code == 2
    assert "the run folder /proc/run cannot be made: " in result.output
    assert "give another --out" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--policy", "2"), "--policy: expected one or two fractions"),
        (("--calibration", "nowhere.json"), "nowhere.json: no readable calibration"),
    ],
)
def test_bad_input_is_named_and_leaves_no_folder(
    more: tuple[str, str], message: str, folder: Path, tmp_path: Path
) -> None:
    result = call("scan", folder / "suspects", "--out", tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("scanner", "message"),
    [
        (
            "trodo",
            "scanner 'trodo' has no cut: one network has nothing to hold its growth of confidence "
            "against, so that the cut has to come from clean models; calibrate it on clean models "
            "and give --calibration",
        ),
        ("nc:statistic=size", "scanner 'nc:statistic=size' has no cut"),
    ],
)
def test_a_scanner_without_a_cut_is_refused_before_it_scans(
    scanner: str, message: str, folder: Path, tmp_path: Path
) -> None:
    words = ["scan", str(folder / "suspects"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*words, "--scanner", scanner])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_a_scanner_without_a_cut_may_scan_beside_one_that_has_one() -> None:
    require_rules(["trodo", "nc"], instead="calibrate")
    with pytest.raises(InputError, match=r"scanner 'trodo' has no cut: .*; calibrate"):
        require_rules(["trodo", "nc:statistic=size"], instead="calibrate")


@pytest.mark.slow
def test_clean_models_without_an_answer_leave_a_calibration_and_exit_code_3(
    folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for path in (folder / "clean").glob("model-0.*"):
        (models / path.name).write_bytes(path.read_bytes())
    (models / "broken.pt").write_bytes(b"no model")
    (models / "broken.npz").write_bytes((models / "model-0.npz").read_bytes())
    result = call(
        "calibrate", "--models", models, "--out", tmp_path / "c.json", "--run", tmp_path / "r"
    )
    assert result.exit_code == 3
    assert "broken" in result.output
    [group] = read_calibration(tmp_path / "c.json").scanners[FAST].groups.values()
    assert len(group.scores) == 1


@pytest.mark.slow
def test_nothing_is_calibrated_on_nothing(folder: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "broken.pt").write_bytes(b"no model")
    (models / "broken.npz").write_bytes((folder / "clean" / "model-0.npz").read_bytes())
    result = call(
        "calibrate", "--models", models, "--out", tmp_path / "c.json", "--run", tmp_path / "r"
    )
    assert result.exit_code == 2
    assert "no clean model has a score" in result.output
    assert not (tmp_path / "c.json").exists()
