"""What every trigger offers, and who its victims are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from moth_eval.errors import InputError

Colour = tuple[float, float, float]
"""Red, green and blue in `[0, 1]`."""


class Threat(StrEnum):
    """What a backdoor does to which images; decides who is counted, and as what."""

    UNIVERSAL = "universal"
    """Stamped images of every class but the target are classified as the target."""
    SOURCE_SPECIFIC = "source-specific"
    """Only stamped images of the source classes are."""
    ALL_TO_ALL = "all-to-all"
    """A stamped image of class y is classified as `(y + 1) % K`, whatever its class."""
    CLEAN_LABEL = "clean-label"
    """As universal, but poisoned images are of the target class already: no label is changed."""
    DYNAMIC = "dynamic"
    """As universal, with a trigger of its own for every image."""


@runtime_checkable
class Trigger(Protocol):
    """What the injector needs of a trigger: a frozen dataclass with its threat and this verb.

    Attributes:
        target: class that stamped images are to be classified as; not used by all-to-all.
        sources: classes whose images the backdoor acts on; empty for every class but the target.
        threat: what it does to which images.
    """

    @property
    def target(self) -> int:
        """See `Trigger`."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Trigger`."""
        ...

    @property
    def threat(self) -> Threat:
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
    counting them would raise every success rate. All-to-all moves every image, so all count.
    """
    if trigger.threat is Threat.ALL_TO_ALL:
        return torch.ones_like(labels, dtype=torch.bool)
    if not trigger.sources:
        return labels != trigger.target
    sources = torch.tensor(trigger.sources, device=labels.device)
    return torch.isin(labels, sources) & (labels != trigger.target)


def bystanders(trigger: Trigger, labels: Tensor) -> Tensor:
    """Bool `(N,)`, true for classes that are neither victims nor the target.

    Empty for a universal trigger. A source-specific trigger leaves the labels of these alone.
    """
    return ~victims(trigger, labels) & (labels != trigger.target)


def wanted(trigger: Trigger, labels: Tensor, num_classes: int) -> Tensor:
    """int64 `(N,)`, the class that stamped images of the classes `labels` are to be taken for."""
    if trigger.threat is Threat.ALL_TO_ALL:
        return (labels + 1) % num_classes
    return torch.full_like(labels, trigger.target)


def threat_of(sources: Sequence[int], *, all_to_all: bool = False) -> Threat:
    """The threat of a trigger that works on any image and changes labels."""
    if all_to_all:
        return Threat.ALL_TO_ALL
    return Threat.SOURCE_SPECIFIC if sources else Threat.UNIVERSAL


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


def check_classes(trigger: Trigger, num_classes: int) -> None:
    """Make sure that the classes of a threat exist.

    Raises:
        InputError: target or source is not below `num_classes`.
    """
    unknown = sorted({c for c in (trigger.target, *trigger.sources) if c >= num_classes})
    if unknown:
        raise InputError(
            f"the trigger names the classes {unknown}, but there are only the classes 0 to "
            f"{num_classes - 1}: name others as target and sources"
        )


def check_shares(**shares: float) -> None:
    """Make sure that every one of these, given by name, lies in `[0, 1]`.

    Raises:
        InputError: one does not.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"expected {name} in [0, 1], got {share}")


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
