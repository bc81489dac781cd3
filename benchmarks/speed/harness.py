"""What the harness costs: dry tasks, with one and two at a time, and on Ray where it is installed.

`python -m benchmarks.speed.harness` prints the seconds per task of each way in one run.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec

import click

from ..pool import Outcome, Policy, Pool
from ..ray_engine import RayEngine
from ..supervisor import Place
from .dry_work import echo


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What so many dry tasks took.

    Attributes:
        name: of the way they were carried out.
        tasks: how many.
        seconds: wall-clock time from the first answer to the last (s): the start of the first
            process, which imports torch, is not counted.
        grown_bytes: by how much the peak memory of this process grew.
    """

    name: str
    tasks: int
    seconds: float
    grown_bytes: int

    @property
    def per_task(self) -> float:
        """Wall-clock time per task (s)."""
        return self.seconds / max(1, self.tasks - 1)


def timed(name: str, tasks: int, outcomes: Iterable[Outcome[int, int]]) -> Timing:
    """How long these tasks take, from the first answer on.

    Raises:
        RuntimeError: a task was not answered.
    """
    first, before, answers = 0.0, _peak(), []
    for outcome in outcomes:
        first = first or time.perf_counter()
        answers.append(outcome.ended.answer)
    if sorted(a for a in answers if a is not None) != list(range(tasks)):
        raise RuntimeError(f"{name}: not every task was answered")
    return Timing(
        name=name,
        tasks=tasks,
        seconds=time.perf_counter() - first,
        grown_bytes=_peak() - before,
    )


def pool(jobs: int) -> Pool[int, int]:
    """A pool for dry tasks."""
    return Pool(work=echo, places=(Place(),) * jobs, policy=Policy())


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@click.command()
@click.option("--tasks", default=200, show_default=True, help="Dry tasks per way.")
def harness(tasks: int) -> None:
    """Time dry tasks: a process each, one and two at a time, and on Ray."""
    base = _told("1 at a time", tasks, pool(1).run(iter(range(tasks))))
    _told("2 at a time", tasks, pool(2).run(iter(range(tasks))), base)
    if find_spec("ray") is None:
        click.echo("Ray is not installed, so it is left out")
        return
    _told("on Ray", tasks, RayEngine().run(pool(1), iter(range(tasks))), base)


def _told(
    name: str, tasks: int, outcomes: Iterable[Outcome[int, int]], base: Timing | None = None
) -> Timing:
    timing = timed(name, tasks, outcomes)
    click.echo(
        f"{name:12} {tasks} tasks, {1000 * timing.per_task:.0f} ms per task, "
        f"{timing.per_task / (base or timing).per_task:.2f} of one at a time, "
        f"memory {timing.grown_bytes / 2**20:+.0f} MiB"
    )
    return timing


if __name__ == "__main__":
    harness()
