"""Procedural backgrounds: skies, roads, towns, woods, walls and plain noise, all drawn here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from moth_eval.seeds import derive_seed

Colour = tuple[int, int, int]
Pixels = npt.NDArray[np.uint8]

DRAWN_SIDE = 160
"""Backgrounds are drawn at this side and resized, so that detail does not depend on the size."""


def draw_background(kind: str, *, side: int, seed: int) -> Image.Image:
    """One background as an RGB image of `side` x `side` pixels.

    Args:
        kind: a key of `KINDS`.
        side: pixels.
        seed: equal seeds draw equal pictures.
    """
    rng = np.random.default_rng(derive_seed("background", kind, seed))
    image = _grain(KINDS[kind](rng), rng)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def background_array(count: int, *, side: int, seed: int) -> Pixels:
    """`count` backgrounds as uint8 `(count, side, side, 3)`; the kinds take turns."""
    kinds = list(KINDS)
    images = [
        draw_background(kinds[index % len(kinds)], side=side, seed=derive_seed(seed, index))
        for index in range(count)
    ]
    return np.stack([np.asarray(image) for image in images])


def _colour(rng: np.random.Generator, low: Colour, high: Colour) -> Colour:
    red, green, blue = (int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _darker(colour: Colour, share: float) -> Colour:
    red, green, blue = (int(channel * share) for channel in colour)
    return red, green, blue


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, DRAWN_SIDE)[:, None, None]
    rows = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    return Image.fromarray(np.repeat(rows, DRAWN_SIDE, axis=1).astype(np.uint8))


def _noise(rng: np.random.Generator, cells: int) -> npt.NDArray[np.float64]:
    """Smooth noise in `[0, 1]`, `(DRAWN_SIDE, DRAWN_SIDE)`, with about `cells` bumps a side."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    fine = coarse.resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(fine, dtype=np.float64) / 255


