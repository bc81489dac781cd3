"""Which normalisation a network was trained with: the one under which it sees clean images best.

The rounds document one normalisation and trained with another: the reference of rounds 0 to 2
stretches every image to its own extremes, while training divided by 255, and rounds 0 and 1 read
images as BGR. Both are tried; where they differ by no more than chance, training's counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..subject import Examples, Preprocessing

UNIT = Preprocessing(scale="unit")
MINMAX = Preprocessing(scale="minmax")
UNIT_BGR = Preprocessing(scale="unit", channel_order="BGR")
MINMAX_BGR = Preprocessing(scale="minmax", channel_order="BGR")
IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Source: https://docs.pytorch.org/vision/stable/models.html"""
CIFAR10 = Preprocessing(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
"""Mean and standard deviation over the pixels of the CIFAR-10 training images."""

ENOUGH = 1000
"""Examples that a choice rests on at most."""

_BEYOND_CHANCE = 1.645
"""Standard errors of a difference that one in 20 exceeds by chance."""

_ROUNDS_0_1: Mapping[str, Preprocessing] = {
    candidate.name: candidate for candidate in (UNIT_BGR, MINMAX_BGR, UNIT, MINMAX)
}
_LATER_ROUNDS: Mapping[str, Preprocessing] = {
    candidate.name: candidate for candidate in (UNIT, MINMAX)
}
_FILES: Mapping[str, Preprocessing] = {
    **_LATER_ROUNDS,
    "unit-imagenet": IMAGENET,
    "unit-cifar10": CIFAR10,
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The normalisation chosen, and what spoke for it.

    Attributes:
        name: its name among the candidates.
        preprocessing: the normalisation.
        tried: name of every candidate -> fraction of the clean examples looked at that is
            classified rightly, in `[0, 1]`, in order of preference.
        logits: outputs `(N, K)` for these examples under the chosen one.
    """

    name: str
    preprocessing: Preprocessing
    tried: Mapping[str, float]
    logits: Tensor


def candidates(layout: str, channels: int) -> Mapping[str, Preprocessing]:
    """Normalisations that come into question, the one that training used first.

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
) -> Choice:
    """The candidate under which most clean examples are classified rightly.

    One that comes later has to be better by more than chance (the normal form of McNemar's test,
    one-sided at 5 %): images that fill their range look alike under several. Of more than `ENOUGH`
    examples, so many that lie evenly spaced among them are looked at.

    Args:
        module: network in eval mode, on the device of the examples.
        examples: clean labelled images.
        layout: layout of the round, which decides on the candidates.
        batch_size: images per forward pass.
        only: name of the one candidate to look at; empty: all of them.

    Raises:
        InputError: there is no candidate of that name, or the network gives NaN or infinite
            outputs under every candidate.
    """
    tried: dict[str, float] = {}
    best: Choice | None = None
    best_right = torch.empty(0)
    known = candidates(layout, examples.images.shape[1])
    if only and only not in known:
        raise InputError(f"no normalisation {only!r}: expected one of {', '.join(known)}")
    rows = looked_at(len(examples))
    images, labels = examples.images[rows], examples.labels[rows]
    for name in [only] if only else known:
        preprocessing = known[name]
        logits = forward(module, preprocessing, images, batch_size)
        right = (logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)
        tried[name] = float(right.double().mean())
        if torch.isfinite(logits).all() and (best is None or _better(right, best_right)):
            best_right = right
            best = Choice(name=name, preprocessing=preprocessing, tried=tried, logits=logits)
    if best is None:
        raise InputError(
            f"the network gives NaN or infinite outputs for clean examples under each of "
            f"{', '.join(tried)}; its weights are damaged or do not fit its architecture"
        )
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
