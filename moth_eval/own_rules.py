"""Cuts of our own for methods without a published one: what few simulated clean models exceed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from .anomaly import (
    LEAST_CLASSES,
    Sizes,
    largest_index,
    middle_and_unit,
    simulated,
    upward_indices,
)
from .scan import Rule

LEVEL = 0.05
"""Share of simulated clean models above a cut of ours.

Source: ours; the customary level of a test, which the published cuts miss by far.
"""


def index_rule(
    count: int, what: str, *, upward: bool = False, figures: int = 1, known: bool = True
) -> Rule:
    """The anomaly index that `LEVEL` of simulated clean models exceed.

    Args:
        count: number of figures compared (classes, or pairs of classes).
        what: is compared, in words, such as `logarithms of trigger sizes`.
        upward: whether large figures are anomalous (`upward_indices`) instead of small ones.
        figures: independent kinds of figures, the largest index of which counts.
        known: whether the figures at hand are like those that are simulated; if not, the rate of
            false alarms is None.
    """
    threshold, rate = cut_of(count, largest_upward if upward else largest_index, figures)
    return Rule(
        name="anomaly index",
        threshold=threshold,
        false_alarm_rate=rate if known else None,
        source=source_of(f"{count} independent normal {what}"),
        origin="ours",
    )


def lead_rule(
    figures: Sizes, name: str, what: str, *, known: bool, least: float = 0.0
) -> Rule | None:
    """The cut of `index_rule` on upward indices as a cut on the largest figure itself.

    Args:
        figures: of one model, `(K,)`; the score is the largest.
        name: of the score.
        what: as for `index_rule`.
        known: as for `index_rule`.
        least: spread of the figures that is assumed at least.

    Returns:
        None with fewer figures than an index needs.
    """
    if len(figures) < LEAST_CLASSES:
        return None
    rule = index_rule(len(figures), what, upward=True, known=known)
    middle, unit = middle_and_unit(figures, least=least)
    return replace(
        rule,
        name=name,
        threshold=middle + rule.threshold * unit,
        source=f"{rule.source}: an anomaly index of {rule.threshold:.3g}",
    )


def source_of(drawn: str) -> str:
    """Where a cut of ours comes from, in words."""
    return f"ours: exceeded by {100 * LEVEL:g} % of simulated clean models with {drawn}"


def largest_upward(figures: Sizes) -> Sizes:
    """The largest index of each row of figures `(N, K)`, by `upward_indices`: `(N,)`."""
    largest: Sizes = upward_indices(figures).max(axis=-1)
    return largest


@lru_cache(maxsize=256)
def cut_of(
    count: int, statistic: Callable[[Sizes], Sizes], figures: int = 1
) -> tuple[float, float]:
    """The value of a statistic that `LEVEL` of simulated clean models exceed, and that share.

    Args:
        count: number of figures compared.
        statistic: figures `(N, count)` to one value each, `(N,)`.
        figures: independent sets of figures, the largest value of which counts.
    """
    values = simulated(count, statistic)
    # The largest of independent figures stays below a cut if all of them do.
    threshold = float(np.quantile(values, (1 - LEVEL) ** (1 / figures)))
    below = float((values <= threshold).mean())
    return threshold, round(1 - below**figures, 6)
