"""From scores to probabilities, never judged by the models they were fitted on."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from moth_eval.metrics import FloatArray

MOST_FOLDS = 10
FEWEST_MODELS = 2
"""Of either class; with one, leaving it out leaves nothing to fit that class on."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One scored model.

    Attributes:
        name: tells models apart in the answer.
        sha256: hash of the file; copies of a file are never on both sides of a fit.
        score: finite; higher is more suspicious.
        label: 1 poisoned, 0 clean, None unknown.
    """

    name: str
    sha256: str
    score: float
    label: int | None


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """`p = 1 / (1 + exp(-(slope * score + intercept)))`, with a slope that is never negative."""

    slope: float
    intercept: float

    def probability(self, score: float) -> float:
        """Probability of `poisoned` in `(0, 1)`."""
        return float(0.5 * (1 + np.tanh(0.5 * (self.slope * score + self.intercept))))


@dataclass(frozen=True, kw_only=True)
class Probabilities:
    """Probabilities by model name, and one sentence on where they come from or why there are none.

    Attributes:
        by_name: name -> probability of `poisoned`; empty if none can be given.
        note: one sentence.
    """

    by_name: dict[str, float]
    note: str


def calibrate(examples: list[Example]) -> Probabilities:
    """The probability of each scored model, from a fit that has not seen it.

    The labelled models are split into up to 10 folds, stratified by class and cut by file hash;
    each fold is judged by a fit on the others. Models of unknown truth are judged by a fit on all.

    Returns:
        Nothing but the reason when fewer than two different models of either class are scored.
    """
    folds = folds_of(examples)
    if not folds:
        return Probabilities(by_name={}, note=_too_few(examples))
    count = max(folds.values()) + 1
    answers: dict[str, float] = {}
    for held_out in [*range(count), None]:
        known = [e for e in examples if e.label is not None and folds[e.sha256] != held_out]
        judged = [e for e in examples if folds.get(e.sha256) == held_out]
        if judged:
            model = fit(known)
            answers.update({e.name: model.probability(e.score) for e in judged})
    note = (
        f"logistic calibration, {count}-fold cross-validation over models: no probability comes "
        "from a fit that saw its model"
    )
    return Probabilities(by_name=answers, note=note)


def fit(examples: list[Example]) -> Logistic:
    """The logistic curve through labelled scores.

    Targets are softened as Platt does, so that separable classes keep finite slopes. The slope is
    held at zero or above: more suspicious never means less probable.

    Source: Platt 1999, section 2.2.
    """
    scores = np.array([e.score for e in examples])
    labels = np.array([e.label for e in examples], dtype=np.float64)
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    poisoned, clean = labels.sum(), (1 - labels).sum()
    targets = np.where(labels == 1, (poisoned + 1) / (poisoned + 2), 1 / (clean + 2))
    found = minimize(
        _loss,
        np.array([1.0, math.log((poisoned + 1) / (clean + 1))]),
        args=((scores - centre) / spread, targets),
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


def folds_of(examples: list[Example]) -> dict[str, int]:
    """File hash -> fold, for labelled models; empty if a class has too few different files."""
    poisoned, clean = (
        sorted({e.sha256 for e in examples if e.label == label}, key=_shuffled) for label in (1, 0)
    )
    count = min(MOST_FOLDS, len(poisoned), len(clean))
    if count < FEWEST_MODELS:
        return {}
    return {sha: i % count for group in (clean, poisoned) for i, sha in enumerate(group)}


def _shuffled(sha256: str) -> str:
    return hashlib.sha256(f"fold\x1f{sha256}".encode()).hexdigest()


def _too_few(examples: list[Example]) -> str:
    poisoned = len({e.sha256 for e in examples if e.label == 1})
    clean = len({e.sha256 for e in examples if e.label == 0})
    return (
        f"no probabilities: a calibration that has not seen the model it judges needs "
        f"{FEWEST_MODELS} scored models of each class, and there are {clean} clean and "
        f"{poisoned} poisoned"
    )
