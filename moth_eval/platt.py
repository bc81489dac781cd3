"""A logistic curve through labelled scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from .metrics import FloatArray

ROUNDING = 1e-12
"""Scores whose deviation is a smaller share of the largest one are equal but for rounding."""


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """`p = 1 / (1 + exp(-(slope * score + intercept)))`, with a slope that is never negative."""

    slope: float
    intercept: float

    def probability(self, score: float) -> float:
        """Probability of `poisoned` in `(0, 1)`."""
        return float(0.5 * (1 + np.tanh(0.5 * (self.slope * score + self.intercept))))


def fit_logistic(scores: Sequence[float], labels: Sequence[int]) -> Logistic:
    """The logistic curve through labelled scores.

    Targets are softened as Platt does, so that separable classes keep finite slopes. The slope is
    held at zero or above: more suspicious never means less probable. Equal scores have a slope of
    zero: what a score other than theirs would mean, they do not tell.

    Source: Platt 1999, section 2.2.

    Args:
        scores: finite, `(N,)`.
        labels: 1 poisoned, 0 clean.
    """
    values, truth = np.array(scores), np.array(labels, dtype=np.float64)
    centre, spread = float(values.mean()), float(values.std())
    poisoned, clean = truth.sum(), (1 - truth).sum()
    targets = np.where(truth == 1, (poisoned + 1) / (poisoned + 2), 1 / (clean + 2))
    if spread <= ROUNDING * float(np.abs(values).max()):
        share = float(targets.mean())
        return Logistic(slope=0.0, intercept=math.log(share / (1 - share)))
    found = minimize(
        _loss,
        np.array([1.0, math.log((poisoned + 1) / (clean + 1))]),
        args=((values - centre) / spread, targets),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-10},
    )
    slope, intercept = float(found.x[0]) / spread, float(found.x[1])
    return Logistic(slope=slope, intercept=intercept - slope * centre)


def _loss(
    parameters: FloatArray, scores: FloatArray, targets: FloatArray
) -> tuple[float, npt.NDArray[np.float64]]:
    logits = parameters[0] * scores + parameters[1]
    loss = (np.logaddexp(0.0, logits) - targets * logits).sum()
    slack = 0.5 * (1 + np.tanh(0.5 * logits)) - targets
    return float(loss), np.array([(slack * scores).sum(), slack.sum()])