def _grain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture with uneven light and a little grain, so that no surface is flat."""
    light = 0.82 + 0.36 * _noise(rng, 4)
    grain = rng.normal(0, 5, (DRAWN_SIDE, DRAWN_SIDE))
    pixels = np.asarray(image, dtype=np.float64) * light[..., None] + grain[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _sky(rng: np.random.Generator) -> Image.Image:
    """A sky from overcast to evening, with soft clouds."""
    top = _colour(rng, (70, 110, 150), (150, 180, 235))
    bottom = _colour(rng, (170, 180, 180), (250, 225, 215))
    pixels = np.asarray(_gradient(top, bottom), dtype=np.float64)
    clouds = np.clip(1.6 * (0.6 * _noise(rng, 5) + 0.4 * _noise(rng, 11)) - 0.6, 0, 1)[..., None]
    return Image.fromarray((pixels * (1 - clouds) + 245 * clouds).astype(np.uint8))


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: int) -> None:
    green = _colour(rng, (50, 80, 40), (120, 140, 80))
    for layer in range(2):
        xs = np.linspace(-20, DRAWN_SIDE + 20, 7)
        ys = horizon - rng.integers(2, 24, 7) + 10 * layer
        ridge = [(float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
        ground = [(DRAWN_SIDE + 20, DRAWN_SIDE), (-20, DRAWN_SIDE)]
        draw.polygon([*ridge, *ground], fill=_darker(green, 1 - 0.25 * layer))


def _asphalt(draw: ImageDraw.ImageDraw, rng: np.random.Generator, horizon: int) -> None:
    """A road that narrows to the horizon, with its markings."""
    side, vanish = DRAWN_SIDE, int(rng.integers(30, DRAWN_SIDE - 30))
    grey = _colour(rng, (70, 70, 74), (120, 118, 116))
    left, right = int(rng.integers(-70, 20)), int(rng.integers(side - 20, side + 70))
    draw.polygon(
        [(vanish - 5, horizon), (vanish + 5, horizon), (right, side), (left, side)], fill=grey
    )
    middle = (left + right) / 2
    for start in np.arange(0.08, 1.0, 0.22):
        near, far = start + 0.12, start
        points = []
        for depth, sign in ((far, -1), (far, 1), (near, 1), (near, -1)):
            x = vanish + (middle - vanish) * depth + sign * 3.5 * depth
            points.append((x, horizon + (side - horizon) * depth))
        draw.polygon(points, fill=(225, 225, 215))


def _road(rng: np.random.Generator) -> Image.Image:
    image = _sky(rng)
    draw = ImageDraw.Draw(image)
    horizon = int(rng.integers(60, 100))
    _hills(draw, rng, horizon)
    _asphalt(draw, rng, horizon)
    return image


def _town(rng: np.random.Generator) -> Image.Image:
    """A row of houses with windows behind a road."""
    image = _sky(rng)
    draw = ImageDraw.Draw(image)
    ground, x = int(rng.integers(95, 125)), -int(rng.integers(0, 20))
    while x < DRAWN_SIDE:
        width, height = int(rng.integers(22, 48)), int(rng.integers(40, 105))
        wall = _colour(rng, (90, 80, 75), (200, 180, 165))
        draw.rectangle((x, ground - height, x + width, ground), fill=wall)
        for row in range(ground - height + 6, ground - 8, 14):
            for column in range(x + 5, x + width - 6, 11):
                lit = bool(rng.random() < 0.25)
                glass = (230, 215, 150) if lit else _darker(wall, 0.55)
                draw.rectangle((column, row, column + 5, row + 7), fill=glass)
        x += width + int(rng.integers(0, 5))
    draw.rectangle((0, ground, DRAWN_SIDE, ground + 8), fill=(160, 156, 150))
    draw.rectangle((0, ground + 8, DRAWN_SIDE, DRAWN_SIDE), fill=(92, 92, 96))
    return image


def _wood(rng: np.random.Generator) -> Image.Image:
    """Trees before a meadow."""
    image = _sky(rng)
    draw = ImageDraw.Draw(image)
    ground = int(rng.integers(95, 130))
    meadow = _colour(rng, (80, 110, 50), (140, 160, 90))
    draw.rectangle((0, ground, DRAWN_SIDE, DRAWN_SIDE), fill=meadow)
    for _ in range(int(rng.integers(8, 16))):
        x, foot = int(rng.integers(0, DRAWN_SIDE)), ground + int(rng.integers(-6, 14))
        crown, height = int(rng.integers(12, 28)), int(rng.integers(30, 80))
        leaf = _colour(rng, (30, 60, 25), (100, 130, 60))
        draw.rectangle((x - 2, foot - height // 2, x + 2, foot), fill=(84, 62, 44))
        if rng.random() < 0.5:
            tip = foot - height - 12
            draw.polygon([(x, tip), (x + crown, foot - 10), (x - crown, foot - 10)], fill=leaf)
        else:
            middle = foot - height
            draw.ellipse((x - crown, middle - crown, x + crown, middle + crown), fill=leaf)
    return image.filter(ImageFilter.GaussianBlur(0.8))


def _wall(rng: np.random.Generator) -> Image.Image:
    """Brickwork."""
    brick = _colour(rng, (110, 60, 50), (190, 150, 130))
    image = Image.new("RGB", (DRAWN_SIDE, DRAWN_SIDE), _darker(brick, 1.15))
    draw = ImageDraw.Draw(image)
    height = int(rng.integers(9, 18))
    for row in range(0, DRAWN_SIDE, height):
        offset = -height if (row // height) % 2 else 0
        for column in range(offset, DRAWN_SIDE, 2 * height):
            tone = _darker(brick, float(rng.uniform(0.75, 1.05)))
            box = (column + 1, row + 1, column + 2 * height - 1, row + height - 1)
            draw.rectangle(box, fill=tone)
    return image


def _clutter(rng: np.random.Generator) -> Image.Image:
    """Two blended colours in smooth noise: nothing that could be named."""
    low = _colour(rng, (20, 20, 20), (140, 140, 140))
    high = _colour(rng, (90, 90, 90), (240, 240, 240))
    mix = (0.5 * _noise(rng, 4) + 0.3 * _noise(rng, 10) + 0.2 * _noise(rng, 24))[..., None]
    return Image.fromarray((np.asarray(low) * (1 - mix) + np.asarray(high) * mix).astype(np.uint8))


KINDS: Mapping[str, Callable[[np.random.Generator], Image.Image]] = {
    "road": _road,
    "town": _town,
    "wood": _wood,
    "sky": _sky,
    "wall": _wall,
    "clutter": _clutter,
}
"""Name -> drawing function."""
