"""What workers do in tests of the supervisor and the pool."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.supervisor import Place, Tell


def misbehave(what: str, place: Place, tell: Tell) -> str:
    """Do what the text says; a path behind a colon is a file to leave a process number in."""
    what, _, file = what.partition(":")
    if file:
        Path(file).write_text(str(os.getpid()))
    if what in DEEDS:
        DEEDS[what]()
    tell("seen", what)
    return f"seen {what} on {place.device}"


def crash_twice(folder: str, place: Place, tell: Tell) -> int:
    """Die at the first two attempts; the number of the attempt at the third."""
    before = len(list(Path(folder).iterdir()))
    (Path(folder) / str(before)).touch()
    if before < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return before + 1


def hold(mebibytes: int, place: Place, tell: Tell) -> int:
    """Hold so much memory for a moment."""
    block = bytearray(mebibytes << 20)
    time.sleep(1.0)
    return len(block)


def map_shared(mebibytes: int, place: Place, tell: Tell) -> int:
    """Fill so much memory that no limit on a process's own data sees."""
    import mmap

    block = mmap.mmap(-1, mebibytes << 20)
    for start in range(0, len(block), 1 << 20):
        block[start : start + (1 << 20)] = bytes(1 << 20)
        time.sleep(0.002)
    time.sleep(60)
    return len(block)


def talkative(what: str, place: Place, tell: Tell) -> str:
    """An answer that does not fit into a pipe."""
    return "x" * 1_000_000


def nap(seconds: float, place: Place, tell: Tell) -> tuple[float, float]:
    """When it began and ended, on the clock that all processes share."""
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def _die(number: int) -> None:
    os.kill(os.getpid(), number)


def _spin() -> None:
    while True:
        pass


def _leave_a_child() -> None:
    """Start a process that outlives us and holds our streams and pipes open."""
    if os.fork() == 0:
        time.sleep(600)


def _leave_a_program() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def _fill_the_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "result")


def _fail() -> None:
    raise ZeroDivisionError("a defect")


DEEDS = {
    "killed": lambda: _die(signal.SIGKILL),
    "real-time": lambda: _die(40),
    "segfault": lambda: _die(signal.SIGSEGV),
    "exit": lambda: sys.exit(7),
    "hang": lambda: time.sleep(600),
    "spin": _spin,
    "fork": _leave_a_child,
    "program": _leave_a_program,
    "defect": _fail,
    "full": _fill_the_disk,
    "tell": lambda: logging.getLogger("benchmarks.tests").info("told by the work"),
    "speak": lambda: os.write(1, b"spoken\n"),
}


def leave_a_mark(path: str, place: Place, tell: Tell) -> str:
    """Leave a file of one's own beside `path`, and take four seconds."""
    Path(f"{path}-{time.time_ns()}").touch()
    time.sleep(4.0)
    return f"did {path}"


def repeat(number: int, place: Place, tell: Tell) -> int:
    """The least that work can be."""
    return number
