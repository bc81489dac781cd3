"""How a run shows that it moves: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from moth_eval.records import ScanRecord
from moth_eval.text import visible


class Reporter(Protocol):
    """What a study tells of its progress."""

    def advance(self, line: str) -> None:
        """One more task is done; `line` says which and how it ended."""
        ...


class ProgressReporter:
    """A reporter on a console; a context manager."""

    def __init__(self, console: Console, title: str, total: int, done: int = 0) -> None:
        """Show `done` of `total` tasks as finished under `title`."""
        self._console = console
        self._total, self._done, self._before = total, done, done
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done)

    def __enter__(self) -> ProgressReporter:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def advance(self, line: str) -> None:
        """One more task is done."""
        self._done += 1
        self._bar.advance(self._task)
        rate = (time.monotonic() - self._started) / (self._done - self._before)
        left = rate * (self._total - self._done)
        note = "" if self._console.is_terminal else f"  [{left:.0f} s left]"
        self._console.print(
            f"{self._done}/{self._total}  {line}{note}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def scan_line(record: ScanRecord) -> str:
    """One line about a scan that is over, nothing in which acts on a terminal."""
    if record.score is None:
        result = f"{record.status}: {record.reason}"
    else:
        named = "" if record.target is None else f", suspected target {record.target}"
        result = f"score {record.score:.2f}{named}"
    parts = (record.model, record.scanner, result, f"({record.seconds:.0f} s)")
    return "  ".join(map(visible, parts))
