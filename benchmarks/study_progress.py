"""How a study of hardenings shows that it moves: its cells, and what goes on within one."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from moth_eval.hardening_cells import CellState
from moth_eval.text import visible

from .cells import Cell

LINE_SECONDS = 30.0
"""Where no bar can be drawn: at most one line in so many seconds from within a cell."""


class CellProgress:
    """Shows finished cells and the present one; a context manager."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        """Show `done` of `total` cells as finished."""
        self._console, self._total, self._done = console, total, done
        self._last = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("hardening", total=total, completed=done)

    def __enter__(self) -> CellProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, cell: Cell, stage: str, share: float | None, line: str) -> None:
        """Show how far the present cell is."""
        where = visible(f"{cell.model}, {cell.study.method}, seed {cell.study.seed}")
        part = "" if share is None else f" {share:.0%}"
        self._bar.update(self._task, description=f"{where}: {stage}{part}")
        if not self._console.is_terminal and time.monotonic() - self._last > LINE_SECONDS:
            self._print(f"  {where}: {stage}{part}: {visible(line)}")

    def advance(self, state: CellState) -> None:
        """One more cell is over."""
        self._done += 1
        self._bar.advance(self._task)
        self._print(f"{self._done}/{self._total}  {cell_line(state)}")

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def cell_line(state: CellState) -> str:
    """One line about a cell that is over, nothing in which acts on a terminal."""
    card = state.hardened
    if card is None or card.accuracy is None:
        return visible(f"{state.label}: {state.status}: {state.reason}")
    text = f"accuracy {card.accuracy.before:.2%} -> {card.accuracy.after:.2%}"
    increase = None if card.distance is None else card.distance.increase
    if increase is not None:
        text += f", distance {increase.mean_of_ratios:+.1%}"
    return visible(f"{state.label}: {text} ({card.training.seconds:.0f} s)")
