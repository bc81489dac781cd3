"""A process for every task: one that crashes, hangs or is killed is a row, not an end."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess

from moth_eval.records import ScanRecord

from .tasks import Task, execute

LONGEST_WAIT_SECONDS = 3600.0

GRACE_SECONDS = 5.0
"""How long a process may take to go after it has given its answer."""


@dataclass(frozen=True, kw_only=True)
class _Worker:
    task: Task
    process: ForkServerProcess
    answer: connection.Connection
    started: float


def run_tasks(
    tasks: Iterable[Task],
    *,
    jobs: int,
    timeout: float | None,
    on_start: Callable[[Task], None],
    work: Callable[[Task], ScanRecord] = execute,
) -> Generator[ScanRecord]:
    """The record of every task, as they finish; each runs in a process of its own.

    On leaving early (an exception, or the caller stops) all processes are killed.

    Args:
        tasks: what to do; read as places become free.
        jobs: processes at a time.
        timeout: seconds after which a task is killed; None: never.
        on_start: called before a task is handed out.
        work: what a worker does with its task; a function of a module.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preload"])
    waiting = iter(tasks)
    busy: list[_Worker] = []
    try:
        while True:
            while len(busy) < jobs and (task := next(waiting, None)) is not None:
                on_start(task)
                busy.append(_launch(context, task, work))
            if not busy:
                return
            for worker in _ready(busy, timeout):
                busy.remove(worker)
                yield _collect(worker, timeout)
    finally:
        for worker in busy:
            _end(worker)


def _launch(context: ForkServerContext, task: Task, work: Callable[[Task], ScanRecord]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(task, theirs, work), daemon=True)
    process.start()
    theirs.close()
    return _Worker(task=task, process=process, answer=ours, started=time.monotonic())


def _ready(busy: list[_Worker], timeout: float | None) -> list[_Worker]:
    """Wait until a worker has answered, died or run out of time; those that have."""
    patience = None
    if timeout is not None:
        left = min(w.started for w in busy) + timeout - time.monotonic()
        patience = min(max(0.0, left), LONGEST_WAIT_SECONDS)
    handles = [w.answer for w in busy] + [w.process.sentinel for w in busy]
    done = connection.wait(handles, patience)
    late = time.monotonic() - (timeout or 0.0)
    return [
        w
        for w in busy
        if w.answer in done
        or w.process.sentinel in done
        or (timeout is not None and w.started <= late)
    ]


def _collect(worker: _Worker, timeout: float | None) -> ScanRecord:
    """The answer of a worker that has one, else what became of it."""
    seconds = time.monotonic() - worker.started
    try:
        if worker.answer.poll():
            record: ScanRecord = worker.answer.recv()
            return record
        if worker.process.is_alive():
            return worker.task.without_answer(
                "timed-out", f"no answer within {timeout:g} s (--timeout)", seconds
            )
    except (EOFError, OSError):  # it died before or while it answered
        worker.process.join(GRACE_SECONDS)
    finally:
        _end(worker)
    return worker.task.without_answer("failed", epitaph(worker.process.exitcode), seconds)


def epitaph(code: int | None) -> str:
    """What became of a worker process that ended with this code and gave no answer."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = ": out of memory?" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended with exit code {code} and no answer"


def _end(worker: _Worker) -> None:
    worker.answer.close()
    worker.process.join(0.2)
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join(GRACE_SECONDS)


def _work(task: Task, answer: connection.Connection, work: Callable[[Task], ScanRecord]) -> None:
    """In the worker process: carry out the task and send its record."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with, args=(answer,), daemon=True).start()
    torch.set_num_threads(task.threads)
    answer.send(work(task))


def leave_with(answer: connection.Connection) -> None:
    """End this process when the one that wants its answer is gone."""
    import os

    try:
        answer.recv()
    except (EOFError, OSError):
        os._exit(1)
