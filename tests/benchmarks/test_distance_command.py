from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moth_eval.cli import main
from moth_eval.distance_records import DistanceFolder, encode_record
from moth_eval.inversion.presets import FAST
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
PAIRS = "0-2,2-0,1-3"


def arguments(models: Path, run: Path, *more: str) -> list[str]:
    return [
        "distance", str(models / "model-1.safetensors"), "--examples",
        str(models / "model-1.npz"), "--arch", ARCH, "--device", "cpu", "--samples", "8",
        "--seeds", "1,2", "--out", str(run), *more,
    ]  # fmt: skip


def distance(models: Path, run: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(models, run, *more))


def data_of(run: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run / "distance.json").read_text())
    return data


def ledger(run: Path) -> list[str]:
    """Pair and seed of every line, in order of writing."""
    lines = [
        json.loads(line.partition(" ")[2])
        for path in sorted((run / "ledger").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [f"{line['source']}-{line['target']}-{line['seed']}" for line in lines]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distance") / "models"
    write_prototype_round(folder, models=2)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return run, distance(models, run, "--pairs", PAIRS)


def test_rows_that_took_more_passes_than_their_images_allow_are_not_gone_on_with(
    models: Path, tmp_path: Path, undisturbed: tuple[Path, Result]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed[0], run)
    record = next(iter(DistanceFolder(run).records().values()))
    longer = record.model_copy(update={"steps": 9999})
    (run / "ledger" / "zzz.jsonl").write_bytes(encode_record(longer))
    result = distance(models, run, "--pairs", PAIRS)
    assert result.exit_code == 2
    assert "holds 9999 steps for" in result.output
    assert "an earlier version made them; measure into another --out" in result.output


def test_the_planted_target_is_the_closest_and_every_file_is_there(
    undisturbed: tuple[Path, Result],
) -> None:
    run, result = undisturbed
    assert result.exit_code == 0, result.output
    data = data_of(run)
    assert data["complete"] is True
    assert data["summary"]["smallest_pair"] == [0, 2]
    assert (data["summary"]["pairs"], data["summary"]["measured"]) == (3, 3)
    assert "3 of 3 pairs have a distance, 0 failed, 0 pending" in result.output
    assert "100/100  % of the steps; 6 of 6 inversions done" in result.output
    expected = "distance.csv distance.json distance.png distance.svg triggers.png run.json"
    assert {path.name for path in run.iterdir()} >= set(expected.split())
    assert len(list((run / "triggers").glob("*.npz"))) == 3


def test_the_manifest_says_what_was_measured_and_how(undisturbed: tuple[Path, Result]) -> None:
    manifest = json.loads((undisturbed[0] / "run.json").read_text())
    assert manifest["kind"] == "distance"
    assert len(manifest["sha256"]) == len(manifest["examples_sha256"]) == 64
    schedule = manifest["protocol"].pop("schedule")
    assert (schedule["steps"], schedule["success_rate"]) == (FAST.steps, 0.9)
    assert manifest["protocol"] == {
        "preset": "fast", "samples": 8, "seeds": [1, 2], "success_rate": 0.9,
        "precision": "float32",
    }  # fmt: skip
    assert manifest["pairs"] == [[0, 2], [1, 3], [2, 0]]
    assert manifest["clean_accuracy"] > 0.9
    assert {"torch", "moth-eval", "python"} <= manifest["versions"].keys()


def test_the_same_command_again_measures_nothing_and_gives_the_same_bytes(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    lines = ledger(run)
    again = distance(models, run, "--pairs", PAIRS)
    assert again.exit_code == 0
    assert "6 of 6 inversions are done" in again.output
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    assert ledger(run) == lines


def test_a_torn_line_is_measured_again_and_nothing_else(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    whole = undisturbed[0]
    run = tmp_path / "run"
    (run / "ledger").mkdir(parents=True)
    (run / "run.json").write_bytes((whole / "run.json").read_bytes())
    [file] = (whole / "ledger").glob("*.jsonl")
    (run / "ledger" / file.name).write_bytes(file.read_bytes()[:-20])
    torn = ledger(whole)[-1]
    result = distance(models, run, "--pairs", PAIRS)
    assert result.exit_code == 0, result.output
    assert "continuing" in result.output
    [new] = [path for path in (run / "ledger").glob("*.jsonl") if path.name != file.name]
    [line] = new.read_text().splitlines()
    again = json.loads(line.partition(" ")[2])
    assert f"{again['source']}-{again['target']}-{again['seed']}" == torn
    for one, other in zip(data_of(run)["pairs"], data_of(whole)["pairs"], strict=True):
        assert one["distance"] == pytest.approx(other["distance"], rel=0.05)


def test_pairs_can_be_added_to_a_run(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert distance(models, run, "--pairs", "0-2").exit_code == 0
    result = distance(models, run, "--pairs", "3-2")
    assert result.exit_code == 0, result.output
    assert sorted(ledger(run)) == ["0-2-1", "0-2-2", "3-2-1", "3-2-2"]
    assert data_of(run)["summary"]["measured"] == 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--samples", "9"), "the protocol's samples 8, this one has 9"),
        (("--seeds", "1,3"), r"the protocol's seeds (1, 2), this one has (1, 3)"),
        (("--preset", "paper"), "the protocol's preset 'fast', this one has 'paper'"),
        (("--first", "55"), "holds a run with images with the hash"),
    ],
)
def test_another_protocol_in_the_same_folder_is_refused(
    more: tuple[str, str], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    lines = ledger(run)
    result = distance(models, run, "--pairs", PAIRS, *more)
    assert result.exit_code == 2
    assert message in result.output
    assert ledger(run) == lines


def test_a_schedule_that_has_changed_since_is_another_protocol(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    manifest = json.loads((undisturbed[0] / "run.json").read_text())
    manifest["protocol"]["schedule"]["steps"] = 77
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    result = distance(models, tmp_path, "--pairs", PAIRS)
    assert result.exit_code == 2
    assert "the protocol's schedule" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--pairs", "0-7"), "0-7 is no pair of two classes: the model has the classes 0 to 4"),
        (("--pairs", "0to1"), "--pairs: expected SOURCE-TARGET such as 0-1, got '0to1'"),
        (("--pairs", "0-x"), "--pairs: expected whole numbers"),
        (("--seeds", "1,b"), "--seeds: expected whole numbers such as 1,2,3, got 'b'"),
        (("--stability", "3"), "--stability draws its own seeds"),
        (("--first", "24"), "there is no example of class 2"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: tuple[str, str], message: str, models: Path, tmp_path: Path
) -> None:
    result = distance(models, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_a_folder_of_several_models_is_refused(models: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["distance", str(models), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "expected one model" in result.output


def test_a_stability_study_leaves_means_and_deviations(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = [word for word in arguments(models, run) if word not in ("--seeds", "1,2")]
    result = CliRunner().invoke(main, [*line, "--pairs", "0-2", "--stability", "3"])
    assert result.exit_code == 0, result.output
    assert "over 3 sets" in result.output
    data = data_of(run)
    assert data["stability"]["sets"] == 3
    assert data["stability"]["mean_deviation"] > 0
    assert (run / "distance-std.csv").is_file()


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_goes_on_where_it_was(
    sign: signal.Signals, code: int, models: Path, tmp_path: Path, repository: Path
) -> None:
    run = tmp_path / "run"
    # Enough seeds that rows are still waiting when the first of them are finished.
    seeds = ",".join(map(str, range(1, 15)))
    line = [*arguments(models, run, "--pairs", "0-2,2-0"), "--seeds", seeds]
    with subprocess.Popen(
        [sys.executable, "-m", "moth_eval.cli", *line],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if any(path.stat().st_size for path in (run / "ledger").glob("*.jsonl")):
                break
            time.sleep(0.02)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    before = ledger(run)
    assert 0 < len(before) < 28
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    after = ledger(run)
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 28
    assert data_of(run)["complete"] is True
