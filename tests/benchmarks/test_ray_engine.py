from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.limits import Limits
from benchmarks.pool import Policy, Pool
from benchmarks.ray_engine import RayEngine
from benchmarks.supervisor import Place
from moth_eval.errors import InputError
from moth_eval.records import AttemptRecord
from reports.tables import TIMING_COLUMNS
from tests.support.fake_ray import FakeRay
from tests.support.subjects import write_prototype_round
from tests.support.work import misbehave

REPOSITORY = Path(__file__).resolve().parents[2]

RAY = {
    "PYTHONPATH": str(REPOSITORY),
    "RAY_worker_niceness": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Settings of clusters that live as long as a test."""


def pool(**options: Any) -> Pool[str, str]:
    return Pool(work=misbehave, places=(Place(),), **{"policy": Policy(crashed=1), **options})


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay(lost=["lost"])
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_every_task_is_answered_and_every_attempt_is_told_of(ray: FakeRay) -> None:
    started, retried = [], []
    crash = AttemptRecord(status="crashed", reason="x", seconds=1.0)
    run = RayEngine().run(
        pool(
            on_start=lambda task, number, place: started.append((task, number)),
            on_retry=lambda task, attempt: retried.append((task, attempt.status)),
            earlier=lambda task: (crash,) if task == "again" else (),
        ),
        ["a", "killed", "lost", "again"],
    )
    found = {outcome.task: outcome for outcome in run}
    assert {task: one.ended.status for task, one in found.items()} == {
        "a": "answered", "killed": "crashed", "lost": "crashed", "again": "answered",
    }  # fmt: skip
    assert found["a"].ended.answer == "seen a on cpu"
    assert found["lost"].ended.reason == "Ray gave it up: the node died"
    assert started == [("a", 1), ("killed", 1), ("lost", 1), ("again", 2)]
    assert retried == [("killed", "crashed")]
    assert found["again"].earlier == (crash,)


def test_a_disk_that_takes_no_more_is_no_crash(ray: FakeRay) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        list(RayEngine().run(pool(), ["full"]))


def test_a_cluster_of_our_own_is_made_and_taken_down(ray: FakeRay) -> None:
    list(RayEngine().run(pool(), ["a"]))
    assert ray.calls[0] == ("init", {"log_to_driver": False, "include_dashboard": False})
    assert ray.calls[-1] == ("shutdown", None)
    assert ("remote", {"max_retries": 3, "retry_exceptions": False}) in ray.calls


def test_one_that_is_there_already_is_left_open(ray: FakeRay) -> None:
    ray.init()
    list(RayEngine(address="auto").run(pool(), ["a"]))
    assert [name for name, _ in ray.calls].count("init") == 1
    assert ("shutdown", None) not in ray.calls


def test_tasks_are_handed_out_as_the_cluster_can_take_them(ray: FakeRay) -> None:
    assert len(list(RayEngine().run(pool(), (f"m{n}" for n in range(12))))) == 12
    assert ray.most == 4


def test_a_run_that_is_left_early_cancels_what_is_under_way(ray: FakeRay) -> None:
    run = RayEngine().run(pool(), (f"m{n}" for n in range(12)))
    next(run)
    run.close()
    cancelled = [what for name, what in ray.calls if name == "cancel"]
    assert cancelled
    assert all(force for _, force in cancelled)


def test_a_task_takes_what_it_needs() -> None:
    engine = RayEngine(device="cuda", threads=2, gpu_share=0.25, memory_bytes=5)
    assert engine.resources == {"num_cpus": 2, "num_gpus": 0.25, "memory": 5}
    assert engine.place == Place(device="cuda:0", threads=2, gpu_share=0.95 * 0.25)
    assert RayEngine().resources == {"num_cpus": 1}


def test_without_ray_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"install it with pip install 'moth-eval\[ray\]'"):
        list(RayEngine().run(pool(), ["a"]))


def test_a_cluster_that_cannot_be_reached_is_an_input_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ray", FakeRay(unreachable="no route"))
    with pytest.raises(InputError, match=r"no Ray cluster can be reached there \(no route\)"):
        list(RayEngine(address="10.0.0.1:6379").run(pool(), ["a"]))


@pytest.mark.slow
def test_two_machines_one_of_which_is_lost_do_everything(tmp_path: Path) -> None:
    """With Ray itself: its own simulation of a cluster, in a process of its own."""
    pytest.importorskip("ray")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.ray_cluster", str(tmp_path)],
        cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=580,
        env={**os.environ, **RAY},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all 8 tasks answered" in done.stdout


def test_limits_are_those_of_the_pool(ray: FakeRay) -> None:
    started = time.monotonic()
    [one] = RayEngine().run(pool(limits=Limits(seconds=1.0)), ["hang"])
    assert one.ended.status == "timed-out"
    assert time.monotonic() - started < 120
    assert threading.active_count() < 20


@pytest.mark.slow
def test_a_scan_on_ray_gives_what_a_scan_on_this_machine_gives(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    write_prototype_round(tmp_path / "models")
    tables = []
    for engine in ("local", "ray"):
        call = [
            sys.executable, "-m", "moth_eval.cli", "trojai", "--models", str(tmp_path / "models"),
            "--scanner", "nc:max_images=30", "--device", "cpu", "--engine", engine,
            "--arch", "tests.support.subjects:prototype_network", "--out", str(tmp_path / engine),
        ]  # fmt: skip
        done = subprocess.run(
            call, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=400,
            env={**os.environ, **RAY},
        )  # fmt: skip
        assert done.returncode == 1, done.stderr[-3000:]
        with (tmp_path / engine / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([{k: v for k, v in row.items() if k not in TIMING_COLUMNS} for row in rows])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4
