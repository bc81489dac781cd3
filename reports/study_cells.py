"""What the reports of studies say of their methods and cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moth_eval.hardening_cells import CellState
from moth_eval.removal_records import RemovalState
from moth_eval.text import visible

from .wording import MOST_NAMED, count

WIDEST_METHOD = 40
"""Characters of a method in the summary and the figure."""


def shortened(method: str) -> str:
    """A method as a narrow table shows it; the CSV files hold it whole."""
    return method if len(method) <= WIDEST_METHOD else f"{method[: WIDEST_METHOD - 1]}…"


def missing_lines(what: str, cells: Sequence[CellState | RemovalState]) -> list[str]:
    """How many cells are without `what`, and the first of them with the reason."""
    if not cells:
        return []
    named = [visible(f"{c.label}: {c.status} {c.reason}").rstrip() for c in cells[:MOST_NAMED]]
    more = len(cells) - MOST_NAMED
    rest = [f"  and {more} more"] if more > 0 else []
    head = f"without {what}, in no mean: {count(len(cells), 'cell')}"
    return [head, *(f"  {line}" for line in named), *rest]


def models_by_note(cells: Iterable[CellState | RemovalState]) -> dict[str, list[str]]:
    """What speaks against the figures -> the models that it is true of."""
    notes: dict[str, dict[str, None]] = {}
    for cell in cells:
        for note in cell.card.notes if cell.card else ():
            notes.setdefault(note, {})[cell.model] = None
    return {note: list(models) for note, models in notes.items()}
