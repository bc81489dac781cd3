"""How alike two images look: structural similarity."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
"""Source: Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity",
IEEE TIP 2004: a Gaussian window of 11 pixels with sigma 1.5, and these constants."""


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean structural similarity of pairs of images: `(N,)`, 1 for equal ones, differentiable.

    Images that are smaller than the window are compared in a window of their own size.

    Args:
        one: `(N, C, H, W)` in `[0, 1]`.
        other: likewise.
    """
    channels, height, width = one.shape[1:]
    rows, columns = (_gaussian(min(WINDOW, side), one) for side in (height, width))

    def blurred(images: Tensor) -> Tensor:
        vertical = rows.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        horizontal = columns.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return F.conv2d(F.conv2d(images, vertical, groups=channels), horizontal, groups=channels)

    mean, mean_other = blurred(one), blurred(other)
    variance = blurred(one * one) - mean * mean
    variance_other = blurred(other * other) - mean_other * mean_other
    covariance = blurred(one * other) - mean * mean_other
    c1, c2 = K1**2, K2**2
    luminance = (2 * mean * mean_other + c1) / (mean * mean + mean_other * mean_other + c1)
    structure = (2 * covariance + c2) / (variance + variance_other + c2)
    return (luminance * structure).mean((1, 2, 3))


def _gaussian(size: int, like: Tensor) -> Tensor:
    place = torch.arange(size, dtype=like.dtype, device=like.device) - (size - 1) / 2
    weights = torch.exp(-((place / SIGMA) ** 2) / 2)
    return weights / weights.sum()
