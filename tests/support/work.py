"""What workers do in tests of the workers."""

from __future__ import annotations

import os
import signal
import sys
import time

from benchmarks.tasks import Task
from moth_eval.records import ScanRecord


def answer(task: Task) -> ScanRecord:
    return task.without_answer("inconclusive", f"seen {task.model.name}")


def misbehave(task: Task) -> ScanRecord:
    """Do what the model's name says."""
    if task.model.name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task.model.name == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task.model.name == "exit":
        sys.exit(7)
    if task.model.name == "hang":
        task.run.parent.joinpath("hanging.pid").write_text(str(os.getpid()))
        time.sleep(600)
    return answer(task)


def talkative(task: Task) -> ScanRecord:
    return task.without_answer("inconclusive", "x" * 1_000_000)
