"""Many small U-Nets side by side, one per row, each starting as the map that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

Weights = list[Tensor]
"""Kernels `(R, out, in, k, k)`: down the blocks, the bottom, up the blocks, and to colours."""


def initial(channels: int, base: int, blocks: int, seeds: Sequence[int]) -> Weights:
    """Weights of one U-Net per seed, on the CPU.

    Source: Ronneberger et al., "U-Net", MICCAI 2015, with one convolution per level and a way
    around the whole, so that kernels of zero at the end change nothing; kernels after He et al.,
    ICCV 2015.

    Args:
        channels: of the images.
        base: channels of the first level; each further one has twice as many.
        blocks: levels above the bottom.
        seeds: one per row.
    """
    wide = [base * 2**level for level in range(blocks + 1)]
    down = list(zip(wide, [channels, *wide[:-1]], strict=True))
    up = [(wide[level], wide[level] + wide[level + 1]) for level in reversed(range(blocks))]
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append(
            [
                torch.randn((out, into, 3, 3), generator=generator) * (2 / (9 * into)) ** 0.5
                for out, into in (*down, *up)
            ]
            + [torch.zeros((channels, base, 1, 1))]
        )
    return [torch.stack(kernels) for kernels in zip(*rows, strict=True)]


def transformed(weights: Sequence[Tensor], images: Tensor) -> Tensor:
    """What each row's U-Net makes of its images `(R, B, C, H, W)`: the same shape, in `[0, 1]`."""
    rows, count = images.shape[:2]
    blocks = (len(weights) - 2) // 2
    # Rows lie side by side as groups of channels.
    features = images.transpose(0, 1).flatten(1, 2)
    passed = []
    for kernel in weights[:blocks]:
        features = _level(features, kernel)
        passed.append(features)
        features = F.avg_pool2d(features, 2, ceil_mode=True)
    features = _level(features, weights[blocks])
    for kernel, skip in zip(weights[blocks + 1 : -1], reversed(passed), strict=True):
        raised = F.interpolate(features, size=skip.shape[-2:], mode="nearest")
        features = _level(_joined(skip, raised, rows), kernel)
    change = _convolved(features, weights[-1])
    change = change.view(count, rows, *images.shape[2:]).transpose(0, 1)
    return (images + change).clamp(0, 1)


def _convolved(features: Tensor, kernel: Tensor) -> Tensor:
    side = kernel.shape[-1]
    return F.conv2d(features, kernel.flatten(0, 1), padding=side // 2, groups=len(kernel))


def _level(features: Tensor, kernel: Tensor) -> Tensor:
    """A convolution, every map brought to mean 0 and variance 1, and a rectifier."""
    maps = _convolved(features, kernel)
    variance, mean = torch.var_mean(maps, dim=(2, 3), keepdim=True, correction=0)
    return F.relu((maps - mean) * (variance + 1e-5).rsqrt())


def _joined(one: Tensor, other: Tensor, rows: int) -> Tensor:
    """Channels of both, row by row."""
    split = [part.view(len(part), rows, -1, *part.shape[-2:]) for part in (one, other)]
    return torch.cat(split, dim=2).flatten(1, 2)
