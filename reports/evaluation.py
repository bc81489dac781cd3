"""What the scores of one scanner are worth against known truth, conventions spelled out.

* Models whose truth is unknown, or that an erratum excludes, are counted and enter no figure.
* Models not scanned yet are counted as pending and enter no figure.
* ROC area, ROC points and TPR at a FPR use scored models only; how many is shown beside them.
* `roc_auc_failed_as_undecided` takes in the finished models without a score: every pair of a clean
  and a poisoned model in which one has no score counts one half, as a coin toss would.
* Cross-entropy and Brier score take them in too, at probability 0.5, as TrojAI does.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moth_eval.intervals import Interval, auc_interval, bootstrap, wilson
from moth_eval.metrics import (
    FloatArray,
    brier,
    cross_entropy,
    cross_entropy_halfwidth,
    fpr_at_tpr,
    roc_auc,
    tpr_at_fpr,
)

from .calibration import Example, Probabilities, calibrate
from .rows import STATUSES, Row, Run

ALL = "all"
UNIVERSAL, SOURCE_SPECIFIC = "universal", "source-specific"
UNNAMED = "unnamed"


@dataclass(frozen=True, kw_only=True)
class Discrimination:
    """How well scores separate clean from poisoned models; scored models only.

    Attributes:
        area: under the ROC curve.
        interval: of the area.
        bootstrap: of the area, by the percentile bootstrap; None where all resamples agree.
        failed_as_undecided: area with models without a score as coin tosses.
        tpr_at_fpr_5: see `moth_eval.metrics.tpr_at_fpr`, as for the rates below.
        tpr_at_fpr_5_interval: Wilson's for that many poisoned models; the cut is taken as given.
        tpr_at_fpr_10: likewise.
        tpr_at_fpr_10_interval: likewise.
        fpr_at_tpr_80: see `moth_eval.metrics.fpr_at_tpr`.
        fpr_at_tpr_95: likewise.
    """

    area: float
    interval: Interval
    bootstrap: Interval | None
    failed_as_undecided: float
    tpr_at_fpr_5: float
    tpr_at_fpr_5_interval: Interval
    tpr_at_fpr_10: float
    tpr_at_fpr_10_interval: Interval
    fpr_at_tpr_80: float
    fpr_at_tpr_95: float


@dataclass(frozen=True, kw_only=True)
class ProbabilityFigures:
    """Proper scores of the calibrated probabilities; finished models without a score at 0.5."""

    cross_entropy: float
    halfwidth: float
    brier: float


@dataclass(frozen=True, kw_only=True)
class AtCut:
    """What the scanner's own cut does to the models at hand.

    Attributes:
        name: what the cut is applied to.
        threshold: the cut; None if it differs between models.
        false_alarm_rate: simulated rate on clean models, mean over the models it was applied to;
            None if it is not known for one of them.
        origins: whose cut it is, see `moth_eval.scan.Rule`.
        source: where the cut and its rate come from.
        above: scored models above the cut, whatever their truth.
        scored: scored models that the cut applies to.
        false_positives: clean models above the cut.
        clean: clean models that the cut was applied to.
        true_positives: poisoned models above the cut.
        poisoned: poisoned models that the cut was applied to.
    """

    name: str
    threshold: float | None
    false_alarm_rate: float | None
    origins: tuple[str, ...]
    source: str
    above: int
    scored: int
    false_positives: int
    clean: int
    true_positives: int
    poisoned: int

    @property
    def fpr(self) -> Interval | None:
        """Wilson interval of the false-positive rate; None without clean models."""
        return wilson(self.false_positives, self.clean) if self.clean else None

    @property
    def tpr(self) -> Interval | None:
        """Wilson interval of the true-positive rate; None without poisoned models."""
        return wilson(self.true_positives, self.poisoned) if self.poisoned else None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One line of the metrics table: a scanner, on all models or on some of them.

    Attributes:
        scanner: its name.
        trigger_type: `all`, or the type of the poisoned models; clean ones are always all there.
        scope: `all`, `universal` or `source-specific`: whose images the triggers of the poisoned
            models flip; clean ones are always all there.
        architecture: `all`, or that of the models, clean and poisoned ones alike.
        counts: status -> number of models; adds up to `n_models`.
        n_models: models looked at.
        n_clean: known to be clean and not excluded.
        n_poisoned: known to be poisoned and not excluded.
        n_unlabelled: of unknown truth.
        n_errata: excluded by an erratum.
        scored_clean: clean models behind the ROC.
        scored_poisoned: poisoned models behind the ROC.
        discrimination: None if a class has no scored model.
        note: why there is no ROC, or how wide its interval is made.
        figures: None if there are no probabilities.
        probability_note: where probabilities come from, or why there are none.
        cut: None if no scored model has one.
    """

    scanner: str
    trigger_type: str
    scope: str
    architecture: str
    counts: dict[str, int]
    n_models: int
    n_clean: int
    n_poisoned: int
    n_unlabelled: int
    n_errata: int
    scored_clean: int
    scored_poisoned: int
    discrimination: Discrimination | None
    note: str
    figures: ProbabilityFigures | None
    probability_note: str
    cut: AtCut | None


