"""What a run may use of the machine, and how that is shared out among its tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moth_eval.errors import InputError
from moth_eval.machine import available_bytes, processors

from .limits import Limits
from .pool import places_on
from .supervisor import Place

BYTES_PER_JOB = 2 << 30
"""Memory that one task may take: the imported libraries, the network and its activations."""

SPARE = 0.9
"""Share of the free memory that a task gets which has the machine to itself."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a run's tasks, each of which has a process of its own.

    Attributes:
        jobs: tasks at a time; None: one per processor, as far as memory reaches, and one per GPU.
        threads: CPU threads of a task; None: an equal share of the processors.
        timeout: seconds after which an attempt is given up; None: never.
        cpu_seconds: processor time (s) after which an attempt is given up; None: never.
        memory_bytes: memory that a task may hold, libraries included; None: an equal share of what
            is free, and nearly all of it for a second attempt.
    """

    jobs: int | None = None
    threads: int | None = None
    timeout: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    def check(self) -> None:
        """Make sure that limits are numbers that can be kept.

        Raises:
            InputError: one cannot.
        """
        for option, seconds in (("--timeout", self.timeout), ("--cpu-seconds", self.cpu_seconds)):
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise InputError(f"{option} must be a number of seconds above 0, got {seconds}")
        counts = (
            ("--jobs", self.jobs),
            ("--threads", self.threads),
            ("--memory", self.memory_bytes),
        )
        for option, number in counts:
            if number is not None and number < 1:
                raise InputError(f"{option} must be at least 1, got {number}")

    def jobs_on(self, device: str) -> int:
        """Tasks at a time on a device: `cpu`, `cuda` for all GPUs, or `cuda:N`.

        One thread per process and a process per processor is faster than one process with all
        threads for networks of the size that is scanned here.
        """
        if self.jobs is not None:
            return self.jobs
        if not device.startswith("cpu"):
            return 1 if ":" in device else max(1, _gpus())
        return max(1, min(processors(), available_bytes() // BYTES_PER_JOB))

    def places(self, device: str) -> tuple[Place, ...]:
        """Where tasks run, as many at a time as there are places."""
        jobs = self.jobs_on(device)
        threads = self.threads or max(1, processors() // jobs)
        gpus = _gpus() if device == "cuda" else 0
        return places_on(device, jobs, threads=threads, gpus=gpus)

    def limits(self, device: str, *, shared: bool = True) -> Limits:
        """What one attempt may use.

        Args:
            device: where it runs.
            shared: whether tasks share this machine's memory; else only a stated limit counts.
        """
        memory = self.memory_bytes
        if memory is None and shared:
            memory = available_bytes() // self.jobs_on(device)
        return self._limits(memory)

    def alone(self, *, shared: bool = True) -> Limits:
        """What an attempt may use that has the machine to itself; `shared` as for `limits`."""
        memory = self.memory_bytes
        if memory is None and shared:
            memory = int(available_bytes() * SPARE)
        return self._limits(memory)

    def _limits(self, memory: int | None) -> Limits:
        return Limits(seconds=self.timeout, cpu_seconds=self.cpu_seconds, memory_bytes=memory)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
