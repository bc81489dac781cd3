"""How much farther apart classes are after a change of the model than before. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .distance_table import ClassDistances, Pair
from .errors import InputError
from .intervals import RESAMPLES, Interval
from .metrics import FloatArray

METHOD = "recentred bootstrap over pairs and seeds"


@dataclass(frozen=True, kw_only=True)
class Increase:
    """The increase of class distance, in both ways of averaging; 1.0 means twice as far.

    Attributes:
        mean_of_ratios: mean over pairs of `(after - before) / before`, as published.
        ratio_of_means: mean of `after` over mean of `before`, minus 1: large distances count more.
        mean_of_ratios_interval: of 95 % unless said otherwise; None with fewer than two pairs.
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
        InputError: the pairs are not the same, or none has a distance on both sides.
    """
    if before.by_pair.keys() != after.by_pair.keys():
        raise InputError(
            f"an increase needs the same pairs before and after, got {len(before.by_pair)} and "
            f"{len(after.by_pair)} of which {len(before.by_pair.keys() & after.by_pair.keys())} "
            "are common: measure the same pairs"
        )
    used = [p for p in before.by_pair if before.distance(*p) > 0 and p in after.best]
    if not used:
        raise InputError("an increase needs a pair with a distance before and after, got none")
    one, other = (np.stack([d.seed_distances(p) for p in used]) for d in (before, after))
    observed = _increases(_smallest(one)[None], _smallest(other)[None])[:, 0]
    drawn = _resampled(one, other, np.random.default_rng(seed), resamples)
    bounds = [_interval(*pair, level) for pair in zip(observed, drawn, strict=True)]
    return Increase(
        mean_of_ratios=float(observed[0]),
        ratio_of_means=float(observed[1]),
        mean_of_ratios_interval=bounds[0] if len(used) > 1 else None,
        ratio_of_means_interval=bounds[1] if len(used) > 1 else None,
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


def _resampled(
    before: FloatArray, after: FloatArray, generator: np.random.Generator, resamples: int
) -> FloatArray:
    """Both increases `(2, B)` with pairs drawn anew, and the seeds of every drawn pair as well.

    Args:
        before: `(P, S)` distances, NaN where a seed has none.
        after: `(P, S')` likewise.
        generator: draws.
        resamples: their number; those in which no pair has a distance on both sides are dropped.
    """
    pairs = generator.integers(len(before), size=(resamples, len(before)))
    drawn = []
    for side in (before, after):
        seeds = generator.integers(side.shape[1], size=(*pairs.shape, side.shape[1]))
        drawn.append(_smallest(side[pairs[..., None], seeds]))
    usable = ~(np.isnan(drawn[0]) | np.isnan(drawn[1])).all(axis=1)
    return _increases(drawn[0][usable], drawn[1][usable])


def _interval(observed: float, drawn: FloatArray, level: float) -> Interval:
    """Percentiles of the resampled increases, moved so that their mean is what was observed.

    The minimum over redrawn seeds is never below the minimum over all of them. That moves the
    resamples to one side, but says nothing of what is estimated: the minimum over as many seeds.
    For log-normal distances whose seeds deviate by 12 % before and 20 % after, these intervals
    cover 90 to 97 % at 20 and 90 pairs, and 98 to 99 % at three times the deviation (400
    simulations each); plain percentiles then cover 80 %, and resampling pairs alone 90 to 94 %.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(drawn - drawn.mean() + observed, tails)
    return Interval(low=float(low), high=float(high), method=METHOD)
