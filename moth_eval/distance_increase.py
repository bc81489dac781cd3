"""How much farther apart classes are after a change of the model than before. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .distance_table import ClassDistances, Pair
from .errors import InputError
from .grouped_mean import FEWEST_UNITS, expanded_tail
from .intervals import RESAMPLES, Interval
from .metrics import FloatArray

METHOD = "expanded recentred bootstrap over {count} {units} and seeds"


@dataclass(frozen=True, kw_only=True)
class Increase:
    """The increase of class distance, in both ways of averaging; 1.0 means twice as far.

    Attributes:
        mean_of_ratios: mean over pairs of `(after - before) / before`, as published.
        ratio_of_means: mean of `after` over mean of `before`, minus 1: large distances count more.
        mean_of_ratios_interval: of 95 % unless said otherwise; None with fewer than four target
            classes, or pairs where all have one target or each its own.
        ratio_of_means_interval: likewise.
        pairs: pairs that both rest on.
        left_out: pairs that have no distance, or a distance of 0 before, on either side.
    """

    mean_of_ratios: float
    ratio_of_means: float
    mean_of_ratios_interval: Interval | None
    ratio_of_means_interval: Interval | None
    pairs: int
    left_out: tuple[Pair, ...]


def distance_increase(
    before: ClassDistances,
    after: ClassDistances,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> Increase:
    """The increase from one set of distances to another over the same pairs.

    Source: the published figures of MOTH (Tao et al., IEEE S&P 2022) are means of ratios.

    Args:
        before: the distances of the model as it was.
        after: those of the changed model, of the same pairs and by the same protocol.
        seed: decides the resamples.
        resamples: number of bootstrap samples.
        level: nominal coverage, in `(0, 1)`.

    Raises:
        InputError: the pairs are not the same, or none has a distance above 0 before and one
            after.
    """
    if before.by_pair.keys() != after.by_pair.keys():
        raise InputError(
            f"an increase needs the same pairs before and after, got {len(before.by_pair)} and "
            f"{len(after.by_pair)} of which {len(before.by_pair.keys() & after.by_pair.keys())} "
            "are common: measure the same pairs"
        )
    used = [p for p in before.by_pair if before.distance(*p) > 0 and p in after.best]
    if not used:
        raise InputError(
            "an increase needs a pair with a distance above 0 before and one after, got none"
        )
    one, other = (np.stack([d.seed_distances(p) for p in used]) for d in (before, after))
    observed = _increases(_smallest(one)[None], _smallest(other)[None])[:, 0]
    members, units = _units(used)
    bounds: list[Interval | None] = [None, None]
    if len(members) >= FEWEST_UNITS:
        drawn = _resampled(one, other, members, np.random.default_rng(seed), resamples)
        method = METHOD.format(count=len(members), units=units)
        tail = expanded_tail(len(members), level)
        bounds = [_interval(*pair, tail, method) for pair in zip(observed, drawn, strict=True)]
    return Increase(
        mean_of_ratios=float(observed[0]),
        ratio_of_means=float(observed[1]),
        mean_of_ratios_interval=bounds[0],
        ratio_of_means_interval=bounds[1],
        pairs=len(used),
        left_out=tuple(pair for pair in before.by_pair if pair not in set(used)),
    )


def _smallest(seeds: FloatArray) -> FloatArray:
    """Smallest distance `(...)` over the last axis; NaN where no seed has one."""
    low = np.where(np.isnan(seeds), np.inf, seeds).min(axis=-1)
    return np.where(np.isinf(low), np.nan, low)


def _increases(before: FloatArray, after: FloatArray) -> FloatArray:
    """Both increases `(2, B)` of distances `(B, P)`; pairs with NaN do not count."""
    known = ~(np.isnan(before) | np.isnan(after))
    first, second = np.where(known, before, 1.0), np.where(known, after, 1.0)
    ratios = (second / first - 1).sum(axis=1) / known.sum(axis=1)
    means = (second * known).sum(axis=1) / (first * known).sum(axis=1) - 1
    return np.stack([ratios, means])


def _units(pairs: Sequence[Pair]) -> tuple[npt.NDArray[np.int64], str]:
    """What is drawn anew: indices of pairs that belong together `(U, M)`, -1 behind the last.

    Pairs of one target have much in common, so they are drawn as one.
    """
    by_target: dict[int, list[int]] = {}
    for place, (_, target) in enumerate(pairs):
        by_target.setdefault(target, []).append(place)
    together = 1 < len(by_target) < len(pairs)
    groups = list(by_target.values()) if together else [[place] for place in range(len(pairs))]
    members = np.full((len(groups), max(map(len, groups))), -1)
    for row, group in zip(members, groups, strict=True):
        row[: len(group)] = group
    return members, "target classes" if together else "pairs"


def _resampled(
    before: FloatArray,
    after: FloatArray,
    members: npt.NDArray[np.int64],
    generator: np.random.Generator,
    resamples: int,
) -> FloatArray:
    """Both increases `(2, B)` with pairs drawn anew, and the seeds of every drawn pair as well.

    Args:
        before: `(P, S)` distances, NaN where a seed has none.
        after: `(P, S')` likewise.
        members: `(U, M)` indices of the pairs that are drawn together; -1 is none.
        generator: draws.
        resamples: their number; those in which no pair has a distance on both sides are dropped.
    """
    rows = generator.integers(len(members), size=(resamples, len(members)))
    pairs = members[rows].reshape(resamples, -1)
    drawn = []
    for side in (before, after):
        seeds = generator.integers(side.shape[1], size=(*pairs.shape, side.shape[1]))
        drawn.append(np.where(pairs < 0, np.nan, _smallest(side[pairs[..., None], seeds])))
    usable = ~(np.isnan(drawn[0]) | np.isnan(drawn[1])).all(axis=1)
    return _increases(drawn[0][usable], drawn[1][usable])


def _interval(observed: float, drawn: FloatArray, tail: float, method: str) -> Interval:
    """Percentiles of the resampled increases, moved so that their mean is what was observed.

    A bound that would be moved below -1, which no increase can be, is -1.

    The minimum over redrawn seeds is never below the minimum over all of them. That moves the
    resamples to one side, but says nothing of what is estimated: the minimum over as many seeds.
    For log-normal ratios with a deviation of 50 % and three seeds whose distances exceed the pair's
    own by 12 % on average, these intervals cover 87 % with 4 pairs, 93 % with 6 or 10 and 97 % with
    20; with all 90 pairs of 10 classes, 93 %, whether ratios are independent or half of their
    variance is the target's (400 simulations each). Taken for independent, pairs of the latter kind
    would have intervals that cover 57 %.
    """
    low, high = np.quantile(drawn - drawn.mean() + observed, [tail, 1 - tail])
    return Interval(low=max(float(low), -1.0), high=float(high), method=method)
