"""A picture of a trigger: images, the same images stamped, and what changed."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from PIL import Image
from torch import Tensor

from moth_eval.pictures import to_bytes

from .poisoning import stamp_scenes
from .scenes import Scenes, to_float
from .trigger import Trigger, victims

ROWS = 4
"""Images that are shown."""

LEAST_SIDE = 96
"""Smaller images are enlarged by a whole factor to at least so many pixels."""

GAP = 4
"""Pixels between pictures."""


def draw_trigger(trigger: Trigger, scenes: Scenes, *, generator: torch.Generator) -> Image.Image:
    """Victims in the first column, stamped in the second, the difference in the third.

    The difference is drawn around grey and stretched, so that a faint trigger is seen as well.

    Args:
        trigger: ready to stamp.
        scenes: the first victims among them are shown.
        generator: a CPU generator that draws places on the foreground.
    """
    shown = scenes.take(victims(trigger, scenes.labels).nonzero().squeeze(1)[:ROWS])
    before = to_float(shown.images)
    after = to_float(stamp_scenes(trigger, shown, generator=generator))
    columns = [before, after, _stretched(after - before)]
    rows = [_beside([column[row] for column in columns]) for row in range(len(shown))]
    return Image.fromarray(_pixels(_below(rows)))


def _stretched(difference: Tensor) -> Tensor:
    largest = difference.abs().amax().clamp_min(1e-6)
    return 0.5 + 0.5 * difference / largest


def _beside(images: list[Tensor]) -> Tensor:
    factor = max(1, -(-LEAST_SIDE // min(images[0].shape[1:])))
    grown = [F.interpolate(i[None], scale_factor=factor, mode="nearest")[0] for i in images]
    gap = grown[0].new_ones((3, grown[0].shape[1], GAP))
    return torch.cat([grown[0], gap, grown[1], gap, grown[2]], dim=2)


def _below(rows: list[Tensor]) -> Tensor:
    gap = rows[0].new_ones((3, GAP, rows[0].shape[2]))
    parts = [part for row in rows for part in (row, gap)]
    return torch.cat(parts[:-1], dim=1)


def _pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.ascontiguousarray(to_bytes(image.clamp(0, 1)).permute(1, 2, 0).numpy())
