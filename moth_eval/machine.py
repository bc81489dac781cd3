"""What this machine has to offer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
"""Where a container's limits stand (version 2, or version 1 in its sub-folders)."""


def processors() -> int:
    """Processors that this process may use, a container's share rounded down."""
    share = _numbers(CGROUP / "cpu.max")
    if len(share) == 2 and share[1]:
        return max(1, min(_affine(), share[0] // share[1]))
    return _affine()


def _affine() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Memory that this process may still take without swapping, in a container or outside."""
    return max(0, min(_free_bytes(), *_container_bytes()))


def _container_bytes() -> list[int]:
    old = CGROUP / "memory"
    files = [
        (CGROUP / "memory.max", CGROUP / "memory.current", CGROUP / "memory.stat", ""),
        (
            old / "memory.limit_in_bytes", old / "memory.usage_in_bytes", old / "memory.stat",
            "total_",
        ),
    ]  # fmt: skip
    free = []
    for limit, used, details, prefix in files:
        most, taken = _numbers(limit), _numbers(used)
        if most and taken:
            # Files that were read count as used, and are given up when memory is wanted.
            free.append(most[0] - taken[0] + _figure(details, f"{prefix}inactive_file"))
    return free or [1 << 62]


def _figure(path: Path, name: str) -> int:
    """A figure of a file that has a name and a number in each line; 0 if it is not there."""
    try:
        fields = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
        return int(fields.get(name, 0))
    except (OSError, ValueError):
        return 0


def _numbers(path: Path) -> list[int]:
    """The whole numbers in a small file; none if it is absent or says `max`."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


def _free_bytes() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def lack_of_memory(error: BaseException) -> str | None:
    """The first line of an exception that says that memory ran out; None of any other one.

    Such exceptions are Python's, torch's and the system's.
    """
    if not _is_out_of_memory(error):
        return None
    return str(error).strip().partition("\n")[0] or type(error).__name__


def lack_of_disk(error: BaseException) -> bool:
    """Whether an exception says that a disk takes no more: full, beyond a quota, or read-only."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "out of memory", "bad_alloc", "could not create a memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
