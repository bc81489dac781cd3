from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.sittings import exclusively
from benchmarks.trojai import TrojaiStudy, plan
from moth_eval.cli import main
from moth_eval.loading.files import MODEL_SUFFIXES, sha256_of
from moth_eval.records import RunFolder
from reports.tables import TIMING_COLUMNS
from tests.support.hostile import write_hostile_files
from tests.support.hostile_writers import CANARY
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
FAST = "nc:max_images=30"


HEEDING_SIGINT = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("moth_eval.cli", run_name="__main__")
"""
"""A shell starts its background jobs with SIGINT ignored, and children inherit that."""


def arguments(models: Path, run: Path, *more: str) -> list[str]:
    return [
        "trojai", "--models", str(models), "--out", str(run), "--arch", ARCH, "--device", "cpu",
        "--scanner", FAST, "--ground-truth", str(models / "truth.csv"), *more,
    ]  # fmt: skip


def trojai(models: Path, run: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(models, run, *more))


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in TIMING_COLUMNS}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round") / "models"
    write_prototype_round(folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    return run, trojai(models, run)


def test_the_main_job_separates_backdoored_from_clean_models(
    undisturbed: tuple[Path, Result],
) -> None:
    run, result = undisturbed
    assert result.exit_code == 1, result.output
    table = rows(run)
    assert [row["status"] for row in table] == ["scored"] * 4
    scores = {row["poisoned"]: [] for row in table}
    for row in table:
        scores[row["poisoned"]].append(float(row["score"]))
    clean, poisoned = (scores[key] for key in sorted(scores))
    assert min(poisoned) > max(clean)
    assert [row["suspected_target"] for row in table if row["model"] in ("model-1", "model-3")] == [
        "2", "2",
    ]  # fmt: skip


def test_the_main_job_leaves_every_file_that_is_promised(undisturbed: tuple[Path, Result]) -> None:
    run, _ = undisturbed
    expected = "results.csv metrics.csv roc.csv roc.png roc.svg confusion.csv report.html run.json"
    assert all((run / name).stat().st_size > 0 for name in expected.split())
    [first, *_] = sorted((run / "triggers").glob("model-1--*.npz"))
    with np.load(first, allow_pickle=False) as arrays:
        assert arrays["masks"].shape == (5, 1, 12, 12)
        assert arrays["patterns"].shape == (5, 3, 12, 12)
    assert len(list((run / "triggers").glob("*.png"))) == 4


def test_the_ground_truth_is_in_the_manifest_and_in_no_record(
    undisturbed: tuple[Path, Result],
) -> None:
    folder = RunFolder(undisturbed[0])
    assert [e.truth.poisoned for e in folder.manifest().entries if e.truth] == [
        False, True, False, True,
    ]  # fmt: skip
    assert all("poisoned" not in r.model_dump() for r in folder.records().values())


def test_the_same_command_again_recomputes_nothing(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = {p.name: p.read_bytes() for p in (run / "ledger").iterdir()}
    again = trojai(models, run)
    assert again.exit_code == 1
    assert "4 of 4 tasks are done" in again.output
    after = {p.name: p.read_bytes() for p in (run / "ledger").iterdir() if p.stat().st_size}
    assert after == before


def test_a_continued_run_says_by_what_it_was_last_carried_out(models: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trojai(models, run, "--limit", "1")
    manifest = json.loads((run / "run.json").read_text())
    stale = {**manifest, "versions": {**manifest["versions"], "torch": "0.1"}}
    (run / "run.json").write_text(json.dumps(stale))
    trojai(models, run)
    now = json.loads((run / "run.json").read_text())
    assert now["versions"] == manifest["versions"]
    assert now["created"] == manifest["created"]


def test_a_limited_run_is_continued_by_a_larger_one(
    models: Path, tmp_path: Path, undisturbed: tuple[Path, Result]
) -> None:
    run = tmp_path / "run"
    trojai(models, run, "--limit", "2")
    assert len(rows(run)) == 2
    trojai(models, run)
    assert rows(run) == rows(undisturbed[0])


def test_the_number_of_jobs_changes_nothing(
    models: Path, tmp_path: Path, undisturbed: tuple[Path, Result]
) -> None:
    trojai(models, tmp_path / "run", "--jobs", "1", "--threads", "1")
    assert rows(tmp_path / "run") == rows(undisturbed[0])


def test_a_run_killed_in_the_middle_ends_like_an_undisturbed_one(
    models: Path, tmp_path: Path, undisturbed: tuple[Path, Result], repository: Path
) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "moth_eval.cli", *arguments(models, run)]
    with subprocess.Popen(
        command, cwd=repository, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (run.exists() and RunFolder(run).records()):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    finished = len(RunFolder(run).records())
    assert 1 <= finished < 4
    [shard] = (run / "ledger").iterdir()
    with shard.open("ab") as file:
        file.write(b'1234abcd {"event":"end","key":"torn')
    assert trojai(models, run).exit_code == 1
    assert rows(run) == rows(undisturbed[0])


def test_interrupting_leaves_a_run_that_goes_on(tmp_path: Path, repository: Path) -> None:
    # Enough models, one at a time, for the signal to arrive before the last of them is done.
    models, run = tmp_path / "models", tmp_path / "run"
    write_prototype_round(models, models=12)
    command = [
        sys.executable,
        "-c",
        HEEDING_SIGINT,
        *arguments(models, run, "--jobs", "1", "--threads", "1"),
    ]
    with subprocess.Popen(
        command, cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (run.exists() and RunFolder(run).records()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the same command continues" in errors
    assert 0 < len(RunFolder(run).records()) < 12
    assert trojai(models, run).exit_code == 1
    assert len(RunFolder(run).records()) == 12


def test_hostile_and_broken_files_are_rows_and_nothing_in_them_runs(tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_prototype_round(models, models=1)
    written = write_hostile_files(models)
    (models / "random-bytes.pt").write_bytes(np.random.default_rng(0).bytes(5000))
    result = CliRunner().invoke(
        main,
        ["trojai", "--models", str(models), "--out", str(tmp_path / "run"), "--scanner", FAST,
         "--arch", ARCH, "--examples", str(models / "model-0.npz"), "--device", "cpu"],
    )  # fmt: skip
    table = {row["model"]: row for row in rows(tmp_path / "run")}
    assert result.exit_code in (1, 3), result.output
    assert table["model-0"]["status"] == "scored"
    assert len(written) > 100
    assert table.keys() >= {path.stem for path in written if path.suffix in MODEL_SUFFIXES}
    bad = [row for name, row in table.items() if name != "model-0"]
    assert {row["status"] for row in bad} <= {"refused", "failed", "inconclusive", "scored"}
    assert all(row["reason"] for row in bad if row["status"] != "scored")
    assert not [row for row in bad if "worker process" in row["reason"]]
    assert table["random-bytes"]["status"] == "refused"
    assert not [*Path.cwd().glob(f"{CANARY}*"), *tmp_path.rglob(f"{CANARY}*")]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--seed", "5"), "holds a run with seed 0, this one has 5: choose another --out"),
        (("--scanner", "nc:cut=-"), "cut takes a float, got '-'"),
        (("--device", "tpu9"), "device 'tpu9' cannot be used here"),
        (("--arch", "no_such_module:net"), "no_such_module"),
    ],
)
def test_bad_input_is_exit_code_2_with_a_reason(
    more: tuple[str, ...], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    result = trojai(models, undisturbed[0], *more)
    assert result.exit_code == 2
    assert message in result.output


def test_code_beside_the_models_is_never_imported(repository: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    write_prototype_round(models, models=1)
    for name in ("torch", "selectors", "pyarrow", "numexpr", "bottleneck", "opt_einsum"):
        (models / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w')\n")
    (models / "benchmarks").mkdir()
    (models / "benchmarks" / "__init__.py").write_text(f"open({str(tmp_path / 'room')!r}, 'w')\n")
    script = f"import sys; sys.path[:1] = []; sys.path.insert(0, {str(repository)!r}); " + (
        "from moth_eval.cli import main; main()"
    )
    for arch in ([], ["--arch", ARCH]):
        options = ["--models", ".", "--scanner", FAST, "--device", "cpu", *arch]
        command = [sys.executable, "-c", script, "trojai", *options]
        command += ["--out", str(tmp_path / f"run{len(arch)}")]
        subprocess.run(command, cwd=models, check=False, capture_output=True, timeout=120)
    assert rows(tmp_path / "run2")[0]["status"] == "scored"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "run0", "run2"]


def test_two_runs_do_not_share_a_folder(models: Path, tmp_path: Path) -> None:
    with exclusively(tmp_path / "run"):
        result = trojai(models, tmp_path / "run")
    assert result.exit_code == 2
    assert "another process is working on" in result.output
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_not_utf8_is_a_row_like_any_other(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    write_prototype_round(folder, models=1)
    odd = os.fsdecode(b"odd-\xff\x1b[2J")
    (folder / "model-0.safetensors").rename(folder / f"{odd}.safetensors")
    result = CliRunner().invoke(
        main,
        ["trojai", "--models", str(folder), "--out", str(tmp_path / "run"), "--arch", ARCH,
         "--scanner", FAST, "--examples", str(folder / "model-0.npz"), "--device", "cpu"],
    )  # fmt: skip
    assert result.exit_code in (0, 1), result.output
    [row] = rows(tmp_path / "run")
    assert row["status"] in ("scored", "refused")
    assert "\x1b" not in result.output


def test_a_folder_without_models_is_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["trojai", "--models", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith("moth-eval: ")


def test_a_scan_without_time_is_timed_out_and_makes_the_run_incomplete(
    models: Path, tmp_path: Path
) -> None:
    result = trojai(models, tmp_path / "run", "--limit", "1", "--timeout", "0.01")
    assert result.exit_code == 3
    assert [row["status"] for row in rows(tmp_path / "run")] == ["timed-out"]
    retried = trojai(models, tmp_path / "run", "--limit", "1", "--retry-failed")
    assert retried.exit_code in (0, 1)


def test_without_ground_truth_there_are_scores_and_no_roc(models: Path, tmp_path: Path) -> None:
    call = arguments(models, tmp_path / "run", "--limit", "2")
    start = call.index("--ground-truth")
    (models / "truth.csv").rename(models / "hidden.txt")
    try:
        result = CliRunner().invoke(main, call[:start] + call[start + 2 :])
    finally:
        (models / "hidden.txt").rename(models / "truth.csv")
    assert result.exit_code in (0, 1)
    assert [row["poisoned"] for row in rows(tmp_path / "run")] == ["", ""]
    assert not (tmp_path / "run" / "roc.csv").exists()
    assert (tmp_path / "run" / "report.html").exists()


def test_the_manifest_says_how_to_repeat_the_run(undisturbed: tuple[Path, Result]) -> None:
    manifest = json.loads((undisturbed[0] / "run.json").read_text())
    assert manifest["seed"] == 0
    assert manifest["device"] == "cpu"
    assert manifest["scanners"][FAST]["max_images"] == 30
    assert all(len(entry["sha256"]) == 64 for entry in manifest["entries"])
    assert {"torch", "python", "moth-eval"} <= manifest["versions"].keys()


def test_two_shards_merged_are_one_run(
    models: Path, tmp_path: Path, undisturbed: tuple[Path, Result]
) -> None:
    for number in (1, 2):
        result = trojai(models, tmp_path / str(number), "--shard", f"{number}/2")
        assert result.exit_code in (0, 1), result.output
        assert len(rows(tmp_path / str(number))) == 2
    parts = [str(tmp_path / str(number)) for number in (1, 2)]
    merged = CliRunner().invoke(main, ["runs", "merge", *parts, "--out", str(tmp_path / "whole")])
    assert merged.exit_code == 0, merged.output
    assert rows(tmp_path / "whole") == rows(undisturbed[0])
    again = trojai(models, tmp_path / "whole")
    assert "4 of 4 tasks are done" in again.output


def test_examples_that_all_models_share_are_read_once_for_their_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_prototype_round(tmp_path / "models", models=3)
    read = list[Path]()

    def hash_of(path: Path) -> str:
        read.append(path)
        return sha256_of(path)

    monkeypatch.setattr("moth_eval.loading.files.sha256_of", hash_of)
    shared = tmp_path / "models" / "model-0.npz"
    plan(
        TrojaiStudy(models=tmp_path / "models", run=tmp_path / "run", examples=shared, device="cpu")
    )
    assert read.count(shared) == 1
    assert len(read) == 4