def evaluate(run: Run, answers: Mapping[str, Probabilities]) -> list[Evaluation]:
    """Every line of the metrics table: per scanner, then by trigger type, scope and architecture.

    A split is left out where there is nothing to split.

    Args:
        run: the run.
        answers: scanner, or what else has rows -> its calibrated probabilities.
    """
    return [line for scanner in answers for line in _of_scanner(run.of(scanner), answers[scanner])]


def probabilities(rows: Sequence[Row]) -> Probabilities:
    """Calibrated probabilities of the scored models of one scanner."""
    return calibrate(
        [
            Example(name=r.model, sha256=r.entry.sha256, score=r.score, label=r.label)
            for r in rows
            if r.score is not None
        ]
    )


def finished(rows: Sequence[Row]) -> list[Row]:
    """The rows that enter figures: truth known, no erratum, and a record there."""
    return [r for r in rows if r.label is not None and r.record is not None]


def scores_by_class(rows: Sequence[Row]) -> tuple[FloatArray, FloatArray]:
    """Scores `(N,)` of clean and `(M,)` of poisoned models that were scored, each sorted."""
    clean, poisoned = (
        np.sort([r.score for r in finished(rows) if r.label == label and r.score is not None])
        for label in (0, 1)
    )
    return clean.astype(np.float64), poisoned.astype(np.float64)


def content_seed(scanner: str, clean: FloatArray, poisoned: FloatArray) -> int:
    """A seed that depends on the scores and nothing else."""
    digest = hashlib.sha256(scanner.encode() + b"\0" + clean.tobytes() + b"\0" + poisoned.tobytes())
    return int.from_bytes(digest.digest()[:8], "big")


def is_whole(line: Evaluation) -> bool:
    """Whether a line is about all models of its scanner."""
    return line.trigger_type == line.scope == line.architecture == ALL


def architecture_of(row: Row) -> str:
    """The network as it was read; before that, as the metadata state it."""
    stated = (row.record.architecture if row.record else "") or row.entry.architecture
    return _apart(stated) or UNNAMED


def _of_scanner(rows: Sequence[Row], answers: Probabilities) -> list[Evaluation]:
    if not rows:
        return []
    lines = [_line(rows, answers)]
    clean, poisoned = ([r for r in rows if r.label == label] for label in (0, 1))
    for name, own in _parts(poisoned, _type_of):
        lines.append(_line([*clean, *own], answers, trigger_type=name))
    for name, own in reversed(_parts(poisoned, scope_of)):
        lines.append(_line([*clean, *own], answers, scope=name))
    for name, own in _parts([r for r in rows if r.label is not None], architecture_of):
        lines.append(_line(own, answers, architecture=name))
    return lines


