"""How figures, counts and untrusted text are put into words."""

from __future__ import annotations

from moth_eval.intervals import Interval

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

NO_EVIDENCE = "no evidence found"
ABOVE_CUT = "above published cut"
NO_CUT = "scored, no published cut"


def finding(row: Row) -> str:
    """What the scan says of one model; the mildest answer is that nothing was found."""
    if row.status != "scored":
        return STATUS_WORDS[row.status]
    if row.above_cut is None:
        return NO_CUT
    return ABOVE_CUT if row.above_cut else NO_EVIDENCE


def count(number: int, noun: str) -> str:
    """`1 model`, `2 models`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def percent(fraction: float) -> str:
    """`33 %`; two digits below 10 %."""
    value = 100 * fraction
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"


def aligned(value: float | None) -> str:
    """The number with three digits, zeros kept so that columns line up; a dash where none is."""
    return "–" if value is None else f"{value:#.3g}".removesuffix(".")


def number(value: float | None, digits: int = 3) -> str:
    """The number with so many significant digits; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}"


def span(interval: Interval) -> str:
    """`0.80 to 1.00`."""
    return f"{interval.low:.2f} to {interval.high:.2f}"
