"""What the system says of living processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One line of `/proc`: a process, the one that started it, and its group."""

    pid: int
    state: str
    parent: int
    group: int


def processes() -> Iterator[Process]:
    """Every process of this machine, those included that nobody has collected yet."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            yield Process(int(path.name), fields[0], int(fields[1]), int(fields[2]))
