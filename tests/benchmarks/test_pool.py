from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.budget import Budget
from benchmarks.limits import Limits, resident_bytes
from benchmarks.pool import Outcome, Policy, Pool, places_on
from benchmarks.supervisor import Place
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.records import AttemptRecord
from tests.support.processes import processes
from tests.support.work import crash_twice, hold, map_shared, misbehave, nap, talkative

ONCE = Policy(crashed=0, out_of_memory=0)
MIB = 1 << 20


def outcomes(
    tasks: list[Any], work: Callable[..., Any] = misbehave, **options: Any
) -> list[Outcome[Any, Any]]:
    settings = {"places": (Place(),) * 2, "policy": ONCE, **options}
    return list(Pool(work=work, **settings).run(tasks))


def endings(tasks: list[Any], **options: Any) -> dict[Any, tuple[str, Any]]:
    return {
        one.task: (one.ended.status, one.ended.answer or one.ended.reason)
        for one in outcomes(tasks, **options)
    }


def test_every_task_gets_its_own_answer_and_is_heard() -> None:
    told: list[tuple[str, ...]] = []
    tasks = [f"m{n}" for n in range(5)]
    found = endings(tasks, on_message=lambda *message: told.append(message))
    assert found == {task: ("answered", f"seen {task} on cpu") for task in tasks}
    assert sorted(told) == [(task, "seen", task) for task in tasks]


def test_a_worker_that_dies_or_raises_costs_its_own_task_alone() -> None:
    found = endings(["killed", "fine", "segfault", "real-time", "exit", "defect", "good"])
    assert found["killed"] == (
        "crashed", "the worker process was ended by SIGKILL: out of memory?",
    )  # fmt: skip
    assert found["segfault"] == ("crashed", "the worker process was ended by SIGSEGV")
    assert found["real-time"] == ("crashed", "the worker process was ended by signal 40")
    assert found["exit"] == ("crashed", "the worker process ended with exit code 7 and no answer")
    assert found["defect"] == ("failed", "ZeroDivisionError: a defect")
    assert found["fine"][0] == found["good"][0] == "answered"


def test_a_worker_that_hangs_is_ended_when_its_time_is_up() -> None:
    started = time.monotonic()
    found = endings(["hang", "fine"], limits=Limits(seconds=8.0))
    assert found["hang"] == ("timed-out", "no answer within 8 s")
    assert found["fine"][0] == "answered"
    assert time.monotonic() - started < 120


def test_a_worker_that_spins_is_ended_when_its_processor_time_is_up() -> None:
    [one] = outcomes(["spin"], limits=Limits(cpu_seconds=1.0, seconds=300.0))
    assert one.ended.status == "timed-out"
    assert one.ended.reason == "no answer within 1 s of processor time"


