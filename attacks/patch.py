"""The square patch of BadNets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .trigger import Colour, Threat, check_fits, check_shares, check_threat, threat_of


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A small square of the same pixels in every image.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        sources: classes that it acts on; empty for every class but the target.
        all_to_all: whether stamped images of class y are to be taken for `(y + 1) % K` instead.
            Source: the all-to-all attack of the paper.
        size: side (pixels). Source: 3 of 28 pixels in the paper; the default is a tenth of 64.
        row: row of its upper edge; negative counts up from the lower edge of the image, -1 puts
            the patch against it.
        column: the same from the left.
        colour: red, green and blue in `[0, 1]`.
        pattern: `solid`, or `checkerboard` of `colour` and its complement in cells of a third.
        opacity: share of the patch in what is seen, in `(0, 1]`. Source: 1 in the paper.

    Source: Gu, Dolan-Gavitt, Garg, "BadNets", 2017 (pixel pattern at the lower right).
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    all_to_all: bool = False
    size: int = 6
    row: int = -2
    column: int = -2
    colour: Colour = (1.0, 1.0, 1.0)
    pattern: Literal["solid", "checkerboard"] = "solid"
    opacity: float = 1.0

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_shares(opacity=self.opacity)
        if not self.opacity:
            raise InputError("a patch of opacity 0 cannot be seen: expected more than 0, up to 1")
        if self.all_to_all and self.sources:
            raise InputError(f"all_to_all acts on every class: leave out sources {self.sources}")
        if self.size < 1:
            raise InputError(f"expected a patch of at least one pixel, got size {self.size}")
        if not all(0 <= channel <= 1 for channel in self.colour):
            raise InputError(f"expected a colour in [0, 1], got {self.colour}")

    @property
    def threat(self) -> Threat:
        """Universal, source-specific or all-to-all, as the fields say."""
        return threat_of(self.sources, all_to_all=self.all_to_all)

    def pixels(self) -> Tensor:
        """The patch itself, float32 `(3, size, size)`."""
        solid = torch.tensor(self.colour).view(3, 1, 1).expand(3, self.size, self.size)
        if self.pattern == "solid":
            return solid.clone()
        cell = (torch.arange(self.size) * 3 // self.size) % 2
        odd = (cell[:, None] + cell[None, :]) % 2 == 1
        return torch.where(odd, 1 - solid, solid)

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with the patch in its place.

        Raises:
            InputError: the patch is larger than the images, or lies partly outside them.
        """
        check_fits(self.size, images)
        top = self._start(self.row, images.shape[-2])
        left = self._start(self.column, images.shape[-1])
        stamped = images.clone()
        place = stamped[:, :, top : top + self.size, left : left + self.size]
        place.lerp_(self.pixels().to(images).expand_as(place), self.opacity)
        return stamped

    def _start(self, position: int, length: int) -> int:
        start = position if position >= 0 else length - self.size + 1 + position
        if not 0 <= start <= length - self.size:
            raise InputError(
                f"a patch of {self.size} pixels at {position} leaves the image of {length} "
                "pixels: move it inwards"
            )
        return start
