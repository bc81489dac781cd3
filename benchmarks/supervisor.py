"""One piece of work in a process of its own, held to limits; what becomes of it is data."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from moth_eval.errors import OutOfMemory
from moth_eval.log import LogSettings, configure, current_settings
from moth_eval.machine import lack_of_disk, lack_of_memory
from moth_eval.run_files import open_file

from .limits import Limits, resident_bytes

T = TypeVar("T")
A = TypeVar("A")

Tell = Callable[..., None]
"""What work calls to say how it gets on; the arguments reach `Attempt.look`."""

Ending = Literal["answered", "failed", "crashed", "timed-out", "out-of-memory", "unwritten"]

GRACE_SECONDS = 5.0
"""How long a process may take to go after it has given its answer."""

START_SECONDS = 300.0
"""How long a process may take to begin: the first one imports torch, on a busy machine slowly."""

GLANCE_SECONDS = 0.25
"""How often the memory of a worker is looked at, where it is limited."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a piece of work is carried out.

    Attributes:
        device: `cpu`, `cuda:0` ...
        threads: CPU threads.
        gpu_share: fraction of the GPU's memory that it may take, in `(0, 1]`.
    """

    device: str = "cpu"
    threads: int = 1
    gpu_share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Ended(Generic[A]):
    """How an attempt ended.

    Attributes:
        status: `answered`: it returned; `failed`: it raised; `crashed`: its process ended without
            an answer; `timed-out` and `out-of-memory`: a limit was reached; `unwritten`: a disk
            took no more, which says nothing about the work.
        reason: one sentence; empty where it answered.
        seconds: wall-clock time (s).
        peak_memory_bytes: most resident memory that was seen; 0 where nobody looked.
        answer: what the work returned; None unless it answered.
    """

    status: Ending
    reason: str = ""
    seconds: float
    peak_memory_bytes: int = 0
    answer: A | None = None


class Attempt(Generic[T, A]):
    """One attempt at a piece of work, under way.

    Attributes:
        place: where it runs.
    """

    def __init__(
        self,
        task: T,
        work: Callable[[T, Place, Tell], A],
        *,
        number: int = 1,
        place: Place,
        limits: Limits,
        log: Path | None = None,
    ) -> None:
        """Start a process and hand it the work.

        Args:
            task: what is handed over.
            work: a function of a module; called in the process.
            number: of the attempt, 1 for the first.
            place: where it is carried out.
            limits: what it may use.
            log: file that takes what it writes to its standard streams; None: they are ours.
        """
        self.place = place
        self._limits = limits
        self._peak = 0
        context = get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.preload"])
        self._answer, theirs = context.Pipe()
        self._process = context.Process(
            target=_carry_out,
            args=(task, work, number, place, limits, log, current_settings(), theirs),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._begun = False
        self._started = time.monotonic()

    @property
    def handles(self) -> list[Any]:
        """What `multiprocessing.connection.wait` can wait for: an answer, a message, an end."""
        return [self._answer, self._process.sentinel]

    def patience(self) -> float | None:
        """Seconds after which `look` should be called even if nothing is heard; None: never."""
        waits = []
        if self._time_limit is not None:
            waits.append(max(0.0, self._time_limit - self._seconds))
        if self._limits.memory_bytes is not None:
            waits.append(GLANCE_SECONDS)
        return min(waits, default=None)

    def look(self, on_message: Tell = lambda *message: None) -> Ended[A] | None:
        """How the attempt ended; None if it is still under way. Never waits.

        Args:
            on_message: called with everything that the work told.
        """
        # Whether it was alive is asked first: an answer given since is then still read.
        alive = self._process.is_alive()
        try:
            while self._answer.poll():
                kind, *content = self._answer.recv()
                if kind == "begun":
                    self._begun, self._started = True, time.monotonic()
                elif kind == "tell":
                    on_message(*content)
                else:
                    return self._close(kind, *content)
        except (EOFError, OSError):  # it died before or while it answered
            self._process.join(GRACE_SECONDS)
            alive = False
        if not alive:
            return self._crashed()
        return self._over_limit()

    def stop(self) -> None:
        """End the process and all that it started."""
        self._answer.close()
        self._kill()
        self._process.join(GRACE_SECONDS)

    @property
    def _pid(self) -> int:
        pid = self._process.pid
        assert pid is not None  # noqa: S101 - it was started when this was made
        return pid

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def _time_limit(self) -> float | None:
        """Seconds since it was started, or since it began where it has."""
        limit = self._limits.seconds
        return limit if limit is None or self._begun else limit + START_SECONDS

    def _close(self, status: Ending, reason: str = "", answer: A | None = None) -> Ended[A]:
        seconds = self._seconds
        if status == "answered":
            self._process.join(GRACE_SECONDS)
        self.stop()
        return Ended(
            status=status,
            reason=reason,
            seconds=seconds,
            peak_memory_bytes=self._peak,
            answer=answer,
        )

    def _crashed(self) -> Ended[A]:
        code, processor = self._process.exitcode, self._limits.cpu_seconds
        if code == -signal.SIGXCPU and processor is not None:
            reason = f"no answer within {processor:g} s of processor time"
            return self._close("timed-out", reason)
        return self._close("crashed", epitaph(code))

    def _over_limit(self) -> Ended[A] | None:
        seconds, memory = self._time_limit, self._limits.memory_bytes
        if seconds is not None and self._seconds >= seconds:
            what = "no answer" if self._begun else "it did not begin"
            return self._close("timed-out", f"{what} within {seconds:g} s")
        if memory is None:
            return None
        used = resident_bytes(self._pid)
        self._peak = max(self._peak, used)
        if used > memory:
            return self._close("out-of-memory", beyond(memory, f"it held {used / 2**20:,.0f} MiB"))
        return None

    def _kill(self) -> None:
        # The worker leads a process group of its own: what it started goes with it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._process.is_alive():
            self._process.kill()


def beyond(memory: int | None, what: str) -> str:
    """One sentence for work that needed more memory than it was given."""
    if memory is None:
        return f"memory ran out: {what}"
    return f"more than {memory / 2**20:,.0f} MiB of memory: {what}"


def epitaph(code: int | None) -> str:
    """What became of a worker process that ended with this code and gave no answer."""
    if code is not None and code < 0:
        name = signal_name(-code)
        hint = ": out of memory?" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended with exit code {code} and no answer"


def signal_name(number: int) -> str:
    """`SIGKILL`; `signal 40` of one without a name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _carry_out(
    task: T,
    work: Callable[[T, Place, Tell], A],
    number: int,
    place: Place,
    limits: Limits,
    log: Path | None,
    logging: LogSettings,
    answer: connection.Connection,
) -> None:
    """In the worker process: do the work and say how it ended."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(answer,), daemon=True).start()
    if log is not None:
        _write_to(log, number)
    configure(logging)
    answer.send(("begun",))
    try:
        cuda = place.device.startswith("cuda")
        limits.apply(cuda=cuda)
        _settle(place)
        answer.send(("answered", "", work(task, place, lambda *told: answer.send(("tell", *told)))))
    except OutOfMemory as error:
        answer.send(("out-of-memory", beyond(limits.memory_bytes, str(error))))
    except Exception as error:  # a worker must answer, whatever a file or the machine does to it
        traceback.print_exc()
        what = lack_of_memory(error)
        if what is not None:
            answer.send(("out-of-memory", beyond(limits.memory_bytes, what)))
        elif lack_of_disk(error):
            answer.send(("unwritten", str(error)))
        else:
            answer.send(("failed", f"{type(error).__name__}: {error}"))
    sys.stdout.flush()
    sys.stderr.flush()


def _settle(place: Place) -> None:
    import torch

    torch.set_num_threads(place.threads)
    if place.device.startswith("cuda"):
        device = torch.device(place.device)
        torch.cuda.set_per_process_memory_fraction(place.gpu_share, device)


def _write_to(log: Path, number: int) -> None:
    """Send both standard streams, of this process and of all that it starts, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    os.close(file)
    if number > 1:
        os.write(sys.stderr.fileno(), f"attempt {number}\n".encode())


def _leave_with(answer: connection.Connection) -> None:
    """End this process and its group when the one that wants its answer is gone."""
    with suppress(EOFError, OSError):
        answer.recv()
    os.killpg(0, signal.SIGKILL)
