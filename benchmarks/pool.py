"""Many pieces of work beside each other: places, retries, and what became of every attempt."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Generic, TypeVar

from moth_eval.log import figures
from moth_eval.records import AttemptRecord

from .limits import Limits
from .supervisor import Attempt, Ended, Place, Tell

T = TypeVar("T")
A = TypeVar("A")

LOG = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 3600.0

GPU_MARGIN = 0.95
"""Share of a GPU's memory that all tasks on it may take together; contexts need the rest."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How often work is tried again, by how the attempt ended.

    A crash may be the machine's doing, so it is tried twice more. Work that ran out of memory is
    tried once more when nothing else runs. Work that hangs would hang again, and an exception is
    the work's own answer.
    """

    crashed: int = 2
    out_of_memory: int = 1
    timed_out: int = 0
    failed: int = 0

    def again(self, status: str, earlier: Sequence[AttemptRecord]) -> bool:
        """Whether to try once more after an attempt that ended so, given those before it."""
        allowed = getattr(self, status.replace("-", "_"), 0)
        return sum(attempt.status == status for attempt in earlier) < allowed


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[T, A]):
    """What became of one piece of work.

    Attributes:
        task: the work.
        ended: its last attempt.
        earlier: the attempts before it, oldest first.
        place: where the last attempt ran.
    """

    task: T
    ended: Ended[A]
    earlier: tuple[AttemptRecord, ...]
    place: Place


@dataclass
class _Waiting(Generic[T]):
    task: T
    earlier: tuple[AttemptRecord, ...] = ()

    @property
    def alone(self) -> bool:
        """Whether memory ran out before, so that it is tried again when nothing else runs."""
        return any(attempt.status == "out-of-memory" for attempt in self.earlier)


@dataclass(frozen=True, kw_only=True)
class Pool(Generic[T, A]):
    """Carries out work in processes of their own, a few at a time.

    Attributes:
        work: what is done with a task, where, and whom to tell; a function of a module.
        places: where work can run; as many pieces as there are places run at a time.
        limits: for one attempt.
        alone: for an attempt that is made when nothing else runs; None: the same.
        earlier: attempts at a task in former sittings.
        policy: when to try again.
        on_start: told of a task, the number of the attempt and its place before it is handed out.
        on_retry: told of a task and of an attempt at it that is not the last.
        on_message: told of a task and everything that its work told.
        log: the file that takes what a task's work writes; None: our own streams do.
    """

    work: Callable[[T, Place, Tell], A]
    places: Sequence[Place]
    limits: Limits = field(default_factory=Limits)
    alone: Limits | None = None
    earlier: Callable[[T], tuple[AttemptRecord, ...]] = lambda task: ()
    policy: Policy = field(default_factory=Policy)
    on_start: Callable[[T, int, Place], None] = lambda task, number, place: None
    on_retry: Callable[[T, AttemptRecord], None] = lambda task, attempt: None
    on_message: Callable[..., None] = lambda task, *message: None
    log: Callable[[T], Path | None] = lambda task: None

    def run(self, tasks: Iterable[T]) -> Generator[Outcome[T, A]]:
        """What became of every task, as they end.

        On leaving early (an exception, or the caller stops) all processes are killed.

        Args:
            tasks: what to do; read as places become free.

        Raises:
            OSError: a disk took no more of what some work wrote; that task has no outcome.
        """
        sitting = _Sitting(self, (_Waiting(task, self.earlier(task)) for task in tasks))
        try:
            yield from sitting.outcomes()
        finally:
            sitting.stop()


class _Sitting(Generic[T, A]):
    """One pass over the tasks of a pool."""

    def __init__(self, pool: Pool[T, A], fresh: Iterator[_Waiting[T]]) -> None:
        self._pool = pool
        self._fresh = fresh
        self._again: deque[_Waiting[T]] = deque()
        self._alone: deque[_Waiting[T]] = deque()
        self._free = list(reversed(pool.places))
        self._busy: list[tuple[Attempt[T, A], _Waiting[T]]] = []

    def outcomes(self) -> Iterator[Outcome[T, A]]:
        while True:
            while self._free and (waiting := self._next()) is not None:
                self._launch(waiting, self._free.pop(), self._pool.limits)
            if not self._busy:
                if not self._alone:
                    return
                alone = self._pool.alone or self._pool.limits
                self._launch(self._alone.popleft(), self._free.pop(), alone)
            yield from self._ended()

    def stop(self) -> None:
        for attempt, _ in self._busy:
            attempt.stop()

    def _next(self) -> _Waiting[T] | None:
        if self._again:
            return self._again.popleft()
        for waiting in self._fresh:
            if not waiting.alone:
                return waiting
            self._alone.append(waiting)
        return None

    def _launch(self, waiting: _Waiting[T], place: Place, limits: Limits) -> None:
        number = len(waiting.earlier) + 1
        self._pool.on_start(waiting.task, number, place)
        what = figures(task=name_of(waiting.task), attempt=number, device=place.device)
        LOG.info("begun", extra=what)
        attempt: Attempt[T, A] = Attempt(
            waiting.task,
            self._pool.work,
            number=number,
            place=place,
            limits=limits,
            log=self._pool.log(waiting.task),
        )
        self._busy.append((attempt, waiting))

    def _ended(self) -> Iterator[Outcome[T, A]]:
        """Wait until something happens; the tasks that are over."""
        attempts = [attempt for attempt, _ in self._busy]
        waits = [w for attempt in attempts if (w := attempt.patience()) is not None]
        handles = [handle for attempt in attempts for handle in attempt.handles]
        connection.wait(handles, min([*waits, LONGEST_WAIT_SECONDS]))
        for attempt, waiting in list(self._busy):
            ended = attempt.look(lambda *m, task=waiting.task: self._pool.on_message(task, *m))
            if ended is None:
                continue
            self._busy.remove((attempt, waiting))
            self._free.append(attempt.place)
            self._tell(waiting.task, ended)
            _drop_if_empty(self._pool.log(waiting.task))
            if not self._tried_again(waiting, ended):
                yield Outcome(
                    task=waiting.task,
                    ended=ended,
                    earlier=waiting.earlier,
                    place=attempt.place,
                )

    def _tell(self, task: T, ended: Ended[A]) -> None:
        told = LOG.info if ended.status == "answered" else LOG.warning
        what = figures(task=name_of(task), seconds=ended.seconds)
        told(f"{ended.status} {ended.reason}".strip(), extra=what)

    def _tried_again(self, waiting: _Waiting[T], ended: Ended[A]) -> bool:
        if ended.status == "unwritten":
            raise OSError(f"{name_of(waiting.task)}: {ended.reason}; make room, and go on")
        if ended.status == "answered" or not self._pool.policy.again(ended.status, waiting.earlier):
            return False
        once = AttemptRecord(
            status=ended.status,
            reason=ended.reason,
            seconds=ended.seconds,
            peak_memory_bytes=ended.peak_memory_bytes,
        )
        self._pool.on_retry(waiting.task, once)
        again = _Waiting(waiting.task, (*waiting.earlier, once))
        (self._alone if again.alone else self._again).append(again)
        return True


def _drop_if_empty(log: Path | None) -> None:
    if log is not None and log.is_file() and not log.stat().st_size:
        log.unlink()


def name_of(task: object) -> str:
    """What a task is called in logs."""
    return str(getattr(task, "label", task))


def places_on(device: str, jobs: int, *, threads: int, gpus: int = 0) -> tuple[Place, ...]:
    """Where so many pieces of work run at a time.

    Args:
        device: `cpu`; `cuda:N` for all of them on that GPU; `cuda` to spread them over all.
        jobs: pieces of work at a time.
        threads: CPU threads of each.
        gpus: GPUs of this machine.
    """
    if not device.startswith("cuda"):
        return (Place(device=device, threads=threads),) * jobs
    names = [device] if ":" in device else [f"cuda:{number}" for number in range(max(1, gpus))]
    each = [names[n % len(names)] for n in range(jobs)]
    return tuple(
        Place(device=name, threads=threads, gpu_share=GPU_MARGIN / each.count(name))
        for name in each
    )
