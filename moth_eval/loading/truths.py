"""Ground truth from the facts that METADATA.csv and config.json state about triggers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import RoundError
from ..records import Truth
from .naming import cut

# Nine digits are far beyond any class index and keep a hostile cell from becoming a huge integer.
_NUMBER = re.compile(r"(?<![\w.+])-?\d{1,9}(?:\.\d+)?(?![\w.])")


MOST_NUMBERS = 10_000
"""A trigger names each class once, and there are few networks of more classes."""


@dataclass(frozen=True, kw_only=True)
class TriggerFacts:
    """One trigger as its metadata describe it.

    Attributes:
        kind: `polygon`, `instagram` ...; empty if not stated.
        sources: classes that it flips, in the order stated.
        targets: classes that it flips them to; normally one.
    """

    kind: str = ""
    sources: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()


def integers(value: object) -> tuple[int, ...]:
    """The whole numbers in a value: `[0 3]`, `4`, `"4.0"`, `[0, 3]`, `None` ... in order.

    Lists within a list state nothing.

    Raises:
        RoundError: there are more than 10,000.
    """
    values = value if isinstance(value, (list, tuple)) else (value,)
    found = tuple(number for item in values for number in _stated(item))
    if len(found) > MOST_NUMBERS:
        raise RoundError(f"expected at most {MOST_NUMBERS:,} classes, got {len(found):,} numbers")
    return found


def _stated(value: object) -> tuple[int, ...]:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ()
    return tuple(int(float(text)) for text in _NUMBER.findall(str(value)))


def integer(value: object) -> int | None:
    """The only whole number in a value, or None if there is none or more than one."""
    found = integers(value)
    return found[0] if len(found) == 1 else None


def flag(value: object) -> bool | None:
    """True or False from `TRUE`, `False`, `1`, `0.0` ...; None if it is neither."""
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        str(value).strip().lower()
    )


def trigger_kind(kind: str, executor: str = "", sides: str = "") -> str:
    """`polygon`, `instagram`, or the stated kind in lower case.

    Round 11 states the filter (`GothamFilterXForm`) as the type of an Instagram trigger and no
    type for a polygon; the name of the class that stamps it tells which one it is.
    """
    for known in ("instagram", "polygon"):
        if known in kind.lower() or known in executor.lower():
            return known
    if "filterxform" in kind.lower():
        return "instagram"
    return kind.lower() or ("polygon" if sides else "")


def build_truth(poisoned: bool, triggers: Sequence[TriggerFacts], num_classes: int | None) -> Truth:
    """Ground truth of a model.

    Targets and sources stand in the order of the triggers; where each trigger flips one class,
    `sources[i]` goes to `targets[i]`. When the sources of a single trigger are all classes, or all
    but its target, none are stated, which `Truth` reads as all.
    """
    if not poisoned:
        return Truth(poisoned=False)
    targets = tuple(target for trigger in triggers for target in trigger.targets)
    sources = tuple(source for trigger in triggers for source in trigger.sources)
    if len(triggers) == 1 and _are_all({*sources, *targets}, num_classes):
        sources = ()
    return Truth(
        poisoned=True,
        trigger_type=cut("+".join(_unique(trigger.kind for trigger in triggers if trigger.kind))),
        targets=targets,
        sources=sources,
    )


def _are_all(classes: set[int], num_classes: int | None) -> bool:
    # The number is a stranger's word: compared before it is counted up to.
    return num_classes == len(classes) and classes == set(range(num_classes))


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))
