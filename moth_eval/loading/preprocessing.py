"""Which normalisation a network was trained with: the one under which it sees clean images best.

The rounds document one normalisation and trained with another: the reference of rounds 0 to 2
stretches every image to its own extremes, while training divided by 255, and rounds 0 and 1 read
images as BGR. Both are tried; where they differ by no more than chance, training's counts.

Models that were saved with a statement of their own are taken at their word, and the word is
checked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..subject import Examples, Preprocessing
from .normalisations import PLAIN, canonical, numbers, written

ENOUGH = 1000
"""Examples that a choice rests on at most."""

_BEYOND_CHANCE = 1.645
"""Standard errors of a difference that one in 20 exceeds by chance."""

_ROUNDS_0_1 = ("unit-bgr", "minmax-bgr", "unit", "minmax")
_LATER_ROUNDS = ("unit", "minmax")
# Not all that have a name: each costs a pass, and is one more that may win by chance.
_FILES = (*_LATER_ROUNDS, "unit-imagenet", "unit-cifar10")

Origin = Literal["found", "stated", "given"]
"""Among the candidates, by the model's side-car, or by the caller."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The normalisation chosen, and what spoke for it.

    Attributes:
        name: as `moth_eval.loading.normalisations` writes it.
        preprocessing: the normalisation.
        tried: name of every candidate -> fraction of the clean examples looked at that is
            classified rightly, in `[0, 1]`, in order of preference.
        logits: outputs `(N, K)` for these examples under the chosen one.
        origin: where it comes from.
        better: name of the best one that beats a stated one by more than chance; empty: none.
    """

    name: str
    preprocessing: Preprocessing
    tried: Mapping[str, float]
    logits: Tensor
    origin: Origin = "found"
    better: str = ""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What a network says of `N` examples under one candidate.

    Attributes:
        preprocessing: the candidate.
        logits: outputs `(N, K)`.
        right: bool `(N,)`, where they are right and finite.
    """

    preprocessing: Preprocessing
    logits: Tensor
    right: Tensor

    @property
    def finite(self) -> bool:
        """Whether all outputs are."""
        return bool(torch.isfinite(self.logits).all())

    @property
    def accuracy(self) -> float:
        """Fraction of the examples, in `[0, 1]`."""
        return float(self.right.double().mean())


def preprocessing_of(name: str, *, channels: int | None = None) -> Preprocessing:
    """The normalisation that a name or numbers stand for; see `normalisations.canonical`.

    Args:
        name: its text.
        channels: number of channels of the images that it is for, if that is known.

    Raises:
        InputError: there is none of that name, its numbers are none to divide by, or they are for
            images of another number of channels.
    """
    name = canonical(name)
    if name in PLAIN:
        scale, _, order = name.partition("-")
        return Preprocessing(
            scale="minmax" if scale == "minmax" else "unit",
            channel_order="BGR" if order else "RGB",
        )
    mean, std = numbers(name)
    most = max(len(mean), len(std))
    if most > 1 and channels not in (None, most):
        raise InputError(
            f"the normalisation {name} is for images of {most} channels, these have {channels}"
        )
    return Preprocessing(mean=mean, std=std)


def name_of(preprocessing: Preprocessing) -> str:
    """The text that `preprocessing_of` makes this normalisation of again; empty: there is none."""
    mean, std = preprocessing.mean, preprocessing.std
    if mean is None and std is None:
        return preprocessing.name
    plain = (preprocessing.scale, preprocessing.channel_order) == ("unit", "RGB")
    return written(mean, std) if plain and mean is not None and std is not None else ""


def candidates(layout: str, channels: int) -> tuple[str, ...]:
    """Names of the normalisations that come into question, the one that training used first.

    Args:
        layout: layout of the round.
        channels: number of channels C; means, deviations and BGR are for three.
    """
    if channels != 3 or layout not in ("files", "trojai-0-1"):
        return _LATER_ROUNDS
    return _FILES if layout == "files" else _ROUNDS_0_1


@torch.no_grad()
def choose_preprocessing(
    module: nn.Module,
    examples: Examples,
    *,
    layout: str,
    batch_size: int = 64,
    only: str = "",
    stated: str = "",
) -> Choice:
    """The candidate under which most clean examples are classified rightly.

    One that comes later has to be better by more than chance (the normal form of McNemar's test,
    one-sided at 5 %): images that fill their range look alike under several. What a model states of
    itself is taken even then, and the better one is named. Of more than `ENOUGH` examples, so many
    that lie evenly spaced among them are looked at.

    Args:
        module: network in eval mode, on the device of the examples.
        examples: clean labelled images.
        layout: layout of the round, which decides on the candidates.
        batch_size: images per forward pass.
        only: the one normalisation that is looked at; empty: all candidates.
        stated: what the model states of itself, looked at before all others; nothing beside `only`.

    Raises:
        InputError: there is no such normalisation, or not for so many channels; or the network
            gives NaN or infinite outputs under the one that was named, or under every candidate.
    """
    channels = examples.images.shape[1]
    names = dict.fromkeys([only] if only else [stated, *candidates(layout, channels)])
    names.pop("", None)
    rows = looked_at(len(examples))
    images, labels = examples.images[rows], examples.labels[rows]
    looks = dict[str, _Look]()
    for name in names:
        preprocessing = preprocessing_of(name, channels=channels)
        logits = forward(module, preprocessing, images, batch_size)
        right = (logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)
        looks[name] = _Look(preprocessing=preprocessing, logits=logits, right=right)
    return _chosen(looks, "given" if only else "stated" if stated else "found")


def _chosen(looks: Mapping[str, _Look], origin: Origin) -> Choice:
    """The best one, or the one that was named, which is the first."""
    named, first = origin != "found", next(iter(looks))
    usable = {name: look.right for name, look in looks.items() if look.finite}
    if not usable or (named and first not in usable):
        under = first if named else f"each of {', '.join(looks)}"
        raise InputError(
            f"the network gives NaN or infinite outputs for clean examples under {under}; its "
            "weights are damaged or do not fit its architecture"
        )
    best = first if named else _best(usable)
    rivals = {name: right for name, right in usable.items() if _better(right, usable[best])}
    return Choice(
        name=best,
        preprocessing=looks[best].preprocessing,
        tried={name: look.accuracy for name, look in looks.items()},
        logits=looks[best].logits,
        origin=origin,
        better=_best(rivals) if named and rivals else "",
    )


def _best(rights: Mapping[str, Tensor]) -> str:
    """The last one that is better by more than chance than the best before it."""
    best = next(iter(rights))
    for name, right in rights.items():
        best = name if _better(right, rights[best]) else best
    return best


def looked_at(count: int) -> Tensor:
    """Which of so many examples a choice rests on: int64 `(M,)`, evenly spaced."""
    return torch.linspace(0, count - 1, min(count, ENOUGH)).round().long()


def forward(
    module: nn.Module, preprocessing: Preprocessing, images: Tensor, batch_size: int
) -> Tensor:
    """Outputs `(N, K)` for images `(N, C, H, W)` in image space."""
    return torch.cat([module(preprocessing(part)) for part in torch.split(images, batch_size)])


def _better(right: Tensor, than: Tensor) -> bool:
    """Whether bool `(N,)` is true more often than another by more than chance."""
    gained, lost = int((right & ~than).sum()), int((than & ~right).sum())
    return gained - lost > _BEYOND_CHANCE * math.sqrt(gained + lost)
