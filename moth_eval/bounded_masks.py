"""Masks whose elements compete for a bounded sum."""

from __future__ import annotations

import torch
from torch import Tensor

HALVINGS = 20
"""Of the interval that the shift of a mask's logits is looked for in."""

DEEPEST = 6.0
"""Logits are kept within plus and minus this: an element that is off can come back."""

MOMENTUM = 0.5

STRIDE = 5.0
"""How far the logit of the most useful element moves in a step of rate 1."""


class BoundedMasks:
    """Masks in `[0, 1]`, one per row, whose sums never exceed a bound.

    Adam would let every element of a steady gradient grow alike, however little it helps. Here
    all elements of a row move by their slope over the largest of the row; then all logits are
    shifted down until the sum fits, so that what helps most takes the place of the rest.

    Attributes:
        logits: `(R, ...)`, a leaf that gradients can be taken in.
        most: largest sum of a row.
    """

    def __init__(self, shape: tuple[int, ...], most: float, device: torch.device) -> None:
        """Every element equally on, as far as the bound goes.

        Args:
            shape: `(R, ...)`.
            most: largest sum of a row.
            device: where they lie.
        """
        self.most = most
        share = min(most / torch.Size(shape[1:]).numel(), 0.99)
        start = torch.full(shape, share, device=device).logit()
        self.logits = start.requires_grad_()
        self._speed = torch.zeros(shape, device=device)

    def values(self) -> Tensor:
        """The masks `(R, ...)`, differentiable in the logits."""
        return self.logits.sigmoid()

    @torch.no_grad()
    def step(self, slope: Tensor, rate: float) -> None:
        """Move against the gradient in the logits `(R, ...)` and keep the bound."""
        on = self.logits.sigmoid()
        steep = slope / (on * (1 - on))
        axes = tuple(range(1, slope.ndim))
        largest = steep.abs().amax(axes, keepdim=True).clamp_min(1e-30)
        self._speed.mul_(MOMENTUM).sub_(steep / largest)
        self.logits.add_(self._speed, alpha=STRIDE * rate).clamp_(-DEEPEST, DEEPEST)
        self.logits.copy_(within(self.logits, self.most))


def within(logits: Tensor, most: float) -> Tensor:
    """Logits `(R, ...)`, shifted down row by row as far as the masks sum up to more than `most`."""
    axes = tuple(range(1, logits.ndim))
    low = torch.full_like(logits.amax(axes, keepdim=True), -2 * DEEPEST - 20)
    high = torch.zeros_like(low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        fits = (logits + middle).sigmoid().sum(axes, keepdim=True) <= most
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    small = logits.sigmoid().sum(axes, keepdim=True) <= most
    return torch.where(small, logits, logits + low)
