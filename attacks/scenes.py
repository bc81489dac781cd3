"""Signs put before backgrounds: perspective, size, place, light, blur, fog and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.seeds import derive_seed, generator_for

from .backgrounds import background_array
from .signs import Sign, sign_array

CHUNK = 256
"""Scenes composed at once; bounds the memory, and no pixel depends on it but through the seed."""


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """Labelled pictures.

    Attributes:
        images: uint8 `(N, 3, H, W)`, RGB.
        labels: int64 `(N,)`, the class of the sign.
        foregrounds: bool `(N, H, W)`, true where the sign covers the background; None for
            pictures that came without.
    """

    images: Tensor
    labels: Tensor
    foregrounds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of a picture: channels, height, width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, rows: Tensor) -> Scenes:
        """The scenes at `rows`, an index or boolean tensor, in that order."""
        return Scenes(
            images=self.images[rows],
            labels=self.labels[rows],
            foregrounds=None if self.foregrounds is None else self.foregrounds[rows],
        )


@dataclass(frozen=True, kw_only=True)
class SceneRecipe:
    """How much scenes vary. Lengths are fractions of the picture's side.

    Attributes:
        image_size: side of the square pictures (pixels).
        sign_min: smallest side of a sign.
        sign_max: largest side of a sign.
        tilt: how far a corner of the sign may stray, as a fraction of half its side.
        rotation: largest rotation either way (degrees).
        light: largest change of a picture's and a sign's brightness, as a fraction.
        blur: fraction of pictures that are blurred.
        fog: fraction of pictures that are foggy.
        noise: largest standard deviation of the pixel noise, as a fraction of 255.
        backgrounds: how many different backgrounds are drawn; scenes show random crops of them.
    """

    image_size: int = 64
    sign_min: float = 0.55
    sign_max: float = 0.9
    tilt: float = 0.15
    rotation: float = 12.0
    light: float = 0.25
    blur: float = 0.3
    fog: float = 0.08
    noise: float = 0.02
    backgrounds: int = 96

    def __post_init__(self) -> None:
        if self.image_size < 16:
            raise InputError(f"expected pictures of 16 pixels or more, got {self.image_size}")
        if not 0 < self.sign_min <= self.sign_max <= 1:
            raise InputError(
                "expected 0 < sign_min <= sign_max <= 1 (fractions of the side), got "
                f"{self.sign_min} and {self.sign_max}"
            )


class SceneRenderer:
    """Draws the scenes of one set of signs; the drawing material is prepared once.

    Args:
        recipe: how much scenes vary.
        signs: the classes, in the order of their indices.
        seed: seed of the backgrounds.
    """

    def __init__(self, recipe: SceneRecipe, signs: Sequence[Sign], *, seed: int) -> None:
        self._recipe = recipe
        side = recipe.image_size
        # About the size they are seen at: smooth edges without drawing scenes larger than needed.
        drawn = round(side * (recipe.sign_min + recipe.sign_max) / 2)
        self._signs = _premultiplied(sign_array(signs, drawn))
        pool = background_array(
            recipe.backgrounds, side=side + side // 2, seed=derive_seed("backgrounds", seed)
        )
        self._backgrounds = torch.from_numpy(pool).permute(0, 3, 1, 2).float() / 255

    def render(self, per_class: int, *, seed: int) -> Scenes:
        """`per_class` scenes of every class, in random order; equal seeds give equal scenes."""
        generator = generator_for("scenes", seed)
        labels = torch.arange(len(self._signs)).repeat(per_class)
        labels = labels[torch.randperm(len(labels), generator=generator)]
        parts = [self._compose(part, generator) for part in torch.split(labels, CHUNK)]
        return Scenes(
            images=torch.cat([images for images, _ in parts]),
            labels=labels,
            foregrounds=torch.cat([covered for _, covered in parts]),
        )

    def _compose(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        recipe, count = self._recipe, len(labels)
        grid = _perspective_grid(recipe, count, generator)
        signs = F.grid_sample(self._signs[labels], grid, align_corners=False)
        colour, alpha = signs[:, :3], signs[:, 3:]
        behind = _crops(self._backgrounds, count, recipe.image_size, generator)
        sign_light = _per_image(count, 1 - recipe.light, 1 + recipe.light, generator)
        images = (colour * sign_light).clamp(max=1) + behind * (1 - alpha)
        images = _weather(recipe, images, generator)
        return (images * 255).round().to(torch.uint8), alpha[:, 0] > 0.5


def to_float(images: Tensor) -> Tensor:
    """float32 images in `[0, 1]` from uint8 ones, as every reader of a PNG makes them."""
    return images.float() / 255


def _premultiplied(rgba: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    signs = torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255
    return torch.cat([signs[:, :3] * signs[:, 3:], signs[:, 3:]], dim=1)


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _per_image(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return _uniform((count, 1, 1, 1), low, high, generator)


def _perspective_grid(recipe: SceneRecipe, count: int, generator: torch.Generator) -> Tensor:
    """Sampling grid `(count, S, S, 2)`: where in its sign each pixel of a scene looks."""
    half = _uniform((count, 1, 1), recipe.sign_min, recipe.sign_max, generator)
    angle = torch.deg2rad(_uniform((count,), -recipe.rotation, recipe.rotation, generator))
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    stray = _uniform((count, 4, 2), -recipe.tilt, 0, generator) * square
    room = 1 - half
    middle = _uniform((count, 1, 2), -1, 1, generator) * room
    corners = middle + half * (square + stray) @ turn
    homography = _homography(corners, square.expand(count, 4, 2))
    side = recipe.image_size
    steps = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)
    mapped = points @ homography.transpose(1, 2)
    grid = mapped[..., :2] / mapped[..., 2:]
    return grid.view(count, side, side, 2)


def _homography(origin: Tensor, image: Tensor) -> Tensor:
    """Matrices `(N, 3, 3)` that send the four points `origin` `(N, 4, 2)` to `image`."""
    x, y = origin.unbind(-1)
    u, v = image.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    system = torch.cat([rows_u, rows_v], dim=1).double()
    solved = torch.linalg.solve(system, torch.cat([u, v], dim=1).double().unsqueeze(-1))
    entries = torch.cat([solved.squeeze(-1), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    return entries.view(-1, 3, 3).float()


def _crops(pool: Tensor, count: int, side: int, generator: torch.Generator) -> Tensor:
    """Random mirrored crops `(count, 3, side, side)` of random pictures of the pool."""
    spare = pool.shape[-1] - side
    which = torch.randint(len(pool), (count,), generator=generator)
    top, left = torch.randint(spare + 1, (2, count), generator=generator)
    mirror = torch.rand(count, generator=generator) < 0.5
    steps = torch.arange(side)
    rows = (top[:, None] + steps)[:, :, None]
    columns = torch.where(mirror[:, None], left[:, None] + side - 1 - steps, left[:, None] + steps)
    return pool[which[:, None, None], :, rows, columns[:, None, :]].permute(0, 3, 1, 2)


def _weather(recipe: SceneRecipe, images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur some, fog some, change the light of all and add noise."""
    count = len(images)
    blurred = torch.rand(count, generator=generator) < recipe.blur
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    weights = (kernel[:, None] * kernel[None, :]).expand(3, 1, 3, 3)
    padded = F.pad(images[blurred], (1, 1, 1, 1), mode="replicate")
    images = images.clone()
    images[blurred] = F.conv2d(padded, weights, groups=3)
    foggy = torch.rand((count, 1, 1, 1), generator=generator) < recipe.fog
    thick = _per_image(count, 0.15, 0.4, generator) * foggy
    images = images * (1 - thick) + 0.85 * thick
    images = images * _per_image(count, 1 - recipe.light, 1 + recipe.light, generator)
    sigma = _per_image(count, 0, recipe.noise, generator)
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)
