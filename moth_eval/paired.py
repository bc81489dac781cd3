"""Two networks on the same images, or two methods on the same models: did one do better?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binomtest, norm, permutation_test

from .errors import InputError
from .grouped_mean import grouped_mean
from .intervals import Interval

if TYPE_CHECKING:
    from torch import Tensor

PERMUTATIONS = 9_999
"""Exchanges of signs that are drawn where there are more; with up to 13 models all are tried."""


@dataclass(frozen=True, kw_only=True)
class PairedAccuracy:
    """Accuracies of two networks on the same images, and whether they differ.

    Attributes:
        before: accuracy of the first, in `[0, 1]`.
        after: accuracy of the second, in `[0, 1]`.
        lost: images that only the first classifies rightly.
        gained: images that only the second classifies rightly.
        n: images.
        difference: interval of `after - before`.
        p_value: of the exact McNemar test that both are equally often right; in `[0, 1]`.
    """

    before: float
    after: float
    lost: int
    gained: int
    n: int
    difference: Interval
    p_value: float


def paired_accuracy(before: Tensor, after: Tensor, *, level: float = 0.95) -> PairedAccuracy:
    """What two networks got right on the same images, compared image by image.

    Args:
        before: bool `(N,)`, which images the first network classifies rightly.
        after: bool `(N,)`, the same of the second.
        level: nominal coverage of the interval, in `(0, 1)`.

    Raises:
        InputError: no images, or not the same number.

    Source: McNemar 1947 in its exact (binomial) form; the interval is Agresti and Min's (2005,
    Statistics in Medicine 24): Wald's after adding one half to each of the four counts.
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise InputError(
            "a paired comparison needs the answers of both networks on the same images, at least "
            f"one, got shapes {tuple(before.shape)} and {tuple(after.shape)}"
        )
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    changed = lost + gained
    return PairedAccuracy(
        before=int(before.sum()) / len(before),
        after=int(after.sum()) / len(after),
        lost=lost,
        gained=gained,
        n=len(before),
        difference=_agresti_min(lost, gained, len(before), level),
        p_value=float(binomtest(gained, changed).pvalue) if changed else 1.0,
    )


def _agresti_min(lost: int, gained: int, n: int, level: float) -> Interval:
    total = n + 2
    difference = (gained - lost) / total
    variance = ((lost + gained + 1) / total - difference**2) / total
    reach = float(norm.ppf(1 - (1 - level) / 2)) * math.sqrt(variance)
    return Interval(
        low=max(-1.0, difference - reach),
        high=min(1.0, difference + reach),
        method="Agresti-Min",
    )


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How a figure differs between two methods on the same models.

    Attributes:
        mean: of the differences, the second method minus the first.
        interval: of that mean; None for too few models.
        p_value: of the sign-flip test that differences are as often so as the other way round, in
            `(0, 1]`; None for a single model. With n models it is never below `2 / 2**n`.
        models: how many there are.
    """

    mean: float
    interval: Interval | None
    p_value: float | None
    models: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Two methods compared model by model; each model's figure is the mean of its seeds.

    Args:
        first: a figure per model.
        second: the same figure of the same models, in the same order.

    Raises:
        InputError: no models, or not the same number.

    Source: Fisher's randomisation test, exact up to 13 models, by `scipy.stats.permutation_test`.
    """
    if len(first) != len(second) or not first:
        raise InputError(
            "a paired comparison needs figures of both methods for the same models, at least one, "
            f"got {len(first)} and {len(second)}"
        )
    differences = np.subtract(second, first)
    mean, interval = grouped_mean([[one] for one in differences.tolist()])
    return PairedDifference(
        mean=mean,
        interval=interval,
        p_value=None if len(differences) < 2 else _sign_flips(differences),
        models=len(differences),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p values of several tests, adjusted so that all of them hold together; in order.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return tuple(adjusted)


def _sign_flips(differences: np.ndarray) -> float:
    # Sums of equal figures in another order must not count as larger.
    rounded = np.round(differences, 12)
    result = permutation_test(
        (rounded,),
        lambda sample, axis: sample.mean(axis=axis),
        permutation_type="samples",
        n_resamples=PERMUTATIONS,
        vectorized=True,
        random_state=np.random.default_rng(0),
    )
    return float(result.pvalue)
