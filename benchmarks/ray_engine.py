"""The same supervised attempts on the machines of a Ray cluster.

Ray decides where a task runs, and runs it again if its machine is lost. Everything else (limits,
attempts, what counts as what) is the pool's own work, done on that machine for the one task.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from moth_eval.errors import InputError
from moth_eval.records import AttemptRecord

from .pool import GPU_MARGIN, Outcome, Pool
from .supervisor import Ended, Place

T = TypeVar("T")
A = TypeVar("A")

NODE_LOSSES = 3
"""How often Ray begins a task anew whose machine was lost."""

PER_PROCESSOR = 2
"""Tasks in flight for every processor of the cluster, so that none ever waits for work."""

LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Carries out the work of a pool on a Ray cluster.

    The run folder, the models and the examples must be reachable under the same path everywhere.

    Attributes:
        address: of the cluster, as `ray.init` takes it; empty: one on this machine alone.
        device: `cpu` or `cuda`, the same for all tasks.
        threads: CPU threads of a task, and processors that Ray sets aside for it.
        gpu_share: fraction of a GPU that a task takes, in `(0, 1]`, on `cuda`.
        memory_bytes: memory that Ray sets aside for a task; None: it keeps no account of it.
    """

    address: str = ""
    device: str = "cpu"
    threads: int = 1
    gpu_share: float = 1.0
    memory_bytes: int | None = None

    def run(self, pool: Pool[T, A], tasks: Iterable[T]) -> Generator[Outcome[T, A]]:
        """What became of every task, as they end; see `Pool.run`.

        Raises:
            InputError: Ray is not installed, or the cluster cannot be reached.
        """
        with _Cluster(self) as ray:
            yield from _Sitting(ray, pool, self).outcomes(tasks)

    @property
    def place(self) -> Place:
        """Where a task runs, seen from the machine that it runs on: Ray shows it one GPU."""
        cuda = self.device.startswith("cuda")
        return Place(
            device="cuda:0" if cuda else "cpu",
            threads=self.threads,
            gpu_share=GPU_MARGIN * self.gpu_share,
        )

    @property
    def resources(self) -> dict[str, Any]:
        """What Ray sets aside for one task."""
        needs: dict[str, Any] = {"num_cpus": self.threads}
        if self.device.startswith("cuda"):
            needs["num_gpus"] = self.gpu_share
        if self.memory_bytes is not None:
            needs["memory"] = self.memory_bytes
        return needs


class _Cluster:
    """A connection to Ray, as long as a run lasts; one that is there already is left open."""

    def __init__(self, engine: RayEngine) -> None:
        self._engine = engine
        self._ours = False

    def __enter__(self) -> Any:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--engine ray: Ray is not installed; install it with pip install 'moth-eval[ray]', "
                "or leave --engine out"
            ) from error
        if ray.is_initialized():
            return ray
        options: dict[str, Any] = {"log_to_driver": False}
        if self._engine.address:
            options["address"] = self._engine.address
        else:
            options["include_dashboard"] = False
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(
                f"--address {self._engine.address}: no Ray cluster can be reached there ({error}); "
                "start one with `ray start --head`, or leave --address out"
            ) from error
        self._ours = True
        return ray

    def __exit__(self, *_: object) -> None:
        if self._ours:
            import ray

            ray.shutdown()


class _Sitting(Generic[T, A]):
    """One pass over the tasks of a pool."""

    def __init__(self, ray: Any, pool: Pool[T, A], engine: RayEngine) -> None:
        self._ray = ray
        self._pool = pool
        self._engine = engine
        self._live: dict[Any, T] = {}
        # Ray runs a task again only when its worker or machine is gone: ours never raise.
        self._remote = ray.remote(max_retries=NODE_LOSSES, retry_exceptions=False)(_alone)

    def outcomes(self, tasks: Iterable[T]) -> Generator[Outcome[T, A]]:
        waiting = iter(tasks)
        window = max(1, PER_PROCESSOR * int(self._ray.cluster_resources().get("CPU", 1)))
        try:
            while True:
                while len(self._live) < window and (task := next(waiting, None)) is not None:
                    self._submit(task)
                if not self._live:
                    return
                done, _ = self._ray.wait(
                    list(self._live), num_returns=1, timeout=LONGEST_WAIT_SECONDS
                )
                for reference in done:
                    yield self._outcome(reference, self._live.pop(reference))
        finally:
            for reference in self._live:
                self._ray.cancel(reference, force=True)

    def _submit(self, task: T) -> None:
        place = self._engine.place
        self._pool.on_start(task, len(self._pool.earlier(task)) + 1, place)
        # What a pool is told of attempts is told here; on the other machine it keeps silent.
        silent: Pool[T, A] = Pool(
            work=self._pool.work,
            places=(place,),
            limits=self._pool.limits,
            alone=self._pool.alone,
            earlier=_Known(self._pool.earlier(task)),
            policy=self._pool.policy,
            log=_NamedLog(self._pool.log(task)),
        )
        remote = self._remote.options(**self._engine.resources)
        self._live[remote.remote(silent, task)] = task

    def _outcome(self, reference: Any, task: T) -> Outcome[T, A]:
        try:
            outcome: Outcome[T, A] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            if isinstance(error, OSError):  # the pool there raised it, of a disk
                raise
            what = str(error).strip().partition("\n")[0]
            ended: Ended[A] = Ended(status="crashed", reason=f"Ray gave it up: {what}", seconds=0.0)
            return Outcome(
                task=task, ended=ended, earlier=self._pool.earlier(task), place=self._engine.place
            )
        before = len(self._pool.earlier(task))
        for attempt in outcome.earlier[before:]:
            self._pool.on_retry(task, attempt)
        return replace(outcome, task=task)


@dataclass(frozen=True)
class _NamedLog:
    """The log file of one task, as a function of tasks that another process can be given."""

    path: Path | None

    def __call__(self, task: object) -> Path | None:
        return self.path


@dataclass(frozen=True)
class _Known:
    """Earlier attempts at one task, as a function of tasks that another process can be given."""

    attempts: tuple[AttemptRecord, ...]

    def __call__(self, task: object) -> tuple[AttemptRecord, ...]:
        return self.attempts


def _alone(pool: Pool[T, A], task: T) -> Outcome[T, A]:
    """On the machine that Ray chose: all attempts at one task."""
    [outcome] = pool.run([task])
    return outcome
