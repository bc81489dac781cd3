"""What hyper-parameters may be."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import HardeningError


def require_at_least(least: int, **counts: int) -> None:
    """Make sure that none of these, given by name, is too low.

    Raises:
        HardeningError: one is; the message says which, and what it is.
    """
    low = [f"{name}={count}" for name, count in counts.items() if count < least]
    if low:
        raise HardeningError(f"expected at least {least}, got {', '.join(low)}")


def require_in(interval: str, **values: float | None) -> None:
    """Make sure that each of these, given by name, lies in an interval such as `(0, 1]`.

    Args:
        interval: two numbers, `inf` among them, in brackets; a round one leaves its end out.
        values: one that is None, for no limit, may be.

    Raises:
        HardeningError: one lies outside; the message says which, and what it is.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if value is None:
            continue
        above = value > low if interval[0] == "(" else value >= low
        below = value < high if interval[-1] == ")" else value <= high
        if not (above and below):
            raise HardeningError(f"{name} must be in {interval}, got {value}")


def require_word(words: Sequence[str], **values: str) -> None:
    """Make sure that each of these, given by name, is one of the words.

    Raises:
        HardeningError: one is not; the message says which, and what it is.
    """
    for name, value in values.items():
        if value not in words:
            raise HardeningError(f"{name} must be one of {', '.join(words)}, got {value!r}")
