"""Procedural traffic signs: the foregrounds whose class a model of a round has to tell.

A sign is a shape filled with one colour, a black outline of 4 % of its side and one black icon.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from moth_eval.errors import InputError
from moth_eval.seeds import derive_seed

Point = tuple[float, float]
Outline = tuple[Point, ...]

OUTLINE_SHARE = 0.04
"""Width of the black border as a fraction of the side."""

SUPERSAMPLING = 4
"""Signs are drawn this many times larger and averaged down, so that edges are smooth."""


def _ring(corners: int, turn: float = 0.0, radii: Sequence[float] = (1.0,)) -> Outline:
    """Corners on circles about the middle of the unit square; `turn` in degrees from the top."""
    points = []
    for index in range(corners):
        angle = math.radians(turn - 90 + 360 * index / corners)
        radius = 0.48 * radii[index % len(radii)]
        points.append((0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)))
    return tuple(points)


SHAPES: Mapping[str, Outline] = {
    "circle": _ring(48),
    "diamond": _ring(4),
    "hexagon": _ring(6),
    "house": ((0.5, 0.02), (0.96, 0.42), (0.96, 0.97), (0.04, 0.97), (0.04, 0.42)),
    "octagon": _ring(8, 22.5, (1.04,)),
    "pennant": ((0.03, 0.1), (0.66, 0.1), (0.98, 0.5), (0.66, 0.9), (0.03, 0.9)),
    "pentagon": _ring(5, 36, (1.03,)),
    "shield": (
        (0.06, 0.03), (0.94, 0.03), (0.94, 0.52), (0.8, 0.8), (0.5, 0.98), (0.2, 0.8), (0.06, 0.52),
    ),
    "square": ((0.05, 0.05), (0.95, 0.05), (0.95, 0.95), (0.05, 0.95)),
    "star": _ring(16, 0, (1.04, 0.84)),
    "triangle": ((0.5, 0.02), (0.99, 0.93), (0.01, 0.93)),
    "yield": ((0.01, 0.07), (0.99, 0.07), (0.5, 0.98)),
}  # fmt: skip
"""Name -> outline in the unit square, x to the right and y downwards."""


def _bar(left: float, top: float, right: float, bottom: float) -> Outline:
    return ((left, top), (right, top), (right, bottom), (left, bottom))


ICONS: Mapping[str, tuple[Outline, ...]] = {
    "arrow": (
        ((0.5, 0), (0.95, 0.5), (0.65, 0.5), (0.65, 1), (0.35, 1), (0.35, 0.5), (0.05, 0.5)),
    ),
    "bolt": (((0.62, 0), (0.12, 0.58), (0.45, 0.58), (0.33, 1), (0.88, 0.38), (0.54, 0.38)),),
    "bridge": (_bar(0, 0.18, 1, 0.42), _bar(0.1, 0.42, 0.3, 0.9), _bar(0.7, 0.42, 0.9, 0.9)),
    "chevron": (((0.15, 0), (0.5, 0), (0.95, 0.5), (0.5, 1), (0.15, 1), (0.6, 0.5)),),
    "columns": (_bar(0.1, 0, 0.38, 1), _bar(0.62, 0, 0.9, 1)),
    "cross": (
        ((0.2, 0), (0.5, 0.3), (0.8, 0), (1, 0.2), (0.7, 0.5), (1, 0.8), (0.8, 1), (0.5, 0.7),
         (0.2, 1), (0, 0.8), (0.3, 0.5), (0, 0.2)),
    ),
    "disc": (tuple((0.5 + (x - 0.5) * 0.9, 0.5 + (y - 0.5) * 0.9) for x, y in _ring(32)),),
    "fork": (_bar(0.38, 0.4, 0.62, 1), _bar(0, 0.4, 1, 0.62), _bar(0, 0, 0.24, 0.5),
             _bar(0.76, 0, 1, 0.5)),
    "hourglass": (((0.05, 0), (0.95, 0), (0.6, 0.5), (0.95, 1), (0.05, 1), (0.4, 0.5)),),
    "minus": (_bar(0, 0.33, 1, 0.67),),
    "peaks": (((0, 0.95), (0.3, 0.2), (0.48, 0.6), (0.68, 0.05), (1, 0.95)),),
    "plus": (_bar(0.34, 0, 0.66, 1), _bar(0, 0.34, 1, 0.66)),
    "steps": (_bar(0, 0.68, 0.34, 1), _bar(0.33, 0.36, 0.67, 1), _bar(0.66, 0.04, 1, 1)),
    "tee": (_bar(0, 0, 1, 0.32), _bar(0.34, 0.3, 0.66, 1)),
    "turn": (
        ((0.1, 1), (0.1, 0.28), (0.55, 0.28), (0.55, 0.02), (1, 0.42), (0.55, 0.82), (0.55, 0.56),
         (0.38, 0.56), (0.38, 1)),
    ),
}  # fmt: skip
"""Name -> polygons in the unit square of the icon."""

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (206, 40, 46),
    "amber": (245, 190, 30),
    "white": (240, 240, 236),
    "blue": (32, 96, 190),
    "green": (28, 136, 82),
    "orange": (238, 126, 32),
    "brown": (140, 88, 52),
    "violet": (132, 84, 170),
    "cyan": (70, 176, 206),
    "lime": (164, 205, 60),
}
"""Fill colours: those of road signs and a few more, all light enough for a black icon."""

ICON_BOXES: Mapping[str, tuple[float, float, float]] = {
    "pennant": (0.42, 0.5, 0.4),
    "triangle": (0.5, 0.66, 0.36),
    "yield": (0.5, 0.35, 0.36),
    "house": (0.5, 0.6, 0.44),
    "diamond": (0.5, 0.5, 0.4),
}
"""Shape -> middle x, middle y and side of its icon, where it is not `(0.5, 0.5, 0.48)`."""


@dataclass(frozen=True, kw_only=True)
class Sign:
    """One class of a model: a shape, an icon and a fill colour, each a key of its table."""

    shape: str
    icon: str
    colour: str

    @property
    def file_name(self) -> str:
        """`{shape}-{icon}.png`; the class index is the rank of this name among its round's."""
        return f"{self.shape}-{self.icon}.png"


