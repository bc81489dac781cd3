"""How much class distances depend on the images that they are measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .distance_table import ClassDistances, Pair, as_matrix
from .errors import InputError
from .metrics import FloatArray


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Mean and standard deviation of distances over random sets of samples.

    Standard deviations are those of samples (divisor N - 1). Inversions that found no valid
    trigger are left out and counted.

    Attributes:
        num_classes: K.
        sets: sets of samples.
        means: pair -> mean distance over the sets; NaN if no set has one.
        deviations: pair -> standard deviation over the sets; NaN if fewer than two have one.
        mean: mean over all pairs of `means`.
        mean_deviation: mean over all pairs of `deviations`: how far one distance moves.
        deviation_of_mean: standard deviation over the sets of the model's mean distance, of the
            sets in which every pair that has a mean has a distance: how far the mean moves.
        invalid: inversions left out.
    """

    num_classes: int
    sets: int
    means: Mapping[Pair, float]
    deviations: Mapping[Pair, float]
    mean: float
    mean_deviation: float
    deviation_of_mean: float
    invalid: int

    def deviation_matrix(self) -> FloatArray:
        """`(K, K)` standard deviations, rows are sources; NaN where there is none."""
        return as_matrix(self.deviations, self.num_classes)


def stability_of(distances: ClassDistances) -> Stability:
    """The stability of distances that were measured with one seed per set of samples.

    Raises:
        InputError: there are fewer than two sets, or some pair was not measured on all of them.
    """
    counts = {len(rows) for rows in distances.by_pair.values()}
    if len(counts) != 1 or min(counts) < 2:
        raise InputError(
            "stability needs every pair measured on the same sets, two at least, got "
            f"{sorted(counts)} sets per pair"
        )
    values = np.stack([distances.seed_distances(pair) for pair in distances.by_pair])
    means = [_mean(row) for row in values]
    deviations = [_deviation(row) for row in values]
    pairs = list(distances.by_pair)
    known = values[~np.isnan(means)]
    return Stability(
        num_classes=distances.num_classes,
        sets=values.shape[1],
        means=dict(zip(pairs, means, strict=True)),
        deviations=dict(zip(pairs, deviations, strict=True)),
        mean=_mean(np.array(means)),
        mean_deviation=_mean(np.array(deviations)),
        deviation_of_mean=_deviation(known.mean(axis=0)) if len(known) else math.nan,
        invalid=int(np.isnan(values).sum()),
    )


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _deviation(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else math.nan
