"""One part of many of a run's models, for clusters that start many jobs by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

from moth_eval.errors import InputError
from moth_eval.loading.rounds import RoundModel

T = TypeVar("T")


def named(models: Sequence[RoundModel], names: Sequence[str]) -> tuple[RoundModel, ...]:
    """The models of these names, in the order of the list; all of them without a name.

    Raises:
        InputError: there is no model of one of the names.
    """
    known = {model.name for model in models}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1) or sorted(known)[:1]
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"--only: there is no model {name!r}{hint}")
    return tuple(model for model in models if not names or model.name in names)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The models whose place in the list, counted round, is `number`.

    Attributes:
        number: from 1 to `of`.
        of: how many shards there are.
    """

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> Shard:
        """The shard that `I/N` names.

        Raises:
            InputError: it is not of that form, or there is no such shard.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"--shard: expected I/N with I from 1 to N, such as 3/8, got {text!r}")
        return Shard(number=int(number), of=int(of))

    def part(self, items: Sequence[T]) -> tuple[T, ...]:
        """What of the items belongs to this shard."""
        return tuple(items[self.number - 1 :: self.of])
