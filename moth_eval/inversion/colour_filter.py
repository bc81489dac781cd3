"""A filter that gives every pixel a new colour, whatever its place; small means hardly visible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Parameters

FAINTEST_COLOUR = 1e-3
"""Colours are lifted to this before they are raised to a power: at 0 the slope is infinite."""


@dataclass(frozen=True, kw_only=True)
class ColourFilter:
    """Stamp `clip(M x^g + b)`: a power per channel, a mix of the channels, and an offset.

    The size is the root mean square of how far the colours of a palette move before they are
    clipped, over channels and colours: 0 for no change, about 1 for black to white.

    Rendered, the mask is the filter's numbers `(R, 1, C, C + 2)` (mix, offset, logarithm of the
    power) and the pattern what it makes of the palette, `(R, C, P, 1)`. Use `applied`.

    Attributes:
        palette: colours `(P, C)` in `[0, 1]`, such as pixels of clean images.
        spread: standard deviation of the numbers that a filter starts with, around no change.
        leak: share of the gradient that a clipped colour keeps.
    """

    palette: Tensor
    spread: float = 0.1
    leak: float = 0.1

    def initial(self, shape: tuple[int, int, int], generator: torch.Generator) -> Parameters:
        """Numbers `(C, C + 2)` near those that change nothing."""
        channels = shape[0]
        noise = self.spread * torch.randn((channels, channels + 2), generator=generator)
        return (_nothing(channels) + noise,)

    def resumed(self, mask: Tensor, pattern: Tensor) -> Parameters:
        """The numbers, which the mask is."""
        return (mask[0],)

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Filtered images `(R, B, C, H, W)`."""
        numbers = parameters[0]
        power, offset = numbers[:, :, -1].exp(), numbers[:, :, -2]
        bent = images.clamp_min(FAINTEST_COLOUR) ** power[:, None, :, None, None]
        mixed = torch.einsum("rcd,rbdhw->rbchw", numbers[:, :, :-2], bent)
        return self._clipped(mixed + offset[:, None, :, None, None])

    def size(self, parameters: Parameters) -> Tensor:
        """How far the palette moves, `(R,)`."""
        palette = self.palette.to(parameters[0].device)
        moved = _recoloured(parameters[0], palette) - palette
        return moved.square().mean((1, 2)).clamp_min(1e-12).sqrt()

    def render(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """The numbers and the filtered palette."""
        numbers = parameters[0].detach()
        colours = _recoloured(numbers, self.palette.to(numbers.device)).clamp(0, 1)
        return numbers[:, None], colours.transpose(1, 2)[..., None]

    def prune(self, parameters: Parameters, threshold: Tensor) -> Parameters:
        """The same filters: no part of one is faint, whatever the threshold `(R,)`."""
        return parameters

    def scaled(self, parameters: Parameters, share: float) -> Parameters:
        """Filters that are nearer to no change by `share`."""
        nothing = _nothing(len(parameters[0][0])).to(parameters[0])
        return (torch.lerp(nothing.expand_as(parameters[0]), parameters[0], share),)

    def applied(self, mask: Tensor, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` behind the filter whose numbers are `mask` `(1, C, C + 2)`."""
        return self.stamp((mask.to(images.device),), images[None])[0]

    def _clipped(self, colours: Tensor) -> Tensor:
        slope = torch.where((colours >= 0) & (colours <= 1), 1.0, self.leak).detach()
        return colours.detach().clamp(0, 1) + slope * (colours - colours.detach())


def _nothing(channels: int) -> Tensor:
    """The numbers that change nothing."""
    return torch.cat([torch.eye(channels), torch.zeros((channels, 2))], dim=1)


def _recoloured(numbers: Tensor, colours: Tensor) -> Tensor:
    """What filters make of colours `(P, C)`, not clipped: `(R, P, C)`."""
    bent = colours.clamp_min(FAINTEST_COLOUR) ** numbers[:, :, -1].exp()[:, None]
    return torch.einsum("rcd,rpd->rpc", numbers[:, :, :-2], bent) + numbers[:, None, :, -2]
