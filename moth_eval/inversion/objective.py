"""How a trigger is parametrised. The loop around it does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Parameters = tuple[Tensor, ...]
"""What is optimised: tensors whose first dimension is the row."""


class Objective(Protocol):
    """What the engine needs of a parametrisation. R rows, B images each."""

    def initial(self, shape: tuple[int, int, int], generator: torch.Generator) -> Parameters:
        """Unconstrained parameters of one row (no row dimension) for images `(C, H, W)`."""
        ...

    def resumed(self, mask: Tensor, pattern: Tensor) -> Parameters:
        """Parameters of one row that renders as this mask and pattern, every part still movable."""
        ...

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Stamped images `(R, B, C, H, W)` in `[0, 1]`; differentiable in the parameters."""
        ...

    def size(self, parameters: Parameters) -> Tensor:
        """What is to be small, `(R,)`; differentiable in the parameters."""
        ...

    def render(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Masks `(R, 1, H, W)` and patterns `(R, C, H, W)`, both in `[0, 1]`."""
        ...

    def prune(self, parameters: Parameters, threshold: Tensor) -> Parameters:
        """The same triggers without the parts that are fainter than `threshold` `(R,)`."""
        ...

    def scaled(self, parameters: Parameters, share: float) -> Parameters:
        """The same triggers at this share of their strength, in `(0, 1]`, with no larger sizes."""
        ...


@dataclass(frozen=True, kw_only=True)
class MaskAndPattern:
    """Stamp `(1 - m) * x + m * p` with one mask for all channels; size is the sum of the mask.

    Both go through `tanh(a) / (2 - epsilon) + 1/2`, and both start uniform in `[0, 1]`.

    Source: Neural Cleanse (Wang et al., IEEE S&P 2019), section IV, and its published code.

    Attributes:
        epsilon: keeps the inverse of tanh finite at 0 and 1 (1e-7, Keras' epsilon).
        reach: parameters of a resumed trigger are kept within plus and minus this. At the 8.7 that
            0 and 1 map to, tanh is flat in float32 and a pixel would never move again.
    """

    epsilon: float = 1e-7
    reach: float = 4.0

    def initial(self, shape: tuple[int, int, int], generator: torch.Generator) -> Parameters:
        """Unconstrained mask `(1, H, W)` and pattern `(C, H, W)`."""
        channels, height, width = shape
        mask = torch.rand((1, height, width), generator=generator)
        pattern = torch.rand((channels, height, width), generator=generator)
        return self._unconstrained(mask), self._unconstrained(pattern)

    def resumed(self, mask: Tensor, pattern: Tensor) -> Parameters:
        """Unconstrained mask and pattern, within `reach`."""
        raw = self._unconstrained(mask), self._unconstrained(pattern)
        return raw[0].clamp(-self.reach, self.reach), raw[1].clamp(-self.reach, self.reach)

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Stamped images `(R, B, C, H, W)`."""
        mask, pattern = self.render(parameters)
        return torch.lerp(images, pattern[:, None], mask[:, None])

    def size(self, parameters: Parameters) -> Tensor:
        """Sum of each mask, `(R,)` (pixels)."""
        return self._constrained(parameters[0]).sum((1, 2, 3))

    def render(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Masks `(R, 1, H, W)` and patterns `(R, C, H, W)`."""
        return self._constrained(parameters[0]), self._constrained(parameters[1])

    def prune(self, parameters: Parameters, threshold: Tensor) -> Parameters:
        """Masks below the threshold become exactly 0; patterns stay."""
        raw, pattern = parameters
        faint = self._constrained(raw) < threshold.view(-1, 1, 1, 1)
        return torch.where(faint, -torch.inf, raw), pattern

    def scaled(self, parameters: Parameters, share: float) -> Parameters:
        """Masks times `share`; patterns stay."""
        raw, pattern = parameters
        return self._unconstrained(self._constrained(raw) * share), pattern

    def _constrained(self, raw: Tensor) -> Tensor:
        return (raw.tanh() / (2 - self.epsilon) + 0.5).clamp(0, 1)

    def _unconstrained(self, value: Tensor) -> Tensor:
        return ((value - 0.5) * (2 - self.epsilon)).atanh()
