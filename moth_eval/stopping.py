"""A command that is told to end leaves things as Ctrl-C would."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .errors import ExitCode


@contextmanager
def stoppable(left: str) -> Iterator[None]:
    """Make Ctrl-C and SIGTERM end a command with one line.

    Args:
        left: what the line says of the work so far.

    Raises:
        click.exceptions.Exit: it was stopped; the exit code says that it is incomplete.
    """
    try:
        with terminable():
            yield
    except KeyboardInterrupt:
        click.echo(f"moth-eval: stopped; {left}", err=True)
        raise click.exceptions.Exit(ExitCode.INCOMPLETE) from None


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM end the run as Ctrl-C does, as far as this thread may say so."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are somebody else's business
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
