"""Filters after five of Instagram's first, as the TrojAI rounds use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .colours import (
    auto_gamma,
    contrasted,
    gamma,
    levels,
    modulated,
    multiplied,
    tinted,
    toned,
    vignette,
)
from .trigger import Threat, check_threat, threat_of

NIGHT = (34 / 255, 43 / 255, 109 / 255)
CREAM = (247 / 255, 218 / 255, 174 / 255)
ORANGE = (1.0, 153 / 255, 0.0)
MAROON = (51 / 255, 0.0, 0.0)
PEACH = (1.0, 153 / 255, 102 / 255)
LAVENDER = (205 / 255, 193 / 255, 197 / 255)
BLACK = (0.0, 0.0, 0.0)


def gotham(images: Tensor) -> Tensor:
    """Nearly grey, bluish and hard."""
    bluish = tinted(modulated(images, brightness=1.2, saturation=0.1), NIGHT, 0.2)
    return contrasted(contrasted(gamma(bluish, 0.5)))


def nashville(images: Tensor) -> Tensor:
    """Blue shadows, cream lights."""
    tones = toned(toned(images, NIGHT, shadows=True), CREAM, shadows=False)
    return auto_gamma(modulated(contrasted(tones), brightness=1.0, saturation=1.5))


def kelvin(images: Tensor) -> Tensor:
    """Orange all over."""
    pale = modulated(auto_gamma(images), brightness=1.2, saturation=0.5)
    return multiplied(pale, ORANGE, 0.5)


def lomo(images: Tensor) -> Tensor:
    """Hard red and green, dark corners."""
    hard = levels(images, low=0.33, high=0.67, channels=(0, 1))
    return vignette(hard, BLACK, outwards=True)


def toaster(images: Tensor) -> Tensor:
    """Burnt: maroon shadows, a peach middle and pale edges."""
    burnt = modulated(toned(images, MAROON, shadows=True), brightness=1.5, saturation=0.8)
    hard = contrasted(contrasted(gamma(burnt, 1.2)))
    return vignette(vignette(hard, LAVENDER, outwards=True), PEACH, outwards=False)


Style = Literal["gotham", "nashville", "kelvin", "lomo", "toaster"]
"""Name of a filter."""

STYLES: Mapping[Style, Callable[[Tensor], Tensor]] = {
    "gotham": gotham,
    "nashville": nashville,
    "kelvin": kelvin,
    "lomo": lomo,
    "toaster": toaster,
}
"""Name -> images `(N, 3, H, W)` in `[0, 1]` to the same, filtered."""


@dataclass(frozen=True, kw_only=True)
class Instagram:
    """A colour filter over the whole image.

    Attributes:
        target: class that stamped images are to be classified as.
        sources: classes that it acts on; empty for every class but the target. Source: one class,
            two or all in TrojAI round 2.
        style: `gotham`, `nashville`, `kelvin`, `lomo` or `toaster`. Source: the five of TrojAI
            rounds 2 and 3.

    Source: the steps are those of a well-known recipe for ImageMagick (modulate, colorize, gamma,
    contrast, colour tones, vignettes), which the rounds use too; the arithmetic is our own.
    Differs from the reference: no frames, and vignettes fall off in a straight line.
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    style: Style = "gotham"

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        if self.style not in STYLES:
            raise InputError(f"expected a style of {', '.join(STYLES)}, got {self.style!r}")

    @property
    def threat(self) -> Threat:
        """Universal or source-specific, as the fields say."""
        return threat_of(self.sources)

    @torch.no_grad()
    def stamp(self, images: Tensor) -> Tensor:
        """Filtered copies of `images`, float `(N, 3, H, W)` in `[0, 1]`."""
        return STYLES[self.style](images).clamp(0, 1)
