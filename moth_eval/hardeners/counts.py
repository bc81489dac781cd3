"""Hyper-parameters that count something."""

from __future__ import annotations

from ..errors import HardeningError


def require_at_least(least: int, **counts: int) -> None:
    """Make sure that none of these, given by name, is too low.

    Raises:
        HardeningError: one is; the message says which, and what it is.
    """
    low = [f"{name}={count}" for name, count in counts.items() if count < least]
    if low:
        raise HardeningError(f"expected at least {least}, got {', '.join(low)}")