def draw_sign(sign: Sign, side: int) -> Image.Image:
    """The sign as an RGBA image of `side` x `side` pixels, transparent outside its shape."""
    large = side * SUPERSAMPLING
    image = Image.new("RGBA", (large, large), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    outline = [(x * large, y * large) for x, y in SHAPES[sign.shape]]
    draw.polygon(outline, fill=(*COLOURS[sign.colour], 255))
    border = max(SUPERSAMPLING, round(OUTLINE_SHARE * large))
    draw.line([*outline, *outline[:2]], fill=(0, 0, 0, 255), width=border, joint="curve")
    middle_x, middle_y, size = ICON_BOXES.get(sign.shape, (0.5, 0.5, 0.48))
    for polygon in ICONS[sign.icon]:
        points = [
            ((middle_x + (x - 0.5) * size) * large, (middle_y + (y - 0.5) * size) * large)
            for x, y in polygon
        ]
        draw.polygon(points, fill=(12, 12, 12, 255))
    return image.resize((side, side), Image.Resampling.BOX)


def choose_signs(count: int, *, seed: int) -> tuple[Sign, ...]:
    """`count` distinct signs, sorted by file name, so that the class index is the position.

    Shapes and icons are both without repetition while the tables last, as in TrojAI round 4;
    after that shapes and icons come again, but never the same pair.

    Raises:
        InputError: fewer than two classes, or more than there are pairs of shape and icon.
    """
    most = len(SHAPES) * len(ICONS)
    if not 2 <= count <= most:
        raise InputError(f"expected 2 to {most} classes, got {count}: change the number of classes")
    rng = np.random.default_rng(derive_seed("signs", seed))
    pairs = _pairs(rng)[:count]
    colours = [name for _ in range(0, count, len(COLOURS)) for name in _shuffled(rng, COLOURS)]
    signs = [
        Sign(shape=shape, icon=icon, colour=colour)
        for (shape, icon), colour in zip(pairs, colours, strict=False)
    ]
    return tuple(sorted(signs, key=lambda sign: sign.file_name))


def sign_array(signs: Sequence[Sign], side: int) -> npt.NDArray[np.uint8]:
    """Signs as uint8 `(K, side, side, 4)`, RGBA."""
    return np.stack([np.asarray(draw_sign(sign, side)) for sign in signs])


def _shuffled(rng: np.random.Generator, names: Mapping[str, object]) -> list[str]:
    ordered = list(names)
    return [ordered[index] for index in rng.permutation(len(ordered))]


def _pairs(rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every pair of shape and icon, ordered so that repetition comes as late as it can."""
    shapes, icons = _shuffled(rng, SHAPES), _shuffled(rng, ICONS)
    return [
        (shape, icons[(index + lap) % len(icons)])
        for lap in range(len(icons))
        for index, shape in enumerate(shapes)
    ]
