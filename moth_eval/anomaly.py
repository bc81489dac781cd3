"""The anomaly index of Neural Cleanse, and how often a cut on it is a false alarm."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Sizes = npt.NDArray[np.float64]

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation -> standard deviation of a normal distribution."""

LEAST_SPREAD = 0.01
"""Spread that is assumed at least, as a fraction of the median: sizes are never known better."""

LEAST_LOG_SPREAD = 0.25
"""Spread of logarithms of sizes that is assumed at least where failures count as one size.

Half of them or more would leave no spread, and any trigger that works would be an outlier. Source:
ours; sizes that differ by a factor of 1.3 are alike.
"""

LEAST_CLASSES = 3
"""Classes below which there is no index: of two sizes, each is as far from the median."""

DRAWS = 20_000

MOST_NUMBERS = 8_000_000
"""Simulated sizes at most: a second of work."""


def anomaly_indices(sizes: Sizes, *, least: float = 0.0) -> Sizes:
    """How many robust standard deviations each size lies below the median; above it: negative.

    Source: Neural Cleanse (Wang et al., IEEE S&P 2019), section V-A: median and 1.4826 x median
    absolute deviation, numpy's median (the mean of the two middle values if the number is even).

    Differs from the reference:
        * the spread is at least 1 % of the median, so that equal sizes give no infinite index;
        * signed, so that only small triggers are anomalous.

    Args:
        sizes: finite trigger sizes; the last axis is the classes.
        least: spread that is assumed at least, in the unit of the sizes.
    """
    median = np.median(sizes, axis=-1, keepdims=True)
    spread = MAD_TO_SIGMA * np.median(np.abs(sizes - median), axis=-1, keepdims=True)
    indices: Sizes = (median - sizes) / np.maximum(spread, np.maximum(LEAST_SPREAD * median, least))
    return indices


def upward_indices(figures: Sizes) -> Sizes:
    """How many robust standard deviations each figure lies above the median; 0 where all are equal.

    Args:
        figures: finite, of either sign; the last axis is the classes.
    """
    # Shifted so that the least spread, a share of the median, means the same for every figure.
    away = figures - np.median(figures, axis=-1, keepdims=True)
    scale = np.abs(away).max(axis=-1, keepdims=True)
    indices: Sizes = np.where(scale > 0, anomaly_indices(np.where(scale > 0, scale - away, 1)), 0.0)
    return indices


def middle_and_unit(figures: Sizes, *, least: float = 0.0) -> tuple[float, float]:
    """Median of figures `(K,)`, and what one of their `upward_indices` is in their own unit.

    Args:
        figures: finite.
        least: that unit is at least this.
    """
    middle = float(np.median(figures))
    away = np.abs(figures - middle)
    spread = MAD_TO_SIGMA * float(np.median(away))
    return middle, max(spread, LEAST_SPREAD * float(away.max()), least)


def no_index(count: int, *, instead: str = "use statistic=size") -> str:
    """Why fewer than `LEAST_CLASSES` sizes have no anomaly index, and what to do instead."""
    needed = f"an anomaly index needs at least {LEAST_CLASSES} classes to compare"
    return f"{needed}, got {count}: {instead}"


@lru_cache(maxsize=256)
def false_alarm_rate(count: int, cut: float) -> float:
    """Fraction of clean models whose anomaly index exceeds `cut`, in `[0, 1]`.

    By simulation of the statistic alone: 20,000 draws (fewer above 400 sizes, 1,000 at least) of
    `count` independent normal sizes whose spread is a tenth of their mean. The real rate depends
    on the skew of the sizes; calibrate on clean models before relying on a cut.

    Args:
        count: number of sizes compared (classes, or pairs of classes).
        cut: the threshold.
    """
    return float((simulated(count, largest_index) > cut).mean())


def simulated(count: int, statistic: Callable[[Sizes], Sizes]) -> Sizes:
    """A statistic of simulated clean models: see `false_alarm_rate` for what is drawn.

    Args:
        count: number of figures compared.
        statistic: figures `(N, count)` to one value each, `(N,)`.
    """
    random = np.random.default_rng(20190519)
    draws = min(DRAWS, max(1000, MOST_NUMBERS // count))
    parts = [statistic(random.normal(1.0, 0.1, (draws // 20, count))) for _ in range(20)]
    return np.concatenate(parts)


def largest_index(sizes: Sizes) -> Sizes:
    """The largest anomaly index of each row of sizes `(N, K)`: `(N,)`."""
    largest: Sizes = anomaly_indices(sizes).max(axis=-1)
    return largest
