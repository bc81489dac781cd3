"""The polygon of the TrojAI image rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from PIL import Image, ImageDraw
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.seeds import derive_seed

from .trigger import Colour, Threat, check_fits, check_threat, threat_of

SUPERSAMPLING = 8
"""The outline is drawn this many times larger; a pixel belongs to it when half covered."""

LEAST_FILL = 0.35
"""Smallest share of its square that a polygon may cover; thinner draws are thrown away."""


@dataclass(frozen=True, kw_only=True)
class Polygon:
    """A filled polygon of random corners in one colour.

    The corners are uniform points sorted by their angle about their centroid and stretched to
    fill a square, as in the TrojAI rounds. The same fields always draw the same polygon.

    Attributes:
        target: class that stamped images are to be classified as.
        sources: classes that it acts on; empty for every class but the target.
        sides: corners, 3 to 12 as in the rounds.
        shape_seed: which polygon of that many corners.
        size: side of its square (pixels).
        colour: red, green and blue in `[0, 1]`; the default is a level of round 4 (200 of 255).
        row: upper edge of the square when the place is fixed; None for the middle of the image.
        column: the same from the left.
        on_foreground: whether an image whose foreground is known gets the polygon somewhere on
            it, as in the rounds; `stamp`, which knows no foreground, uses the fixed place.

    Source: TrojAI image classification rounds 1 to 4, NIST.
    Differs from the reference: no rotation (the corners are random already), and the square is at
    a whole pixel, so that every changed pixel has exactly the trigger's colour.
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    sides: int = 4
    shape_seed: int = 0
    size: int = 8
    colour: Colour = (200 / 255, 0.0, 200 / 255)
    row: int | None = None
    column: int | None = None
    on_foreground: bool = False

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        if not 3 <= self.sides <= 12:
            raise InputError(f"expected a polygon of 3 to 12 sides, got {self.sides}")
        if self.size < 3:
            raise InputError(f"expected a polygon of at least 3 pixels, got size {self.size}")
        if not all(0 <= channel <= 1 for channel in self.colour):
            raise InputError(f"expected a colour in [0, 1], got {self.colour}")

    @property
    def threat(self) -> Threat:
        """Universal or source-specific, as the fields say."""
        return threat_of(self.sources)

    def mask(self) -> Tensor:
        """Bool `(size, size)`, true where the polygon is."""
        rng = np.random.default_rng(derive_seed("polygon", self.sides, self.shape_seed))
        while True:
            mask = _filled(_corners(rng, self.sides), self.size)
            if mask.float().mean() >= LEAST_FILL:
                return mask

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with the polygon in its place.

        Raises:
            InputError: the polygon is larger than the images, or lies partly outside them.
        """
        check_fits(self.size, images)
        height, width = images.shape[-2:]
        row = (height - self.size) // 2 if self.row is None else self.row
        column = (width - self.size) // 2 if self.column is None else self.column
        place = torch.tensor([row, column], device=images.device)
        return self.stamp_at(images, place.expand(len(images), 2))

    def stamp_at(self, images: Tensor, places: Tensor) -> Tensor:
        """As `stamp`, the upper left corner of image i at row and column `places[i]`.

        Raises:
            InputError: a polygon would lie partly outside its image.
        """
        height, width = images.shape[-2:]
        room = torch.tensor([height - self.size, width - self.size], device=places.device)
        if bool(((places < 0) | (places > room)).any()):
            raise InputError(
                f"a polygon of {self.size} pixels leaves the image of {height} x {width} pixels: "
                "move it inwards"
            )
        stamped = images.clone()
        row, column = self.mask().nonzero().to(images.device).unbind(1)
        rows, columns = places[:, :1] + row, places[:, 1:] + column
        image = torch.arange(len(images), device=images.device)[:, None]
        stamped[image, :, rows, columns] = torch.tensor(self.colour).to(images)
        return stamped

    def places(self, foregrounds: Tensor, *, generator: torch.Generator) -> Tensor:
        """Uniform places at which the whole square lies on the foreground.

        Where the square fits nowhere, one of the places that cover most of the foreground.

        Args:
            foregrounds: bool `(N, H, W)`.
            generator: a CPU generator.

        Returns:
            int64 `(N, 2)`, row and column of the upper left corner.
        """
        covered = F.avg_pool2d(foregrounds[:, None].float(), self.size, stride=1)
        best = covered.amax(dim=(1, 2, 3), keepdim=True)
        allowed = (covered >= best - 1e-6).flatten(1).float()
        picked = torch.multinomial(allowed.cpu(), 1, generator=generator).squeeze(1)
        width = covered.shape[-1]
        places = torch.stack([picked // width, picked % width], dim=1)
        return places.to(foregrounds.device)


def _corners(rng: np.random.Generator, sides: int) -> list[tuple[float, float]]:
    """Corners in the unit square, in order about their centroid and stretched to its edges."""
    points = rng.uniform(0, 1, (sides, 2))
    offsets = points - points.mean(axis=0)
    order = np.argsort([math.atan2(y, x) for x, y in offsets])
    points = points[order] - points.min(axis=0)
    stretched = points / points.max(axis=0)
    return [(float(x), float(y)) for x, y in stretched]


def _filled(corners: list[tuple[float, float]], size: int) -> Tensor:
    large = size * SUPERSAMPLING
    image = Image.new("L", (large, large), 0)
    ImageDraw.Draw(image).polygon([(x * large, y * large) for x, y in corners], fill=255)
    small = image.resize((size, size), Image.Resampling.BOX)
    return torch.from_numpy(np.asarray(small) >= 128)
