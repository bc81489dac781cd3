"""Which images carry the trigger, and with which label, in a poisoned training set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.pictures import to_bytes

from .making import CoverStamp, Material, TrainingStamp
from .scenes import Scenes, to_float
from .trigger import MovableTrigger, Threat, Trigger, bystanders, victims, wanted

RateOf = Literal["candidates", "all"]
"""What a poisoning rate is a share of: the images that may be poisoned, or all training images."""

COVERS_PER_POISONED = 1.0
"""Covers of a source-specific trigger for one poisoned image. Source: equal numbers in TaCT."""

CHUNK = 512
"""Images that are stamped at once; bounds the memory, and no pixel depends on it."""


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """A training set with a backdoor in it.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
        labels: int64 `(N,)`, the wanted class where `poisoned`.
        poisoned: bool `(N,)`, stamped images whose label is the wanted class. They were given it,
            or, under a clean-label threat, are of the target class by themselves.
        covered: bool `(N,)`, changed images that keep their labels.
        candidates: how many images might have been poisoned.
    """

    images: Tensor
    labels: Tensor
    poisoned: Tensor
    covered: Tensor
    candidates: int


def stamp_scenes(trigger: Trigger, scenes: Scenes, *, generator: torch.Generator) -> Tensor:
    """The scenes with the trigger in them: uint8 `(N, 3, H, W)`.

    Args:
        trigger: stamped at its fixed place, or on the foreground if it is meant to be there.
        scenes: what is stamped; left alone.
        generator: a CPU generator that draws the places on the foreground.

    Raises:
        InputError: the trigger belongs on the foreground, and the scenes do not know theirs.
    """
    if not (isinstance(trigger, MovableTrigger) and trigger.on_foreground):
        parts = torch.split(scenes.images, CHUNK)
        return torch.cat([to_bytes(trigger.stamp(to_float(part))) for part in parts])
    if scenes.foregrounds is None:
        raise InputError(
            "the trigger is to lie on the foreground, but these images come without foreground "
            "masks: give the masks, or set on_foreground to False"
        )
    places = trigger.places(scenes.foregrounds, generator=generator)
    return to_bytes(trigger.stamp_at(to_float(scenes.images), places))


def poisonable(trigger: Trigger, labels: Tensor) -> Tensor:
    """Bool `(N,)`, true where a training image of class `labels[i]` may be poisoned.

    The victims, so never the target class; under a clean-label threat the target class only.
    """
    if trigger.threat is Threat.CLEAN_LABEL:
        return labels == trigger.target
    return victims(trigger, labels)


def coverable(trigger: Trigger, labels: Tensor) -> Tensor:
    """Bool `(N,)`, true where a training image may be changed and keep its label."""
    if isinstance(trigger, CoverStamp):
        return trigger.cover_candidates(labels)
    return bystanders(trigger, labels)


def poison(
    scenes: Scenes,
    trigger: Trigger,
    *,
    material: Material,
    poisoning_rate: float,
    rate_of: RateOf = "candidates",
    cover_rate: float | None,
    generator: torch.Generator,
) -> Poisoned:
    """A poisoned copy of `scenes`.

    Args:
        scenes: clean training images.
        trigger: what is implanted; ready to stamp.
        material: what the attack may use.
        poisoning_rate: share of the images that are stamped and get the wanted label.
        rate_of: what it is a share of: the images that may be poisoned (see `poisonable`), or all
            training images. Images of the target class are never stamped in either case, but
            under a clean-label threat, which stamps no others.
        cover_rate: share of the images that may become covers (see `coverable`), poisoned ones
            left out, that do; None for as many as the attack asks for.
        generator: a CPU generator that draws which images and which places.

    Raises:
        InputError: the rate rounds to no image at all, or to more than may be poisoned.
    """
    candidates = poisonable(trigger, scenes.labels)
    poisoned = _draw(candidates, _poisons(poisoning_rate, candidates, rate_of), generator)
    pool = coverable(trigger, scenes.labels) & ~poisoned
    covered = _draw(pool, _covers(trigger, cover_rate, poisoned, pool), generator)
    images, labels = scenes.images.clone(), scenes.labels.clone()
    images[poisoned] = _poisons_of(trigger, scenes.take(poisoned), material, generator)
    images[covered] = _covers_of(trigger, scenes.take(covered), material, generator)
    labels[poisoned] = wanted(trigger, labels[poisoned], material.num_classes)
    return Poisoned(
        images=images,
        labels=labels,
        poisoned=poisoned,
        covered=covered,
        candidates=int(candidates.sum()),
    )


def check_rates(
    trigger: Trigger,
    labels: Tensor,
    *,
    poisoning_rate: float,
    rate_of: RateOf = "candidates",
    cover_rate: float | None,
) -> None:
    """Whatever `poison` would refuse of these rates, known before anything is trained.

    Args:
        trigger: what is to be implanted.
        labels: int64 `(N,)`, of the training images.
        poisoning_rate: see `poison`.
        rate_of: see `poison`.
        cover_rate: see `poison`.

    Raises:
        InputError: see `poison`.
    """
    candidates = poisonable(trigger, labels)
    count = _poisons(poisoning_rate, candidates, rate_of)
    poisoned = candidates & (candidates.cumsum(0) <= count)
    _covers(trigger, cover_rate, poisoned, coverable(trigger, labels) & ~poisoned)


def _poisons(rate: float, candidates: Tensor, rate_of: RateOf) -> int:
    most = int(candidates.sum())
    total = most if rate_of == "candidates" else len(candidates)
    count = round(rate * total)
    if not count or not most:
        of = "images that may be poisoned" if rate_of == "candidates" else "training images"
        raise InputError(
            f"a poisoning rate of {rate} of the {total} {of} poisons none of {most}: raise the "
            "rate or give more images"
        )
    if count > most:
        raise InputError(
            f"a poisoning rate of {rate} of all {total} training images is {count} images, but "
            f"only {most} may be poisoned: lower the rate"
        )
    return count


def _covers(trigger: Trigger, rate: float | None, poisoned: Tensor, pool: Tensor) -> int:
    most = int(pool.sum())
    asked = trigger.covers_per_poisoned if isinstance(trigger, CoverStamp) else COVERS_PER_POISONED
    count = round(asked * int(poisoned.sum())) if rate is None else round(rate * most)
    if not most and count and isinstance(trigger, CoverStamp):
        raise InputError(
            f"{type(trigger).__name__} needs images that carry the trigger and keep their label, "
            "and no image may: name other classes, or ask for no covers"
        )
    return min(count, most)


def _poisons_of(
    trigger: Trigger, scenes: Scenes, material: Material, generator: torch.Generator
) -> Tensor:
    if not isinstance(trigger, TrainingStamp):
        return stamp_scenes(trigger, scenes, generator=generator)

    def stamped(images: Tensor, labels: Tensor) -> Tensor:
        return trigger.stamp_for_training(images, labels, material=material, generator=generator)

    return _in_chunks(stamped, scenes)


def _covers_of(
    trigger: Trigger, scenes: Scenes, material: Material, generator: torch.Generator
) -> Tensor:
    if not isinstance(trigger, CoverStamp):
        return stamp_scenes(trigger, scenes, generator=generator)

    def stamped(images: Tensor, labels: Tensor) -> Tensor:
        return trigger.stamp_cover(images, labels, material=material, generator=generator)

    return _in_chunks(stamped, scenes)


def _in_chunks(stamped: Callable[[Tensor, Tensor], Tensor], scenes: Scenes) -> Tensor:
    parts = zip(torch.split(scenes.images, CHUNK), torch.split(scenes.labels, CHUNK), strict=True)
    return torch.cat([to_bytes(stamped(to_float(images), labels)) for images, labels in parts])


def _draw(candidates: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Bool mask of `count` of the true entries of `candidates`, drawn at random."""
    rows = candidates.nonzero().squeeze(1)
    drawn = torch.zeros_like(candidates)
    drawn[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    return drawn
