"""Two scanners on the same models: does one have the larger area under its ROC curve?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from .errors import InputError
from .intervals import Interval
from .metrics import FloatArray

EXCHANGES = 4_999
"""Random exchanges behind a p value, which therefore is never below 1 in 5,000."""

POWER = 0.8
"""With which a detectable difference is found."""

_AT_ONCE = 1_000_000


@dataclass(frozen=True, kw_only=True)
class PairedAreas:
    """Areas of two scanners on the same models, and whether they differ.

    Attributes:
        first: area of the first, in `[0, 1]`.
        second: area of the second, in `[0, 1]`.
        clean: clean models.
        poisoned: poisoned models.
        interval: of `second - first`; None where the models leave nothing to estimate it from:
            fewer than two of a class, or scores that separate in the same way.
        p_value: of the test that the scanners can be exchanged, in `(0, 1]`.
        detectable: difference that these models would show at this level with a power of 80 %, if
            the scanners' figures vary and hang together as here; None where `interval` is.
    """

    first: float
    second: float
    clean: int
    poisoned: int
    interval: Interval | None
    p_value: float
    detectable: float | None

    @property
    def difference(self) -> float:
        """`second - first`."""
        return self.second - self.first


def paired_areas(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    truth: npt.ArrayLike,
    *,
    seed: int,
    level: float = 0.95,
    exchanges: int = EXCHANGES,
) -> PairedAreas:
    """The areas of two scanners compared model by model.

    The interval is that of DeLong et al., normal for many models. The p value comes from a
    permutation test, which holds for few as well: scores become ranks within each scanner, and in
    every resample each model's two ranks are exchanged or not by the toss of a coin.

    Args:
        first: `(N,)` finite scores of the first scanner; higher is more suspicious.
        second: `(N,)` scores of the second, of the same models in the same order.
        truth: `(N,)` of 0 (clean) and 1 (poisoned), both present.
        seed: decides the exchanges.
        level: nominal coverage of the interval, in `(0, 1)`.
        exchanges: how many there are.

    Raises:
        InputError: lengths differ, a score is not finite, or a class is absent.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); Bandos, Rockette and Gur,
    "A permutation test sensitive to differences in areas for comparing ROC curves from a paired
    design", Statistics in Medicine 24 (2005).
    """
    scores, labels = _checked(first, second, truth)
    ranks = rankdata(scores, axis=1)
    areas = _areas(ranks, labels)
    error = _delong_error(scores, labels)
    z = float(norm.ppf(1 - (1 - level) / 2))
    difference = float(areas[1] - areas[0])
    return PairedAreas(
        first=float(areas[0]),
        second=float(areas[1]),
        clean=int((labels == 0).sum()),
        poisoned=int((labels == 1).sum()),
        interval=None if error is None else _around(difference, z * error),
        p_value=_exchanged(ranks, labels, abs(difference), seed, exchanges),
        detectable=None if error is None else (z + float(norm.ppf(POWER))) * error,
    )


def _around(difference: float, reach: float) -> Interval:
    return Interval(
        low=max(-1.0, difference - reach), high=min(1.0, difference + reach), method="DeLong"
    )


def _checked(
    first: npt.ArrayLike, second: npt.ArrayLike, truth: npt.ArrayLike
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    labels = np.asarray(truth)
    if one.ndim != 1 or not one.shape == other.shape == labels.shape:
        raise InputError(
            "a paired comparison needs two scores and a truth for every model, got shapes "
            f"{one.shape}, {other.shape} and {labels.shape}"
        )
    if set(labels.tolist()) != {0, 1}:
        raise InputError("a paired comparison needs clean (0) and poisoned (1) models")
    scores = np.stack([one, other])
    if not np.isfinite(scores).all():
        raise InputError("scores must be finite: leave models without an answer out")
    return scores, labels.astype(np.int64)


def _areas(ranks: FloatArray, labels: npt.NDArray[np.int64]) -> FloatArray:
    """Areas `(...)` from ranks `(..., N)`: Mann and Whitney's statistic."""
    poisoned = int(labels.sum())
    pairs = poisoned * (len(labels) - poisoned)
    sums = ranks[..., labels == 1].sum(-1) - poisoned * (poisoned + 1) / 2
    return np.asarray(sums / pairs, dtype=np.float64)


def _delong_error(scores: FloatArray, labels: npt.NDArray[np.int64]) -> float | None:
    """Standard error of the difference of the areas; None where there is nothing to estimate."""
    clean, poisoned = scores[:, labels == 0], scores[:, labels == 1]
    if min(clean.shape[1], poisoned.shape[1]) < 2:
        return None
    higher = poisoned[:, :, None] > clean[:, None, :]
    wins = higher + 0.5 * (poisoned[:, :, None] == clean[:, None, :])
    # The variance of the difference is that of the models' own differences.
    by_poisoned, by_clean = np.diff(wins.mean(2), axis=0)[0], np.diff(wins.mean(1), axis=0)[0]
    variance = by_poisoned.var(ddof=1) / len(by_poisoned) + by_clean.var(ddof=1) / len(by_clean)
    return math.sqrt(variance) if variance > 1e-18 else None


def _exchanged(
    ranks: FloatArray, labels: npt.NDArray[np.int64], observed: float, seed: int, exchanges: int
) -> float:
    generator = np.random.default_rng(seed)
    left, as_far = exchanges, 1
    while left:
        count = min(left, max(1, _AT_ONCE // len(labels)))
        swapped = generator.random((count, 1, len(labels))) < 0.5
        mixed = rankdata(np.where(swapped, ranks[::-1], ranks), axis=-1)
        differences = np.abs(np.diff(_areas(mixed, labels), axis=1)[:, 0])
        as_far += int((differences >= observed - 1e-12).sum())
        left -= count
    return as_far / (exchanges + 1)
