"""Distances of a few pairs on two networks, under one inverter, with restarts and transfers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .inversion.engine import invert
from .inversion.frozen import FrozenNetwork
from .inversion.objective import MaskAndPattern, Objective
from .inversion.problems import Inversion, pair_problems
from .inversion.schedule import Schedule
from .inversion.signed_pixels import SignedPixels
from .inverter_table import InverterCheck, PairCheck, Restarts
from .seeds import derive_seed
from .subject import Examples


@dataclass(frozen=True, kw_only=True)
class Inverter:
    """A parametrisation of triggers, and how its rendered triggers are put on images.

    Attributes:
        name: in tables.
        objective: what the engine optimises.
        applied: `(mask, pattern, images (N, C, H, W))` to stamped images.
    """

    name: str
    objective: Objective
    applied: Callable[[Tensor, Tensor, Tensor], Tensor]

    def check(
        self,
        networks: tuple[FrozenNetwork, FrozenNetwork],
        examples: Examples,
        pairs: Sequence[tuple[int, int]],
        *,
        restarts: int,
        schedule: Schedule,
        seed: int,
    ) -> InverterCheck:
        """Both networks' distances, and what their triggers do on the other one.

        Args:
            networks: before and after.
            examples: the pool of images, on the networks' device.
            pairs: `(source, target)` classes.
            restarts: inversions per pair.
            schedule: of every inversion.
            seed: decides the starts, which are the same for both networks.
        """
        rows = [(*pair, number) for pair in pairs for number in range(restarts)]
        problems = pair_problems(
            examples.labels,
            [(source, target) for source, target, _ in rows],
            [derive_seed(seed, self.name, *row) for row in rows],
        )
        before, after = (
            invert(network, examples.images, problems, schedule, objective=self.objective)
            for network in networks
        )
        checks = []
        for place, (source, target) in enumerate(pairs):
            own = slice(place * restarts, (place + 1) * restarts)
            checks.append(
                PairCheck(
                    source=source,
                    target=target,
                    before=self._restarts(before[own], networks[1], examples.images),
                    after=self._restarts(after[own], networks[0], examples.images),
                )
            )
        return InverterCheck(
            inverter=self.name, success_rate=schedule.success_rate, pairs=tuple(checks)
        )

    def _restarts(
        self, found: Sequence[Inversion], other: FrozenNetwork, images: Tensor
    ) -> Restarts:
        valid = [inversion for inversion in found if inversion.valid]
        smallest = min(valid, key=lambda inversion: inversion.size, default=None)
        return Restarts(
            sizes=tuple(i.size if i.valid else None for i in found),
            asrs=tuple(i.asr for i in found),
            transferred=None if smallest is None else self._asr(smallest, other, images),
        )

    def _asr(self, found: Inversion, network: FrozenNetwork, images: Tensor) -> float:
        """ASR in `[0, 1]` of a trigger on its own images, on any network."""
        chosen = images[found.problem.images.to(images.device)]
        mask, pattern = found.mask.to(images.device), found.pattern.to(images.device)
        hits = network.logits(self.applied(mask, pattern, chosen)).argmax(1)
        return int((hits == found.problem.target).sum()) / len(chosen)


def _pasted(mask: Tensor, pattern: Tensor, images: Tensor) -> Tensor:
    return torch.lerp(images, pattern, mask)


MASK_AND_PATTERN = Inverter(name="mask-and-pattern", objective=MaskAndPattern(), applied=_pasted)
"""The inverter of Neural Cleanse, MOTH and class distance: what hardening trains against."""

SIGNED_PIXELS = Inverter(
    name="signed-pixels", objective=SignedPixels(), applied=SignedPixels().applied
)
"""The second opinion."""