def _parts(rows: Sequence[Row], name_of: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """Rows by what they are called, in the order of the names; none if all are called alike."""
    names = sorted({name_of(row) for row in rows})
    parts = [(name, [row for row in rows if name_of(row) == name]) for name in names]
    return parts if len(parts) > 1 else []


def scope_of(row: Row) -> str:
    """Whether a backdoor flips every class but its target, or some classes only."""
    return SOURCE_SPECIFIC if row.truth and row.truth.sources else UNIVERSAL


def _type_of(row: Row) -> str:
    return _apart(row.truth.trigger_type if row.truth else "") or UNNAMED


def _apart(name: str) -> str:
    """A name that a model's files state, told apart from the word for the whole."""
    return f"{name} (stated)" if name == ALL else name


def _line(
    rows: Sequence[Row],
    answers: Probabilities,
    *,
    trigger_type: str = ALL,
    scope: str = ALL,
    architecture: str = ALL,
) -> Evaluation:
    clean, poisoned = scores_by_class(rows)
    counts = Counter(r.status for r in rows)
    discrimination = _discrimination(rows) if clean.size and poisoned.size else None
    return Evaluation(
        scanner=rows[0].scanner,
        trigger_type=trigger_type,
        scope=scope,
        architecture=architecture,
        counts={status: counts[status] for status in STATUSES},
        n_models=len(rows),
        n_clean=sum(r.label == 0 for r in rows),
        n_poisoned=sum(r.label == 1 for r in rows),
        n_unlabelled=sum(r.truth is None for r in rows),
        n_errata=sum(r.truth is not None and bool(r.truth.errata) for r in rows),
        scored_clean=clean.size,
        scored_poisoned=poisoned.size,
        discrimination=discrimination,
        note="" if discrimination else _why_no_roc(clean.size, poisoned.size),
        figures=_figures(rows, answers),
        probability_note=answers.note,
        cut=_at_cut(rows),
    )


def _why_no_roc(clean: int, poisoned: int) -> str:
    return (
        "no ROC: it needs scored models of known truth of both classes, and there are "
        f"{clean} clean and {poisoned} poisoned"
    )


def _discrimination(rows: Sequence[Row]) -> Discrimination:
    clean, poisoned = scores_by_class(rows)
    scores = np.concatenate([clean, poisoned])
    truth = np.repeat([0, 1], [clean.size, poisoned.size])
    seed = content_seed(rows[0].scanner, clean, poisoned)
    area = roc_auc(scores, truth)
    resampled = bootstrap(clean, poisoned, seed=seed)
    five, ten = (tpr_at_fpr(scores, truth, limit) for limit in (0.05, 0.10))
    return Discrimination(
        area=area,
        interval=auc_interval(clean, poisoned, seed=seed),
        bootstrap=resampled if resampled.width > 0 else None,
        failed_as_undecided=_with_undecided(area, rows),
        tpr_at_fpr_5=five,
        tpr_at_fpr_5_interval=wilson(round(five * poisoned.size), poisoned.size),
        tpr_at_fpr_10=ten,
        tpr_at_fpr_10_interval=wilson(round(ten * poisoned.size), poisoned.size),
        fpr_at_tpr_80=fpr_at_tpr(scores, truth, 0.80),
        fpr_at_tpr_95=fpr_at_tpr(scores, truth, 0.95),
    )


def _with_undecided(area: float, rows: Sequence[Row]) -> float:
    labels = Counter(r.label for r in finished(rows))
    clean, poisoned = scores_by_class(rows)
    decided, pairs = clean.size * poisoned.size, labels[0] * labels[1]
    return (area * decided + 0.5 * (pairs - decided)) / pairs


def _figures(rows: Sequence[Row], answers: Probabilities) -> ProbabilityFigures | None:
    judged = finished(rows)
    if not answers.by_name or not judged:
        return None
    values = [answers.by_name.get(r.model, np.nan) for r in judged]
    truth = [r.label or 0 for r in judged]
    return ProbabilityFigures(
        cross_entropy=cross_entropy(values, truth),
        halfwidth=cross_entropy_halfwidth(values, truth),
        brier=brier(values, truth),
    )


def _at_cut(rows: Sequence[Row]) -> AtCut | None:
    judged = [r for r in rows if r.above_cut is not None]
    rules = [r.record.rule for r in judged if r.record and r.record.rule]
    if not rules:
        return None
    thresholds = {rule.threshold for rule in rules}
    return AtCut(
        name="; ".join(sorted({rule.name for rule in rules})),
        threshold=thresholds.pop() if len(thresholds) == 1 else None,
        false_alarm_rate=_mean_if_known([rule.false_alarm_rate for rule in rules]),
        origins=tuple(sorted({rule.origin for rule in rules})),
        source="; ".join(sorted({rule.source for rule in rules})),
        above=sum(bool(r.above_cut) for r in judged),
        scored=len(judged),
        false_positives=sum(bool(r.above_cut) for r in judged if r.label == 0),
        clean=sum(r.label == 0 for r in judged),
        true_positives=sum(bool(r.above_cut) for r in judged if r.label == 1),
        poisoned=sum(r.label == 1 for r in judged),
    )


def _mean_if_known(rates: Sequence[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return float(np.mean(known)) if len(known) == len(rates) else None
