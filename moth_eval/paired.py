"""Two networks on the same images: did one get more of them right?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest, norm
from torch import Tensor

from .errors import InputError
from .intervals import Interval


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
