"""Success rates of triggers on all images of a problem, counted where they are soonest known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .frozen import Frozen
from .objective import Objective, Parameters
from .problems import Problem

FIRST_LOOK = 16
"""Images of the first part where some withstood an earlier trigger of the problem."""

PART = 64
"""Images of every other part."""


class Verifier:
    """Measures triggers, and remembers which images withstood the last one of each problem.

    Most triggers that are tried fail, and on the same images as those before. Asked first, these
    tell so at once; the rate of a trigger that succeeds is the same in any order.
    """

    def __init__(self, network: Frozen, images: Tensor, objective: Objective) -> None:
        """Nothing is known yet.

        Args:
            network: the frozen classifier.
            images: the pool, float32 `(N, C, H, W)` in `[0, 1]`, on the network's device.
            objective: the parametrisation of the triggers.
        """
        self._network = network
        self._images = images
        self._objective = objective
        self._orders: dict[int, tuple[Problem, Tensor]] = {}

    def rate(self, problem: Problem, trigger: Parameters, *, at_least: float = 0.0) -> float:
        """Fraction of a problem's images that a trigger flips, in `[0, 1]`.

        Args:
            problem: whose images, and to which class.
            trigger: parameters `(1, ...)`.
            at_least: counting ends early once this rate is out of reach; what is returned is then
                below it, but not the exact rate.
        """
        known = self._orders.get(id(problem))
        order = known[1] if known else problem.images.to(self._images.device)
        total = len(order)
        allowed = total - math.ceil(at_least * total - 1e-9)
        flipped: list[Tensor] = []
        seen = hits = 0
        while seen < total and seen - hits <= allowed:
            count = FIRST_LOOK if known and not seen else PART
            part = order[seen : seen + min(count, self._network.images_per_pass)]
            flipped.append(self._flips(problem, trigger, part))
            hits += int(flipped[-1].sum())
            seen += len(part)
        withstood = ~torch.cat(flipped) if flipped else order[:0].bool()
        if bool(withstood.any()):
            looked, rest = order[:seen], order[seen:]
            after = torch.cat([looked[withstood], rest, looked[~withstood]])
            self._orders[id(problem)] = (problem, after)
        return hits / total

    def _flips(self, problem: Problem, trigger: Parameters, part: Tensor) -> Tensor:
        """Bool `(M,)`: which of these images the trigger sends to the target."""
        with torch.no_grad():
            stamped = self._objective.stamp(trigger, self._images[part][None])[0]
        return self._network.logits(stamped).argmax(1) == problem.target