@pytest.mark.parametrize(("seconds", "kept"), [(0.2, 1), (1.0, 1), (1.4, 2)])
def test_the_kernel_gives_at_least_the_processor_time_that_was_allowed(
    seconds: float, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_to: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr("resource.setrlimit", lambda which, pair: set_to.update({which: pair}))
    Limits(cpu_seconds=seconds).apply(cuda=False)
    assert set_to[resource.RLIMIT_CPU][0] == kept


@pytest.mark.parametrize("memory", ["inf", "nan"])
def test_memory_without_a_bound_is_refused_as_a_limit(memory: str, tmp_path: Path) -> None:
    call = ["trojai", "--models", str(tmp_path), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(main, [*call, "--memory", memory])
    assert result.exit_code == 2
    assert f"--memory must be a finite number of GiB, got {memory}" in result.output


def test_an_allocation_beyond_the_limit_is_told_by_the_worker_itself() -> None:
    [one] = outcomes([8192], work=hold, limits=Limits(memory_bytes=1024 * MIB))
    assert one.ended.status == "out-of-memory"
    assert one.ended.reason == "more than 1,024 MiB of memory: MemoryError"


def test_memory_that_the_kernel_does_not_count_is_seen_from_outside() -> None:
    [one] = outcomes([4096], work=map_shared, limits=Limits(memory_bytes=1200 * MIB))
    assert one.ended.status == "out-of-memory"
    assert "more than 1,200 MiB of memory: it held 1," in one.ended.reason
    assert one.ended.peak_memory_bytes > 1200 * MIB


def test_work_within_its_memory_is_left_in_peace() -> None:
    [one] = outcomes([64], work=hold, limits=Limits(memory_bytes=2048 * MIB))
    assert one.ended.answer == 64 * MIB
    assert one.ended.peak_memory_bytes > 64 * MIB


def test_a_crash_is_tried_again_and_every_attempt_is_known(tmp_path: Path) -> None:
    started: list[int] = []
    retried: list[AttemptRecord] = []
    [one] = outcomes(
        [str(tmp_path)],
        work=crash_twice,
        policy=Policy(),
        on_start=lambda task, number, place: started.append(number),
        on_retry=lambda task, attempt: retried.append(attempt),
    )
    assert one.ended.answer == 3
    assert started == [1, 2, 3]
    assert [attempt.status for attempt in one.earlier] == ["crashed", "crashed"]
    assert tuple(retried) == one.earlier


def test_what_crashes_every_time_is_given_up() -> None:
    [one] = outcomes(["killed"], policy=Policy(crashed=1))
    assert (one.ended.status, len(one.earlier)) == ("crashed", 1)


def test_attempts_of_former_sittings_count() -> None:
    before = AttemptRecord(status="crashed", reason="x", seconds=1.0)
    lost = AttemptRecord(status="lost", reason="x", seconds=None)
    [one] = outcomes(["killed"], policy=Policy(crashed=2), earlier=lambda task: (before, lost))
    assert [attempt.status for attempt in one.earlier] == ["crashed", "lost", "crashed"]


def test_work_that_ran_out_of_memory_is_tried_again_alone() -> None:
    tasks = [2000, 3.0]
    began: dict[Any, float] = {}

    def begun(task: Any, number: int, place: Place) -> None:
        began[task, number] = time.monotonic()

    found = {
        one.task: one
        for one in outcomes(
            tasks,
            work=hold_or_nap,
            policy=Policy(),
            limits=Limits(memory_bytes=1024 * MIB),
            alone=Limits(memory_bytes=6000 * MIB),
            on_start=begun,
        )
    }
    assert found[2000].ended.answer == 2000 * MIB
    assert [attempt.status for attempt in found[2000].earlier] == ["out-of-memory"]
    assert began[2000, 2] >= found[3.0].ended.answer[1]


def test_work_that_ran_out_of_memory_in_a_former_sitting_is_tried_again_alone() -> None:
    before = AttemptRecord(status="out-of-memory", reason="x", seconds=1.0)
    found = outcomes(
        [2000, 3.0],
        work=hold_or_nap,
        policy=Policy(),
        limits=Limits(memory_bytes=1024 * MIB),
        alone=Limits(memory_bytes=6000 * MIB),
        earlier=lambda task: (before,) if task == 2000 else (),
    )
    assert [one.task for one in found] == [3.0, 2000]
    assert (found[1].ended.answer, found[1].earlier) == (2000 * MIB, (before,))


def hold_or_nap(task: Any, place: Place, tell: Any) -> Any:
    return nap(task, place, tell) if isinstance(task, float) else hold(task, place, tell)


@pytest.mark.parametrize("deed", ["fork", "program"])
def test_what_a_worker_leaves_behind_neither_holds_us_up_nor_lives_on(
    deed: str, tmp_path: Path
) -> None:
    file = tmp_path / "pid"
    [one] = outcomes([f"{deed}:{file}"])
    assert one.ended.status == "answered"
    assert one.ended.seconds < 60
    wait_until(lambda: not members(int(file.read_text())))


def test_workers_are_gone_when_the_caller_stops_early(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    running = Pool(work=misbehave, places=(Place(),) * 2).run(["fine", f"hang:{file}", "hang"])
    assert next(running).task == "fine"
    wait_until(file.exists)
    pid = int(file.read_text())
    assert members(pid)
    running.close()
    wait_until(lambda: not members(pid))


def test_a_disk_that_takes_no_more_is_no_answer_of_the_work() -> None:
    running = Pool(work=misbehave, places=(Place(),)).run(["fine", "full", "never"])
    assert next(running).task == "fine"
    with pytest.raises(
        OSError, match=r"full: \[Errno 28\] No space left on device: 'result'; make"
    ):
        next(running)


def test_an_answer_larger_than_the_pipe_arrives_whole() -> None:
    [one] = outcomes(["long"], work=talkative)
    assert len(one.ended.answer) == 1_000_000


def test_what_a_worker_writes_goes_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "one.log"
    outcomes(["speak", "defect"], log=lambda task: log if task == "speak" else tmp_path / "two.log")
    assert log.read_text() == "spoken\n"
    assert "ZeroDivisionError: a defect" in (tmp_path / "two.log").read_text()
    assert "spoken" not in capfd.readouterr().out


def test_as_many_tasks_run_at_a_time_as_there_are_places() -> None:
    spans = [one.ended.answer for one in outcomes([1.0] * 4, work=nap)]
    events = sorted([(s[0], 1) for s in spans] + [(s[1], -1) for s in spans])
    running, most = 0, 0
    for _, change in events:
        running += change
        most = max(most, running)
    assert most == 2


def test_tasks_are_read_as_places_become_free() -> None:
    read: list[int] = []

    def endless() -> Any:
        for number in range(10_000):
            read.append(number)
            yield f"m{number}"

    running = Pool(work=misbehave, places=(Place(),)).run(endless())
    next(running)
    running.close()
    assert len(read) <= 3


def test_gpus_are_shared_out_evenly() -> None:
    spread = places_on("cuda", 4, threads=1, gpus=2)
    assert [place.device for place in spread] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert {place.gpu_share for place in spread} == {0.95 / 2}
    assert places_on("cuda:3", 1, threads=2) == (Place(device="cuda:3", threads=2, gpu_share=0.95),)
    assert places_on("cpu", 2, threads=1) == (Place(), Place())


def test_a_budget_shares_out_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.budget.processors", lambda: 8)
    monkeypatch.setattr("benchmarks.budget.available_bytes", lambda: 12 << 30)
    assert Budget().jobs_on("cpu") == 6
    assert Budget().places("cpu") == (Place(device="cpu", threads=1),) * 6
    assert Budget(jobs=2).limits("cpu").memory_bytes == 6 << 30
    assert Budget(jobs=2).places("cpu")[0].threads == 4
    assert Budget(jobs=2, memory_bytes=5).limits("cpu") == Limits(memory_bytes=5)
    assert Budget(memory_bytes=5).alone() == Limits(memory_bytes=5)
    assert Budget(jobs=2).alone().memory_bytes == int(0.9 * (12 << 30))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(timeout=float("nan")), "--timeout must be a number of seconds above 0, got nan"),
        (Budget(cpu_seconds=0.0), "--cpu-seconds must be a number of seconds above 0, got 0"),
        (Budget(jobs=0), "--jobs must be at least 1, got 0"),
    ],
)
def test_limits_that_cannot_be_kept_are_refused(budget: Budget, message: str) -> None:
    with pytest.raises(InputError, match=message):
        budget.check()


def test_the_memory_of_a_process_that_is_gone_is_none() -> None:
    assert resident_bytes(2**22 - 1) == 0
    assert resident_bytes(os.getpid()) > MIB


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def members(group: int) -> list[int]:
    """Living processes of a process group."""
    return [one.pid for one in processes() if one.group == group and one.state != "Z"]
