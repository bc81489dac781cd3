"""How a study of cells shows that it moves: its cells, and what goes on within one."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, Protocol, TypeVar

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
from moth_eval.records import ScanRecord
from moth_eval.removal_records import RemovalState
from moth_eval.text import visible

from .harden_plan import HardenStudy
from .progress import ProgressReporter, scan_line

S = TypeVar("S")

LINE_SECONDS = 30.0
"""Where no bar can be drawn: at most one line in so many seconds from within a cell."""


class _Shown(Protocol):
    """A cell of any study."""

    @property
    def model(self) -> str: ...

    @property
    def method(self) -> str: ...

    @property
    def study(self) -> HardenStudy: ...


class CellProgress(Generic[S]):
    """Shows finished cells and the present one; a context manager."""

    def __init__(
        self, console: Console, total: int, done: int, *, line: Callable[[S], str]
    ) -> None:
        """Show `done` of `total` cells as finished, and those that are over by what `line` says."""
        self._line = line
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
        self._task = self._bar.add_task("cells", total=total, completed=done)

    def __enter__(self) -> CellProgress[S]:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, cell: _Shown, stage: str, share: float | None, line: str) -> None:
        """Show how far the present cell is."""
        where = visible(f"{cell.model}, {cell.method}, seed {cell.study.seed}")
        part = "" if share is None else f" {share:.0%}"
        self._bar.update(self._task, description=f"{where}: {stage}{part}")
        if not self._console.is_terminal and time.monotonic() - self._last > LINE_SECONDS:
            self._print(f"  {where}: {stage}{part}: {visible(line)}")

    def advance(self, state: S) -> None:
        """One more cell is over."""
        self._done += 1
        self._bar.advance(self._task)
        self._print(f"{self._done}/{self._total}  {self._line(state)}")

    def _print(self, line: str) -> None:
        self._last = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class StagesProgress:
    """Shows stages of scans and of cells one after the other; a context manager."""

    def __init__(self, console: Console) -> None:
        """Show nothing yet."""
        self._console, self._stack = console, ExitStack()
        self._scans = ProgressReporter(console, "", 0)
        self._cells = CellProgress(console, 0, 0, line=cell_line)

    def __enter__(self) -> StagesProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self, stage: str, total: int, done: int) -> None:
        """A stage begins, in which `done` of `total` parts are done."""
        self._stack.close()
        head = f"{stage}: {done} of {total} done"
        self._console.print(head, markup=False, highlight=False, soft_wrap=True)
        if stage == "hardening":
            cells = CellProgress(self._console, total, done, line=cell_line)
            self._cells = self._stack.enter_context(cells)
        else:
            scans = ProgressReporter(self._console, stage, total, done)
            self._scans = self._stack.enter_context(scans)

    def scanned(self, record: ScanRecord) -> None:
        """One more scan is over."""
        self._scans.advance(scan_line(record))

    def tell(self, cell: _Shown, stage: str, share: float | None, line: str) -> None:
        """Show how far the present hardening is."""
        self._cells.tell(cell, stage, share, line)

    def hardened(self, state: CellState) -> None:
        """One more hardening is over."""
        self._cells.advance(state)


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


def removal_line(state: RemovalState) -> str:
    """The same of a repair."""
    if state.card is None:
        return visible(f"{state.label}: {state.status}: {state.reason}")
    row, before = state.card.variants[0], state.card.before.rates
    text = f"accuracy {before.accuracy:.2%} -> {row.rates.accuracy:.2%}"
    if before.asr is not None and row.rates.asr is not None:
        text += f", ASR {before.asr:.2%} -> {row.rates.asr:.2%}, RA {row.rates.ra:.2%}"
    told = " (oracle)" if row.oracle else ""
    return visible(f"{state.label}{told}: {text} ({state.card.seconds:.0f} s)")
