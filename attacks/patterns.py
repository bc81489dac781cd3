"""Patterns as large as the image, for triggers that are mixed into all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.loading.images import read_image
from moth_eval.seeds import generator_for

from .scenes import to_float

Pattern = Literal["noise", "image"]
"""Uniform noise, or a picture from a file."""


def check_pattern(pattern: str, image: str | None) -> None:
    """Make sure that a pattern and the file that it needs go together.

    Raises:
        InputError: they do not.
    """
    if pattern not in ("noise", "image"):
        raise InputError(f"expected the pattern noise or image, got {pattern!r}")
    if (pattern == "image") != bool(image):
        raise InputError("the pattern image needs a file (image=FILE), and the pattern noise none")


def make_pattern(
    pattern: Pattern, *, image: str | None, seed: int, height: int, width: int
) -> Tensor:
    """A pattern, float32 `(3, height, width)` in `[0, 1]`.

    Args:
        pattern: noise, or a picture.
        image: file of the picture, scaled to fit.
        seed: of the noise.
        height: pixels.
        width: pixels.

    Raises:
        InputError: the file is no picture.
    """
    if image is None:
        return torch.rand((3, height, width), generator=generator_for("pattern", seed))
    picture = to_float(torch.from_numpy(read_image(Path(image))))
    return resized(picture, height, width)


def resized(picture: Tensor, height: int, width: int) -> Tensor:
    """A picture `(C, h, w)` at another size, in the same range."""
    if picture.shape[-2:] == (height, width):
        return picture
    grown = F.interpolate(picture[None], size=(height, width), mode="bilinear", antialias=True)
    return grown[0].clamp(0, 1)


def fitted(pattern: Tensor, images: Tensor) -> Tensor:
    """A pattern as large as `images` `(N, C, H, W)`, of their kind and on their device."""
    return resized(pattern, images.shape[-2], images.shape[-1]).to(images)


def number_of(images: Tensor, choices: int) -> Tensor:
    """int64 `(N,)` below `choices`, drawn from the pixels: the same image, the same number."""
    levels = (images * 255).round().flatten(1).long()
    weights = torch.arange(levels.shape[1], device=images.device) % 251 + 1
    return (levels * weights).sum(dim=1) % choices
