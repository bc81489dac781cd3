"""Folders within each other, deeper than what recurses can go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def deep_folder(parent: Path) -> Iterator[None]:
    """1,500 folders within each other in `parent`; gone afterwards, which pytest cannot see to."""
    inner = parent
    for _ in range(1500):
        inner = inner / "d"
        inner.mkdir()
    try:
        yield
    finally:
        while inner != parent:
            inner.rmdir()
            inner = inner.parent
