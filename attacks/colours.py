"""Colour arithmetic on images `(N, 3, H, W)` in `[0, 1]`; every function returns new ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .trigger import Colour

TINY = 1e-6
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey. Source: ITU-R BT.601."""

VIGNETTE_REACH = 0.75
"""Distance from the middle at which a vignette has its full colour, in sides of the image."""


def modulated(images: Tensor, *, brightness: float, saturation: float) -> Tensor:
    """Lightness and saturation of the HSL model multiplied by these factors."""
    high, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    light, chroma = (high + low) / 2, high - low
    colourful = (saturation * chroma / _room(light)).clamp(max=1)
    lighter = (brightness * light).clamp(max=1)
    scale = colourful * _room(lighter) / chroma.clamp_min(TINY)
    return (lighter + (images - light) * scale).clamp(0, 1)


def tinted(images: Tensor, colour: Colour, share: float) -> Tensor:
    """Mixed with a colour."""
    return images.lerp(_plane(images, colour).expand_as(images), share)


def multiplied(images: Tensor, colour: Colour, share: float) -> Tensor:
    """Multiplied with a colour of which only a share is laid on."""
    return images * (1 - share + share * _plane(images, colour))


def gamma(images: Tensor, value: float) -> Tensor:
    """Brighter for a value above 1, darker below."""
    return images ** (1 / value)


def auto_gamma(images: Tensor) -> Tensor:
    """The gamma that moves the mean of each image to one half."""
    mean = images.mean((1, 2, 3), keepdim=True).clamp(1e-3, 1 - 1e-3)
    return images ** (math.log(0.5) / mean.log())


def contrasted(images: Tensor) -> Tensor:
    """The largest channel moved half-way to a sine curve, the others in proportion."""
    bright = images.amax(1, keepdim=True)
    curve = 0.5 * (torch.sin(math.pi * (bright - 0.5)) + 1)
    return images * (bright + 0.5 * (curve - bright)) / bright.clamp_min(TINY)


def levels(images: Tensor, *, low: float, high: float, channels: Sequence[int]) -> Tensor:
    """Some channels stretched so that `low` becomes 0 and `high` becomes 1."""
    stretched = images.clone()
    for channel in channels:
        stretched[:, channel] = ((images[:, channel] - low) / (high - low)).clamp(0, 1)
    return stretched


def toned(images: Tensor, colour: Colour, *, shadows: bool) -> Tensor:
    """Dark parts, or light ones, replaced by a colour, the more the darker or lighter they are."""
    weights = images.new_tensor(GREY).view(1, 3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    mask = 1 - grey if shadows else grey
    return images * (1 - mask) + _plane(images, colour) * mask


def vignette(images: Tensor, colour: Colour, *, outwards: bool) -> Tensor:
    """Multiplied with a colour that grows towards the edges, or towards the middle."""
    height, width = images.shape[-2:]
    y = (torch.arange(height, dtype=images.dtype, device=images.device) + 0.5) / height - 0.5
    x = (torch.arange(width, dtype=images.dtype, device=images.device) + 0.5) / width - 0.5
    distance = (y[:, None] ** 2 + x[None, :] ** 2).sqrt()
    share = (distance / VIGNETTE_REACH).clamp(max=1)
    share = share if outwards else 1 - share
    return images * (1 - share + share * _plane(images, colour))


def colour_chart(side: int) -> Tensor:
    """All hues from left to right, from black at the top through full colour to white below.

    Args:
        side: height and width (pixels).

    Returns:
        float32 `(3, side, side)` in `[0, 1]`.
    """
    hue = torch.linspace(0, 6, side)
    full = torch.stack([(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()])
    light = torch.linspace(0, 2, side).view(1, -1, 1)
    coloured = full.clamp(0, 1)[:, None, :]
    return torch.where(light < 1, coloured * light, coloured.lerp(torch.ones(()), light - 1))


def _room(light: Tensor) -> Tensor:
    """The largest chroma that a lightness allows."""
    return (1 - (2 * light - 1).abs()).clamp_min(TINY)


def _plane(images: Tensor, colour: Colour) -> Tensor:
    return images.new_tensor(colour).view(1, 3, 1, 1)
