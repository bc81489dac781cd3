"""Two networks on the same images, or two methods on the same models: did one do better?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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


def corrected_together(groups: Sequence[Mapping[str, float]]) -> tuple[float | None, ...]:
    """P values of several methods against one control, so adjusted that all hold together.

    Every exchange of a model's sign is made for all methods at once, and a method's figure is held
    against the largest of those not yet decided: what methods have in common on the same models is
    not paid for twice, as by Holm's procedure. With n models none is below `2 / 2**n`.

    Args:
        groups: per method, the differences to the control by model; methods may lack models.

    Returns:
        In the order of the groups; None for one with fewer than two models.

    Source: Westfall and Young, "Resampling-based multiple testing", 1993, step-down max-T; the
    statistic is the sum of differences over the root of the sum of their squares. All exchanges up
    to 13 models, then `PERMUTATIONS` drawn ones.
    """
    models = sorted({model for group in groups for model in group})
    tested = [place for place, group in enumerate(groups) if len(group) > 1]
    if not tested:
        return (None,) * len(groups)
    table = np.array([[groups[place].get(model, 0.0) for model in models] for place in tested])
    scale = np.sqrt((table**2).sum(axis=1))
    scale[scale == 0] = 1.0
    # Sums of equal figures in another order must not count as larger.
    found = np.round(np.abs(_signs(len(models)) @ table.T) / scale, 9)
    order = np.argsort(-found[0], kind="stable")
    adjusted: list[float | None] = [None] * len(groups)
    highest = 0.0
    for rank, place in enumerate(order):
        largest = found[:, order[rank:]].max(axis=1)
        highest = max(highest, float((largest >= found[0, place]).mean()))
        adjusted[tested[place]] = highest
    return tuple(adjusted)


def _signs(models: int) -> np.ndarray:
    """Signs `(S, models)`, the first of them all positive: all exchanges, or drawn ones.

    Each that is drawn comes with its opposite, which is as extreme, as both are among all.
    """
    if 2**models <= PERMUTATIONS + 1:
        numbers = np.arange(2**models)[:, None] >> np.arange(models)
        return np.asarray(1 - 2 * (numbers & 1), dtype=np.float64)
    drawn = np.random.default_rng(0).choice([-1.0, 1.0], (PERMUTATIONS // 2 + 1, models))
    drawn[0] = 1.0
    return np.concatenate([drawn, -drawn])


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
