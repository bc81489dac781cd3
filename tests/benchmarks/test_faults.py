"""What a run has to survive: kills at any moment, a full disk, and thousands of tasks."""

from __future__ import annotations

import csv
import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from benchmarks import ledger
from benchmarks.pool import Policy, Pool
from benchmarks.supervisor import Place
from moth_eval.cli import main
from moth_eval.records import RunFolder
from reports.tables import TIMING_COLUMNS
from tests.support.processes import processes
from tests.support.subjects import write_prototype_round
from tests.support.work import repeat

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = 6


def call(models: Path, run: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "moth_eval.cli", "trojai", "--models", str(models), "--out", str(run),
        "--arch", "tests.support.subjects:prototype_network", "--device", "cpu", "--jobs", "2",
        "--scanner", "nc:max_images=30", "--ground-truth", str(models / "truth.csv"), *more,
    ]  # fmt: skip


def started(models: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command in a process of its own; what it says is appended to a file beside the run."""
    with run.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            call(models, run, *more), cwd=REPOSITORY, start_new_session=True, stdout=log, stderr=log
        )


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in table]


def descendants(pid: int) -> list[int]:
    """Living processes below a process, forkservers and their workers among them."""
    parents: dict[int, list[int]] = {}
    for one in processes():
        parents.setdefault(one.parent, []).append(one.pid)
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_like_one_that_was_not(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=MODELS)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(tmp_path / "models", whole).wait() == 1
    chance = random.Random(20)  # noqa: S311 - moments, not secrets
    kills: Counter[str] = Counter()
    process = started(tmp_path / "models", killed, "--retry-failed")
    while sum(kills.values()) < 20:
        time.sleep(chance.uniform(0.2, 9.0))
        below = descendants(process.pid)
        if process.poll() is not None:
            if (killed / "results.csv").exists():  # it was done before we could: begin anew
                for part in ("ledger", "results.csv"):
                    subprocess.run(["rm", "-r", str(killed / part)], check=True)  # noqa: S607
            process = started(tmp_path / "models", killed, "--retry-failed")
        elif below and chance.random() < 0.6:
            try:
                os.kill(chance.choice(below), signal.SIGKILL)
            except ProcessLookupError:
                continue
            kills["child"] += 1
        else:
            process.kill()
            process.wait()
            kills["parent"] += 1
            process = started(tmp_path / "models", killed, "--retry-failed")
    assert min(kills.values()) >= 4, kills
    process.wait()
    last = started(tmp_path / "models", killed, "--retry-failed")
    assert last.wait() == 1, killed.with_suffix(".log").read_text()[-3000:]
    assert rows(killed) == rows(whole)
    assert len(RunFolder(killed).records()) == MODELS


@pytest.mark.parametrize("full", ["at once", "in the middle of a line"])
def test_a_disk_that_fills_up_stops_a_run_that_goes_on_later(
    full: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_prototype_round(tmp_path / "models", models=2)
    arguments = call(tmp_path / "models", tmp_path / "run")[3:]
    lines: list[bytes] = []

    def write(file: int, content: bytes) -> int:
        lines.append(content)
        if len(lines) < 4:
            return os.write(file, content)
        if full == "at once":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(file, content[: len(content) // 2])

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "os", SimpleNamespace(**{**vars(os), "write": write}))
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    expected = "No space left on device" if full == "at once" else "the disk took"
    assert expected in result.output
    assert len(RunFolder(tmp_path / "run").records()) == 1
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 1, again.output
    assert "1 of 2 tasks are done" in again.output
    assert [row["status"] for row in rows(tmp_path / "run")] == ["scored"] * 2


@pytest.mark.slow
def test_five_thousand_tasks_leave_no_process_and_no_memory_behind() -> None:
    def tasks() -> Iterator[int]:
        yield from range(5000)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pool = Pool(work=repeat, places=(Place(),) * 2, policy=Policy())
    answers = [outcome.ended.answer for outcome in pool.run(tasks())]
    assert sorted(answers) == list(range(5000))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 50_000, f"{grown} kB more than before"
    files = len(list(Path("/proc/self/fd").iterdir()))
    assert files < 60


def test_a_run_without_a_place_to_write_says_so(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=1)
    (tmp_path / "file").touch()
    result = CliRunner().invoke(
        main, ["trojai", "--models", str(tmp_path / "models"), "--out", str(tmp_path / "file/run")]
    )
    assert result.exit_code == 2
    assert "Not a directory" in result.output
