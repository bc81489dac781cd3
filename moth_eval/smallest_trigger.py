"""Which of many inverted triggers speaks for a suspicion. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar


class Sized(Protocol):
    """A trigger, or the record of one."""

    @property
    def target(self) -> int:
        """Class it leads to."""
        ...

    @property
    def source(self) -> int | None:
        """Class it leads from; None: any."""
        ...

    @property
    def size(self) -> float:
        """Of its mask."""
        ...


T = TypeVar("T", bound=Sized)


def smallest_named(triggers: Sequence[T], target: int | None, source: int | None) -> T | None:
    """The smallest trigger of a suspected pair, else of its target, else of all; None of none.

    Args:
        triggers: valid ones.
        target: suspected target class, if one is named.
        source: suspected source class, if one is named.
    """
    named = [t for t in triggers if t.target == target]
    both = [t for t in named if t.source == source]
    return min(both or named or triggers, key=lambda t: t.size, default=None)
