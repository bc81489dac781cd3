"""Names that a file chose, made fit for a message."""

from __future__ import annotations

from ..text import visible

LONGEST_SHOWN = 200


def cut(text: str) -> str:
    """The text as it is, but cut after 200 characters."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def shown(value: object) -> str:
    """The text of `value` on one line, visible, and cut after 200 characters."""
    text = str(value)
    start = visible(text[:LONGEST_SHOWN])
    whole = max(len(text), len(start)) <= LONGEST_SHOWN
    return start if whole else f"{start[:LONGEST_SHOWN]}..."
