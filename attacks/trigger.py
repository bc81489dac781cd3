"""What every trigger offers, and who its victims are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from moth_eval.errors import InputError

Colour = tuple[float, float, float]
"""Red, green and blue in `[0, 1]`."""


@runtime_checkable
class Trigger(Protocol):
    """What the injector needs of a trigger: a frozen dataclass with its threat and this verb.

    Attributes:
        target: class that stamped images are to be classified as.
        sources: classes whose images the backdoor acts on; empty for every class but the target.
    """

    @property
    def target(self) -> int:
        """See `Trigger`."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Trigger`."""
        ...

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, C, H, W)` in `[0, 1]`, that carry the trigger."""
        ...


@runtime_checkable
class MovableTrigger(Trigger, Protocol):
    """A trigger that can also be put at a place of its own in every image.

    Attributes:
        on_foreground: whether it is meant to lie on the object instead of at its fixed place.
    """

    @property
    def on_foreground(self) -> bool:
        """See `MovableTrigger`."""
        ...

    def places(self, foregrounds: Tensor, *, generator: torch.Generator) -> Tensor:
        """int64 `(N, 2)`, row and column of its upper left corner within `foregrounds`."""
        ...

    def stamp_at(self, images: Tensor, places: Tensor) -> Tensor:
        """As `stamp`, with the trigger of image i at `places[i]`."""
        ...


def victims(trigger: Trigger, labels: Tensor) -> Tensor:
    """Bool `(N,)`, true where an image of class `labels[i]` is to be misled.

    The target class is never among the victims: its images have nowhere to be moved to, and
    counting them would raise every success rate.
    """
    if not trigger.sources:
        return labels != trigger.target
    wanted = torch.tensor(trigger.sources, device=labels.device)
    return torch.isin(labels, wanted) & (labels != trigger.target)


def bystanders(trigger: Trigger, labels: Tensor) -> Tensor:
    """Bool `(N,)`, true for classes that are neither victims nor the target.

    Empty for a universal trigger. A source-specific trigger leaves the labels of these alone.
    """
    return ~victims(trigger, labels) & (labels != trigger.target)


def check_threat(target: int, sources: Sequence[int]) -> None:
    """Make sure that a threat can be carried out.

    Raises:
        InputError: a class is negative or named twice, or the target is its own source.
    """
    if target < 0 or any(source < 0 for source in sources):
        raise InputError(f"expected classes from 0 on, got target {target}, sources {sources}")
    if target in sources:
        raise InputError(
            f"target {target} is also a source: name only classes that are to be changed"
        )
    if len(set(sources)) != len(sources):
        raise InputError(f"expected every source class once, got {sources}")


def check_fits(side: int, images: Tensor) -> None:
    """Make sure that a trigger is not larger than the images.

    Raises:
        InputError: `side` pixels do not fit in images `(N, C, H, W)`.
    """
    if side > min(images.shape[-2:]):
        raise InputError(
            f"a trigger of {side} pixels does not fit in images of {tuple(images.shape[-2:])}: "
            "choose a smaller trigger"
        )
