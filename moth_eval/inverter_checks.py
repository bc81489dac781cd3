"""Distances of a few pairs on two networks, under one inverter, with restarts and transfers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean, median
from typing import Literal

import torch
from torch import Tensor

from .inversion.engine import invert
from .inversion.frozen import FrozenNetwork
from .inversion.objective import MaskAndPattern, Objective
from .inversion.problems import Inversion, pair_problems
from .inversion.schedule import Schedule
from .inversion.signed_pixels import SignedPixels
from .seeds import derive_seed
from .subject import Examples

Side = Literal["before", "after"]

SIDES: tuple[Side, Side] = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """What the restarts of one inverter found for one pair on one network.

    Attributes:
        sizes: size of each restart's trigger (pixels); None where it missed the success rate.
        asrs: ASR of each restart's trigger on the images of the pair, in `[0, 1]`.
        transferred: ASR, on the other network, of the smallest trigger found here; None if none.
    """

    sizes: tuple[float | None, ...]
    asrs: tuple[float, ...]
    transferred: float | None

    @property
    def valid(self) -> list[float]:
        """Sizes of the triggers that reached the success rate."""
        return [size for size in self.sizes if size is not None]

    @property
    def smallest(self) -> float | None:
        """The distance: size of the smallest valid trigger (pixels); None if there is none."""
        return min(self.valid, default=None)


@dataclass(frozen=True, kw_only=True)
class PairCheck:
    """One pair of classes under one inverter, before and after."""

    source: int
    target: int
    before: Restarts
    after: Restarts

    def distances(self, success_rate: float | None = None) -> tuple[float, float] | None:
        """Distances before and after (pixels); None if one is missing or 0.

        Args:
            success_rate: if given, the smallest trigger of either network also counts for the
                other one, wherever its transferred ASR reaches this.
        """
        before, after = self.before.smallest, self.after.smallest
        if success_rate is not None:
            lent = _lent(self.after, success_rate), _lent(self.before, success_rate)
            before = min((s for s in (before, lent[0]) if s is not None), default=None)
            after = min((s for s in (after, lent[1]) if s is not None), default=None)
        return (before, after) if before and after else None


def _lent(found: Restarts, success_rate: float) -> float | None:
    """Size of the smallest trigger, if it works on the other network as well."""
    works = found.transferred is not None and found.transferred >= success_rate
    return found.smallest if works else None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How distances changed.

    Attributes:
        factor: geometric mean over the pairs of after / before; 1 means no change.
        increase: mean over the pairs of (after - before) / before, as MOTH's tables state it.
        pairs: pairs behind both.
        left_out: pairs without a distance above 0 on both sides.
    """

    factor: float
    increase: float
    pairs: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class InverterCheck:
    """All pairs under one inverter.

    Attributes:
        inverter: `mask-and-pattern` (size: sum of the mask) or `signed-pixels` (size: number of
            changed pixels); the two units do not compare, their growth does.
        success_rate: ASR that makes a trigger valid.
        pairs: one entry per pair.
    """

    inverter: str
    success_rate: float
    pairs: tuple[PairCheck, ...]

    def growth(self, *, transfers: bool = False) -> Growth | None:
        """Growth of the distances; None if no pair has one on both sides.

        Args:
            transfers: whether a trigger of one network counts for the other one too, where it
                works there. A growth that shrinks by this was a failure to find, not an absence.
        """
        bar = self.success_rate if transfers else None
        known = [found for pair in self.pairs if (found := pair.distances(bar))]
        if not known:
            return None
        return Growth(
            factor=geometric_mean(after / before for before, after in known),
            increase=fmean((after - before) / before for before, after in known),
            pairs=len(known),
            left_out=len(self.pairs) - len(known),
        )

    def scatter(self, side: Side) -> float | None:
        """Geometric mean over pairs of median size / smallest size; None without two valid sizes.

        1 means that every restart ends alike. The further above, the less one inversion says.

        Args:
            side: `before` or `after`.
        """
        valid = [getattr(pair, side).valid for pair in self.pairs]
        ratios = [median(s) / min(s) for s in valid if len(s) > 1 and min(s) > 0]
        return geometric_mean(ratios) if ratios else None

    def transferred(self, side: Side) -> float | None:
        """Mean ASR of this side's smallest triggers on the other network; None if there are none.

        Args:
            side: `before` or `after`: where the triggers were found.
        """
        rates = [getattr(pair, side).transferred for pair in self.pairs]
        known = [r for r in rates if r is not None]
        return fmean(known) if known else None

    def missed(self, side: Side) -> int:
        """Pairs for which no restart found a valid trigger on this side."""
        return sum(getattr(pair, side).smallest is None for pair in self.pairs)

    def derived(self) -> dict[str, object]:
        """The figures above, for a file."""
        figures: dict[str, object] = {}
        for name, growth in (
            ("growth", self.growth()),
            ("growth_with_transfers", self.growth(transfers=True)),
        ):
            figures[name] = None if growth is None else asdict(growth)
        for verb in (self.scatter, self.transferred, self.missed):
            for side in SIDES:
                figures[f"{verb.__name__}_{side}"] = verb(side)
        return figures


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
