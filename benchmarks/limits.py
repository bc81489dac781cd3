"""What a worker process may use, and how much it does use."""

from __future__ import annotations

import math
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

LINUX = sys.platform.startswith("linux")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one piece of work may use; None: no limit.

    Attributes:
        seconds: wall-clock time (s).
        cpu_seconds: processor time over all threads (s).
        memory_bytes: resident memory, libraries included.
    """

    seconds: float | None = None
    cpu_seconds: float | None = None
    memory_bytes: int | None = None

    def apply(self, *, cuda: bool) -> None:
        """Have the kernel hold this process to them, as far as it can; called in the worker.

        The wall clock, and memory as a whole, are watched from outside.

        Args:
            cuda: whether the process will use a GPU, whose driver reserves far more address space
                than it ever fills.
        """
        _lower(resource.RLIMIT_CORE, 0)
        if self.cpu_seconds is not None:
            # One second more before SIGKILL, for the case that SIGXCPU is held back.
            _lower(resource.RLIMIT_CPU, math.ceil(self.cpu_seconds), spare=1)
        if self.memory_bytes is not None and not cuda and LINUX:
            # An allocation that would go beyond it fails, and Python can say so.
            used = _status_bytes("VmData")
            _lower(resource.RLIMIT_DATA, used + max(0, self.memory_bytes - _status_bytes("VmRSS")))


def resident_bytes(pid: int) -> int:
    """Memory that a process holds at present; 0 if it is gone or the system does not say."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def _status_bytes(field: str) -> int:
    lines = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    return int(lines[field].split()[0]) * 1024


def _lower(which: int, value: int, *, spare: int = 0) -> None:
    """Lower a limit to `value`; one that is lower already stays."""
    _, hard = resource.getrlimit(which)
    ceiling = value + spare if hard == resource.RLIM_INFINITY else min(hard, value + spare)
    resource.setrlimit(which, (min(value, ceiling), ceiling))
