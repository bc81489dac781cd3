"""Names that a file chose, made fit for a message."""

from __future__ import annotations

from ..text import visible

LONGEST_SHOWN = 200


def shown(value: object) -> str:
    """The text of `value` on one line, visible, and cut after 200 characters."""
    text = str(value)
    cut = visible(text[:LONGEST_SHOWN])
    return f"{cut[:LONGEST_SHOWN]}..." if max(len(text), len(cut)) > LONGEST_SHOWN else cut
