"""How figures, counts and untrusted text are put into words."""

from __future__ import annotations

from collections.abc import Sequence

from moth_eval.intervals import Interval
from moth_eval.records import EvidenceRecord
from moth_eval.text import percent as percent
from moth_eval.text import visible

from .rows import PENDING, Row

STATUS_WORDS = {
    "scored": "scored",
    "inconclusive": "inconclusive",
    "refused": "refused",
    "timed-out": "timed out",
    "failed": "failed",
    "crashed": "crashed",
    "out-of-memory": "out of memory",
    PENDING: "pending",
}

MOST_NAMED = 8
"""Names that a line of a summary holds."""

NO_EVIDENCE = "no evidence found"
ABOVE_CUT = "above its cut"
NO_CUT = "scored, no cut"

CUTS = {"published": "the published cut", "ours": "our cut", "given": "the given cut"}
"""Origin of a cut -> its name."""


def finding(row: Row) -> str:
    """What the scan says of one model; the mildest answer is that nothing was found."""
    if row.status != "scored":
        return STATUS_WORDS[row.status]
    if row.above_cut is None:
        return NO_CUT
    return ABOVE_CUT if row.above_cut else NO_EVIDENCE


def false_alarms(rate: float | None) -> str:
    """How often a cut is a false alarm, as the end of a sentence about it."""
    if rate is None:
        return "how many clean models are above it is not known"
    return f"by simulation {percent(rate)} of clean models are above it"


def evidence_words(found: Sequence[EvidenceRecord], most: int = 3) -> list[str]:
    """The first figures of a scan in words, such as `largest margin (logits), class 3: 12.5`."""
    return [f"{visible(one.what)}{_about(one)}: {number(one.value)}" for one in found[:most]]


def _about(one: EvidenceRecord) -> str:
    if one.source is not None and one.target is not None:
        return f", {one.source} → {one.target}"
    if one.target is not None:
        return f", class {one.target}"
    return "" if one.source is None else f", from class {one.source}"


def count(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are: `a, b and 3 more`."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return [line.rstrip() for line in padded]


def aligned(value: float | None) -> str:
    """The number with three digits, zeros kept so that columns line up; a dash where none is."""
    return "–" if value is None else f"{value:#.3g}".removesuffix(".")


def number(value: float | None, digits: int = 3) -> str:
    """The number with so many significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def span(interval: Interval) -> str:
    """`0.80 to 1.00`."""
    return f"{interval.low:.2f} to {interval.high:.2f}"
