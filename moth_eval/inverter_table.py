"""Distances before and after under one inverter, and what follows from them. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import fmean, geometric_mean, median
from typing import Literal

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


def growth_ratio(trained: InverterCheck, other: InverterCheck) -> float | None:
    """Growth factor under one inverter over that under another, over pairs that both found.

    None if there is no such pair.

    Args:
        trained: under the inverter that hardening trains against.
        other: under a second one, of the same pairs.
    """
    both = [
        (ours, theirs)
        for one, two in zip(trained.pairs, other.pairs, strict=True)
        if (ours := one.distances()) and (theirs := two.distances())
    ]
    if not both:
        return None
    return geometric_mean(
        (after / before) / (other_after / other_before)
        for (before, after), (other_before, other_after) in both
    )
