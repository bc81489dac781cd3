"""All scanners of a run together, as one more row; no model is judged by a fit that saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from moth_eval.metrics import FloatArray
from moth_eval.records import ScanRecord

from .calibration import Example, Probabilities, folds_of
from .rows import Row, Run

PENALTY = 1.0
"""Weight of half the sum of squared weights: that of scikit-learn's logistic regression."""

UNDECIDED = 0.5
"""Rank of a model that a scanner has no score for."""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The scanners together.

    Attributes:
        name: what it is called in tables.
        rows: a row per model; its score is the weighted sum of ranks.
        answers: the probabilities.
    """

    name: str
    rows: tuple[Row, ...]
    answers: Probabilities


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a fit says of a model that it has not seen.

    Attributes:
        score: the weighted sum of the ranks of its scores. Without the intercept, which tells how
            many of the models that were fitted are poisoned: in a fit without a clean model it is
            higher, for that model alone.
        intercept: of the fit.
    """

    score: float
    intercept: float

    @property
    def probability(self) -> float:
        """Of `poisoned`."""
        return float(0.5 * (1 + np.tanh(0.5 * (self.score + self.intercept))))


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Sorted training scores of every scanner, and what their ranks weigh."""

    known: tuple[FloatArray, ...]
    weights: FloatArray
    intercept: float

    def of(self, scores: Sequence[float | None]) -> Judged:
        ranks = [_rank(known, score) for known, score in zip(self.known, scores, strict=True)]
        return Judged(score=float(np.dot(self.weights, ranks)), intercept=self.intercept)


def ensemble(run: Run) -> Ensemble | None:
    """The ensemble of a run's scanners; None with fewer than two, or too few models of known truth.

    Each score becomes its rank among the training models, and a logistic regression with weights
    that are never negative joins the ranks. Labelled models are judged by folds, cut by file hash;
    models of unknown truth by a fit on all labelled ones.
    """
    names = [name for name in run.scanners if any(r.score is not None for r in run.of(name))]
    examples = _examples(run, names)
    folds = folds_of(list(examples)) if len(names) > 1 else {}
    if not folds:
        return None
    found = judged(examples, folds)
    name = f"ensemble of {len(names)}"
    rows = tuple(_row(name, row, found.get(row.model)) for row in _any_scan(run))
    note = (
        f"logistic regression on the ranks of {len(names)} scanners' scores, "
        f"{max(folds.values()) + 1}-fold cross-validation over models: no probability comes from "
        "a fit that saw its model"
    )
    return Ensemble(name=name, rows=rows, answers=_probabilities(found, note))


def _any_scan(run: Run) -> list[Row]:
    """A row per model, in the order of the run: one with a record, if any scanner has one."""
    rows: dict[str, Row] = {}
    for row in run.rows:
        if row.model not in rows or rows[row.model].record is None:
            rows[row.model] = row
    return list(rows.values())


def _examples(run: Run, names: Sequence[str]) -> dict[Example, list[float | None]]:
    """Models that any scanner has a score for -> all scanners' scores, or None."""
    scores = {(r.scanner, r.model): r.score for r in run.rows}
    found: dict[Example, list[float | None]] = {}
    for row in run.of(names[0]) if names else ():
        own = [scores[name, row.model] for name in names]
        if any(score is not None for score in own):
            found[_example(row)] = own
    return found


def _example(row: Row) -> Example:
    return Example(name=row.model, sha256=row.entry.sha256, score=0.0, label=row.label)


def judged(examples: dict[Example, list[float | None]], folds: dict[str, int]) -> dict[str, Judged]:
    """What is said of each model by its name, each from a fit on the models of the other folds.

    Args:
        examples: models -> their scores.
        folds: file hash -> fold, for labelled models.
    """
    answers: dict[str, Judged] = {}
    for held_out in [*range(max(folds.values()) + 1), None]:
        judged = [e for e in examples if folds.get(e.sha256) == held_out]
        if judged:
            seen = {
                e: scores
                for e, scores in examples.items()
                if e.label is not None and folds[e.sha256] != held_out
            }
            made = _fit(list(seen.values()), [e.label or 0 for e in seen])
            answers.update({e.name: made.of(examples[e]) for e in judged})
    return answers


def _fit(scores: Sequence[Sequence[float | None]], labels: Sequence[int]) -> _Fit:
    known = tuple(
        np.sort([score for score in column if score is not None]).astype(np.float64)
        for column in zip(*scores, strict=True)
    )
    ranks = np.array([[_rank(k, s) for k, s in zip(known, row, strict=True)] for row in scores])
    truth = np.asarray(labels, dtype=np.float64)
    count = ranks.shape[1]
    found = minimize(
        _loss,
        np.zeros(count + 1),
        args=(ranks, truth),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, None)] * count + [(None, None)],
        options={"ftol": 1e-14, "gtol": 1e-10},
    )
    return _Fit(known=known, weights=found.x[:count], intercept=float(found.x[count]))


def _loss(parameters: FloatArray, ranks: FloatArray, truth: FloatArray) -> tuple[float, FloatArray]:
    weights, intercept = parameters[:-1], parameters[-1]
    logits = ranks @ weights + intercept
    loss = (np.logaddexp(0.0, logits) - truth * logits).sum() + PENALTY / 2 * (weights**2).sum()
    slack = 0.5 * (1 + np.tanh(0.5 * logits)) - truth
    return float(loss), np.append(ranks.T @ slack + PENALTY * weights, slack.sum())


def _rank(known: FloatArray, score: float | None) -> float:
    """Share of the known scores below this one, ties counting half, in `[0, 1]`."""
    if score is None or not known.size:
        return UNDECIDED
    below, up_to = np.searchsorted(known, score, "left"), np.searchsorted(known, score, "right")
    return float((below + up_to) / (2 * known.size))


def _probabilities(found: dict[str, Judged], note: str) -> Probabilities:
    return Probabilities(by_name={name: one.probability for name, one in found.items()}, note=note)


def _row(name: str, row: Row, found: Judged | None) -> Row:
    """The ensemble's row of a model, from any scanner's."""
    record = None
    if row.record is not None:
        record = ScanRecord(
            key="",
            model=row.model,
            scanner=name,
            sha256=row.entry.sha256,
            status="inconclusive" if found is None else "scored",
            reason="no scanner has a score" if found is None else "",
            score=None if found is None else found.score,
            architecture=row.record.architecture,
        )
    return replace(row, scanner=name, record=record, remarks=())
