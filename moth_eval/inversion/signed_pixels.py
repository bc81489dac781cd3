"""A trigger that adds to some pixels and takes from others; small means few pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Parameters


@dataclass(frozen=True, kw_only=True)
class SignedPixels:
    """Stamp `clip(x + plus - minus)` with two one-sided patterns; size is the number of pixels.

    There is no mask: a pixel is part of the trigger where any of its channels is changed. The
    number of such pixels has no useful gradient, so that of a smooth count stands in: over both
    patterns and all pixels, the largest `tanh(p / softness) / (2 - epsilon) + 1/2` of a channel.

    Rendered, the mask is 1 where a pixel is changed and 0 elsewhere, so that its sum is the size,
    and the pattern is `1/2 + change / 2`. It is to be added, not pasted: use `applied`.

    Source: Tao et al., "Better Trigger Inversion Optimization in Backdoor Scanning", CVPR 2022,
    and its published code.

    Differs from the reference:
        * changes below `smallest_change` are left out of every stamped image, not only of the best
          trigger, so that what is counted is what is measured;
        * the best trigger is the one with the fewest changed pixels; the smooth count has no say;
        * a pixel that is switched off may come back: the reference revives pixels by writing the
          best trigger back into what is being optimised, here a share of the gradient leaks.

    Attributes:
        epsilon: keeps the smooth count of one pattern just below 1 (1e-7, as published).
        softness: width of the smooth count (10, as published).
        smallest_change: changes below it, in units of the image range, count as none (1/255, as
            published).
        leak: share of the gradient that a value outside `[0, 1]` keeps. Ours: for three pairs of a
            CIFAR-10 ResNet20 with two seeds each, 0, 0.1 and 0.3 ended at 383, 343 and 331 pixels
            in sum (schedule `FAST`).
    """

    epsilon: float = 1e-7
    softness: float = 10.0
    smallest_change: float = 1 / 255
    leak: float = 0.3

    def initial(self, shape: tuple[int, int, int], generator: torch.Generator) -> Parameters:
        """What is added and what is taken away, each uniform in `[0, 1]`, `(C, H, W)`."""
        return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)

    def resumed(self, mask: Tensor, pattern: Tensor) -> Parameters:
        """Parameters of a rendered trigger; where it changes nothing, both patterns are 0."""
        change = (2 * pattern - 1) * mask
        return change.clamp_min(0), (-change).clamp_min(0)

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Stamped images `(R, B, C, H, W)`."""
        return _clipped(images + self._change(parameters)[:, None])

    def size(self, parameters: Parameters) -> Tensor:
        """Number of changed pixels, `(R,)`, with the gradient of the smooth count."""
        smooth = torch.stack(
            [((p / self.softness).tanh() / (2 - self.epsilon) + 0.5).amax(1) for p in parameters]
        ).sum((0, 2, 3))
        return self._mask(parameters).sum((1, 2, 3)) + (smooth - smooth.detach())

    def render(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Masks `(R, 1, H, W)` of 0 and 1, and patterns `(R, C, H, W)`: 1/2 for no change."""
        return self._mask(parameters), (1 + self._change(parameters).detach()) / 2

    def prune(self, parameters: Parameters, threshold: Tensor) -> Parameters:
        """Pixels with no channel changed by as much as the threshold are left alone altogether."""
        strongest = self._change(parameters).abs().amax(1, keepdim=True)
        faint = strongest < threshold.view(-1, 1, 1, 1)
        plus, minus = parameters
        return plus.masked_fill(faint, 0.0), minus.masked_fill(faint, 0.0)

    def scaled(self, parameters: Parameters, share: float) -> Parameters:
        """All changes times `share`; those that become too faint are gone."""
        plus, minus = parameters
        return plus * share, minus * share

    def applied(self, mask: Tensor, pattern: Tensor, images: Tensor) -> Tensor:
        """Images `(N, C, H, W)` with a rendered mask and pattern stamped on them."""
        trigger = tuple(part[None].to(images.device) for part in self.resumed(mask, pattern))
        return self.stamp(trigger, images[None])[0]

    def _change(self, parameters: Parameters) -> Tensor:
        """What is added to an image, `(R, C, H, W)` in `[-1, 1]`.

        Faint changes are 0, but keep the gradient that they would have: they may still grow.
        """
        plus, minus = parameters
        change = _clipped(plus, self.leak) - _clipped(minus, self.leak)
        kept = change.detach().masked_fill(change.abs() < self.smallest_change, 0.0)
        return kept + (change - change.detach())

    def _mask(self, parameters: Parameters) -> Tensor:
        changed = self._change(parameters).detach() != 0
        return changed.any(1, keepdim=True).float()


def _clipped(value: Tensor, leak: float = 0.0) -> Tensor:
    """Values clipped to `[0, 1]`, with the gradient of those at the very ends passed on.

    What `clamp` passes on there differs between versions of torch, and a resumed trigger is all 0
    where it changes nothing.
    """
    slope = torch.where((value >= 0) & (value <= 1), 1.0, leak).detach()
    return value.detach().clamp(0, 1) + slope * (value - value.detach())
