"""How a hardening shows that it moves, stage by stage: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINES = 20
"""Lines at most for a stage that says how far it is."""

TOLD_PER_LINE = 10
"""Where it does not: so many steps, one line."""


class Stages:
    """Shows one stage after the other; a context manager."""

    def __init__(self, console: Console) -> None:
        """Show nothing yet."""
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", visible=False)
        self._stage = ""
        self._begin("", 0.0)

    def __enter__(self) -> Stages:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def tell(self, stage: str, share: float | None, line: str) -> None:
        """Show how far a stage is.

        Args:
            stage: what is going on; a new one ends the one before.
            share: of it that is done, in `[0, 1]`; None: unknown.
            line: more about it.
        """
        if stage != self._stage:
            self._begin(stage, share or 0.0)
        self._told += 1
        if share is not None:
            self._bar.update(self._task, completed=share)
        if self._is_worth_a_line(share):
            left = self._left(share)
            self._console.print(
                f"{stage}: {line}{left}", markup=False, highlight=False, soft_wrap=True
            )

    def _begin(self, stage: str, share: float) -> None:
        self._stage, self._told, self._shown = stage, 0, -1
        self._from, self._started = share, time.monotonic()
        self._bar.reset(self._task, description=stage, total=1.0, visible=bool(stage))
        self._bar.update(self._task, completed=share)

    def _is_worth_a_line(self, share: float | None) -> bool:
        if share is None:
            return self._told % TOLD_PER_LINE == 1
        reached = int(share * LINES)
        before, self._shown = self._shown, max(reached, self._shown)
        return reached > before

    def _left(self, share: float | None) -> str:
        """The estimated time that is left; nothing where the bar shows it."""
        if share is None or share <= self._from or self._console.is_terminal:
            return ""
        rate = (time.monotonic() - self._started) / (share - self._from)
        return f"  [{100 * share:.0f} %, {rate * (1 - share):.0f} s left]"
