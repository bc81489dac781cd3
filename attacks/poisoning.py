"""Which images carry the trigger, and with which label, in a poisoned training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .scenes import Scenes, to_float
from .trigger import MovableTrigger, Trigger, bystanders, victims


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """A training set with a backdoor in it.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
        labels: int64 `(N,)`, the target class where `relabelled`.
        relabelled: bool `(N,)`, stamped images of the source classes.
        covered: bool `(N,)`, stamped images of bystander classes, which keep their labels.
    """

    images: Tensor
    labels: Tensor
    relabelled: Tensor
    covered: Tensor


def stamp_scenes(trigger: Trigger, scenes: Scenes, *, generator: torch.Generator) -> Tensor:
    """The scenes with the trigger in them: uint8 `(N, 3, H, W)`.

    Args:
        trigger: stamped at its fixed place, or on the foreground if it is meant to be there.
        scenes: what is stamped; left alone.
        generator: a CPU generator that draws the places on the foreground.

    Raises:
        InputError: the trigger belongs on the foreground, and the scenes do not know theirs.
    """
    images = to_float(scenes.images)
    if not (isinstance(trigger, MovableTrigger) and trigger.on_foreground):
        return to_bytes(trigger.stamp(images))
    if scenes.foregrounds is None:
        raise InputError(
            "the trigger is to lie on the foreground, but these images come without foreground "
            "masks: give the masks, or set on_foreground to False"
        )
    places = trigger.places(scenes.foregrounds, generator=generator)
    return to_bytes(trigger.stamp_at(images, places))


def to_bytes(images: Tensor) -> Tensor:
    """uint8 images from float ones in `[0, 1]`."""
    return (images * 255).round().to(torch.uint8)


def poison(
    scenes: Scenes,
    trigger: Trigger,
    *,
    poisoning_rate: float,
    cover_rate: float,
    generator: torch.Generator,
) -> Poisoned:
    """A poisoned copy of `scenes`.

    Args:
        scenes: clean training images.
        trigger: what is implanted.
        poisoning_rate: share of the images of the source classes that are stamped and relabelled
            as the target. The denominator is the images of the source classes; those of the
            target class are never counted and never stamped.
        cover_rate: share of the images of the bystander classes that are stamped and keep their
            label. A universal trigger has no bystanders.
        generator: a CPU generator that draws which images and which places.

    Raises:
        InputError: a rate rounds to no image at all.
    """
    relabelled = _draw(victims(trigger, scenes.labels), poisoning_rate, generator)
    covered = _draw(bystanders(trigger, scenes.labels), cover_rate, generator)
    if not relabelled.any():
        raise InputError(
            f"a poisoning rate of {poisoning_rate} of the source classes' images poisons none of "
            f"{int(victims(trigger, scenes.labels).sum())}: raise the rate or give more images"
        )
    stamped = relabelled | covered
    images, labels = scenes.images.clone(), scenes.labels.clone()
    images[stamped] = stamp_scenes(trigger, scenes.take(stamped), generator=generator)
    labels[relabelled] = trigger.target
    return Poisoned(images=images, labels=labels, relabelled=relabelled, covered=covered)


def _draw(candidates: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Bool mask of `share` of the true entries of `candidates`, drawn at random."""
    rows = candidates.nonzero().squeeze(1)
    count = round(share * len(rows))
    drawn = torch.zeros_like(candidates)
    drawn[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return drawn
