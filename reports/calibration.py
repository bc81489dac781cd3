"""From scores to probabilities, never judged by the models they were fitted on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from moth_eval.platt import Logistic, fit_logistic

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
    """The logistic curve through labelled scores."""
    return fit_logistic([e.score for e in examples], [e.label or 0 for e in examples])


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
