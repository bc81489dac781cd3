"""A patch of fixed size and place whose colours are optimised: what a real attacker can paste."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ScanError
from .objective import Parameters


@dataclass(frozen=True, kw_only=True)
class SquarePatch:
    """Paste a square of `side` x `side` pixels; only its colours are optimised.

    Every row draws its place at random and keeps it. The colours are `(tanh(a) + 1) / 2`. The size
    is the area of the square, always, so no cost moves anything.

    Attributes:
        side: of the square (pixels).
        reach: the colours of a resumed patch are kept within plus and minus this before tanh, where
            float32 gradients still move them.
    """

    side: int
    reach: float = 4.0

    def initial(self, shape: tuple[int, int, int], generator: torch.Generator) -> Parameters:
        """A frame `(1, H, W)` of 0 and 1 at a random place, and colours `(C, H, W)` before tanh.

        Raises:
            ScanError: the square does not fit into the image.
        """
        frame = random_square(self.side, shape, generator)
        return frame, 2 * torch.rand(shape, generator=generator) - 1

    def resumed(self, mask: Tensor, pattern: Tensor) -> Parameters:
        """The frame is the mask; colours within `reach`."""
        return mask, (2 * pattern - 1).atanh().clamp(-self.reach, self.reach)

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Stamped images `(R, B, C, H, W)`."""
        colours = (parameters[1].tanh() + 1) / 2
        return torch.lerp(images, colours[:, None], _fixed(parameters[0])[:, None])

    def size(self, parameters: Parameters) -> Tensor:
        """Area of each square, `(R,)` (pixels)."""
        return _fixed(parameters[0]).sum((1, 2, 3))

    def render(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Masks `(R, 1, H, W)` of 0 and 1, and patterns `(R, C, H, W)`."""
        return parameters[0].detach(), (parameters[1].detach().tanh() + 1) / 2

    def prune(self, parameters: Parameters, threshold: Tensor) -> Parameters:
        """The same patches: no part of a square is faint, whatever the threshold `(R,)`."""
        return parameters

    def scaled(self, parameters: Parameters, share: float) -> Parameters:
        """The same patches: a square is opaque, whatever the `share`."""
        return parameters


def random_square(side: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """A mask `(1, H, W)` that is 1 in a square of `side` x `side` pixels at a random place.

    From equal generators, squares of two sizes lie at the same relative place.

    Raises:
        ScanError: the square does not fit into images `(C, H, W)`.
    """
    _, height, width = shape
    if not 1 <= side <= min(height, width):
        raise ScanError(
            f"a square patch has a side of 1 to {min(height, width)} pixels on images of "
            f"{height} x {width}, got {side}: choose another size"
        )
    place = torch.rand(2, generator=generator, dtype=torch.float64)
    top, left = int(place[0] * (height - side + 1)), int(place[1] * (width - side + 1))
    mask = torch.zeros((1, height, width))
    mask[:, top : top + side, left : left + side] = 1
    return mask


def _fixed(frame: Tensor) -> Tensor:
    """The frame itself, with a gradient of zero: Adam then leaves it where it is."""
    return frame.detach() + 0 * frame
