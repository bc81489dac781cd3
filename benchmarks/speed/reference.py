"""Trigger inversion as public code does it: one pair after the other, nothing engineered."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

EPSILON = 1e-7


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How a trigger shrank: seconds since the start, and the smallest valid size by then.

    Attributes:
        seconds: when a smaller trigger was there (s).
        sizes: the smallest valid sizes by then (pixels).
        ends: one entry: when the search was over (s).
    """

    seconds: list[float] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def note(self, seconds: float, size: float) -> None:
        """Add a point if it is smaller than all before."""
        if not self.sizes or size < self.sizes[-1]:
            self.seconds.append(seconds)
            self.sizes.append(size)

    def seconds_to(self, size: float) -> float | None:
        """When a trigger of at most this size was there; None: never."""
        reached = (t for t, s in zip(self.seconds, self.sizes, strict=True) if s <= size)
        return next(reached, None)


@dataclass(frozen=True, kw_only=True)
class ReferenceLoop:
    """Sequential, trainable weights, a host synchronisation per minibatch, no early stop.

    The cost moves once per pass over the images and waits ten passes, the published schedule of
    the MOTH authors' inversion (github.com/Gwinhen/MOTH), re-implemented from its description.

    Attributes:
        passes: passes over the images.
        batch_size: images per step.
        learning_rate: of Adam with betas 0.5 and 0.9.
        initial_cost: weight of the mask's sum at the start.
        success_rate: fraction of images a trigger has to flip.
        patience: passes before the cost moves.
        up: factor on the cost; it falls by up to the power of 1.5.
    """

    passes: int = 1000
    batch_size: int = 32
    learning_rate: float = 0.1
    initial_cost: float = 1e-3
    success_rate: float = 0.9
    patience: int = 10
    up: float = 1.5

    def invert(self, network: nn.Module, images: Tensor, target: int, seed: int) -> Trace:
        """How the trigger that flips `images` `(N, C, H, W)` to `target` shrank.

        Sizes are sums of the mask (pixels) whose success rate was re-measured on all images; the
        clock stands still meanwhile.
        """
        generator = torch.Generator().manual_seed(seed)
        raw = [
            _unconstrained(torch.rand(shape, generator=generator)).requires_grad_()
            for shape in ((1, *images.shape[2:]), tuple(images.shape[1:]))
        ]
        optimiser = torch.optim.Adam(raw, lr=self.learning_rate, betas=(0.5, 0.9))
        cost, ups, downs, best = self.initial_cost, 0, 0, float("inf")
        trace, clock = Trace(), 0.0
        for _ in range(self.passes):
            started = time.perf_counter()
            rate, size = self._one_pass(network, images, target, raw, optimiser, cost, generator)
            ups, downs = (ups + 1, 0) if rate >= self.success_rate else (0, downs + 1)
            if ups >= self.patience:
                ups, cost = 0, cost * self.up
            elif downs >= self.patience:
                downs, cost = 0, cost / self.up**1.5
            clock += time.perf_counter() - started
            if rate >= self.success_rate and size < best:
                best = size
                measured, exact = _measure(network, images, target, raw)
                if measured >= self.success_rate:
                    trace.note(clock, exact)
        trace.note(clock, trace.sizes[-1] if trace.sizes else float("inf"))
        trace.ends.append(clock)
        return trace

    def _one_pass(
        self,
        network: nn.Module,
        images: Tensor,
        target: int,
        raw: list[Tensor],
        optimiser: torch.optim.Optimizer,
        cost: float,
        generator: torch.Generator,
    ) -> tuple[float, float]:
        """Mean success rate and mean mask sum over one shuffled pass."""
        rates, sizes = [], []
        order = torch.randperm(len(images), generator=generator)
        for chosen in torch.split(order, self.batch_size):
            mask, pattern = map(_constrained, raw)
            logits = network((1 - mask) * images[chosen] + mask * pattern)
            wanted = torch.full((len(chosen),), target)
            loss = F.cross_entropy(logits, wanted) + cost * mask.sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            rates.append((logits.argmax(1) == wanted).float().mean().item())
            sizes.append(mask.sum().item())
        return sum(rates) / len(rates), sum(sizes) / len(sizes)


def _measure(
    network: nn.Module, images: Tensor, target: int, raw: list[Tensor]
) -> tuple[float, float]:
    """Success rate on all images, and mask sum, of the present trigger."""
    with torch.no_grad():
        mask, pattern = map(_constrained, raw)
        hits = network((1 - mask) * images + mask * pattern).argmax(1) == target
    return float(hits.float().mean()), float(mask.sum())


def _constrained(raw: Tensor) -> Tensor:
    return raw.tanh() / (2 - EPSILON) + 0.5


def _unconstrained(value: Tensor) -> Tensor:
    return ((value - 0.5) * (2 - EPSILON)).atanh()
