"""The command line that a run was called with, for its record."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

PROGRAM = "moth-eval"

_CALLED: ContextVar[tuple[str, ...]] = ContextVar("called", default=())


def called_as() -> tuple[str, ...]:
    """The command line of what is being carried out, the program's name first."""
    return _CALLED.get() or (Path(sys.argv[0]).name, *sys.argv[1:])


@contextmanager
def calling(line: Sequence[str]) -> Iterator[None]:
    """Let `called_as` answer with this command line, without the program's name, until leaving."""
    token = _CALLED.set((PROGRAM, *line))
    try:
        yield
    finally:
        _CALLED.reset(token)
