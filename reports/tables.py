"""The CSV files of a run: results, metrics, ROC points and TrojAI's confusion sweep.

Numbers have six significant digits and empty cells mean "not known". A text cell that a
spreadsheet would run as a formula (it starts with `=`, `+`, `-`, `@`, a tab or a line break) gets
an apostrophe in front, and so does one that starts with an apostrophe: taking one leading
apostrophe off gives every text back, and model names chosen by an attacker stay text.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moth_eval.intervals import Interval
from moth_eval.metrics import FloatArray, RocCurve, confusion_sweep

from .calibration import Probabilities
from .comparisons import Comparison
from .evaluation import Evaluation, finished
from .rows import Row, Run
from .wording import evidence_words

if TYPE_CHECKING:
    from moth_eval.hardening_records import IntervalRecord

Cell = str | int | float | bool | None

TIMING_COLUMNS = ("seconds", "forward_passes", "backward_passes", "peak_memory_mb")
"""Columns of `results.csv` that may differ between two equal runs; they stand last."""

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def results_csv(rows: Sequence[Row], probabilities: dict[str, Probabilities]) -> bytes:
    """One line per model and scanner.

    Args:
        rows: in the order wanted.
        probabilities: scanner -> its calibrated probabilities.
    """
    return as_csv([_result(row, probabilities[row.scanner]) for row in rows])


def metrics_csv(lines: Sequence[Evaluation]) -> bytes:
    """One line per scanner, and per trigger type where there are several."""
    return as_csv([metrics_row(line) for line in lines])


def roc_csv(curves: dict[str, RocCurve]) -> bytes:
    """Every point of every ROC curve."""
    return as_csv(
        {"scanner": scanner, "threshold": float(t), "fpr": float(x), "tpr": float(y)}
        for scanner, curve in curves.items()
        for t, x, y in zip(curve.thresholds, curve.fpr, curve.tpr, strict=True)
    )


def roc_bands_csv(bands: dict[str, tuple[FloatArray, FloatArray, FloatArray]]) -> bytes:
    """The pointwise bounds of every ROC curve.

    Args:
        bands: scanner -> false-positive rates, lower and upper bounds of the true-positive rate,
            `(G,)` each; bounds that are not a number are left empty.
    """
    return as_csv(
        {"scanner": scanner, "fpr": float(x), "tpr_low": _known(low), "tpr_high": _known(high)}
        for scanner, band in bands.items()
        for x, low, high in zip(*band, strict=True)
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def comparisons_csv(comparisons: Sequence[Comparison]) -> bytes:
    """One line per pair of scanners."""
    return as_csv([comparison_row(one) for one in comparisons])


def costs_csv(run: Run) -> bytes:
    """One line per scanner: what its scans took. These figures may differ between equal runs."""
    return as_csv([_costs(name, run.of(name)) for name in run.scanners])


def confusion_csv(rows: Sequence[Row], answers: Probabilities) -> bytes:
    """TrojAI's confusion file of one scanner's calibrated probabilities.

    Finished models without a score enter at 0.5. Header, spacing and digits are TrojAI's.

    Source: NIST TrojAI leaderboard metrics.
    """
    judged = finished(rows)
    values = [answers.by_name.get(r.model, np.nan) for r in judged]
    sweep = confusion_sweep(values, [r.label or 0 for r in judged])
    lines = ["Threshold, TP, FP, FN, TN, TPR, FPR"]
    lines += [f"{c.threshold}, {c.tp}, {c.fp}, {c.fn}, {c.tn}, {c.tpr}, {c.fpr}" for c in sweep]
    return ("\n".join(lines) + "\n").encode()


def metrics_row(line: Evaluation) -> dict[str, Cell]:
    """The metrics of one line as column -> value; None where a figure does not exist."""
    return {
        "scanner": line.scanner,
        "trigger_type": line.trigger_type,
        "scope": line.scope,
        "architecture": line.architecture,
        "n_models": line.n_models,
        "n_clean": line.n_clean,
        "n_poisoned": line.n_poisoned,
        "n_unlabelled": line.n_unlabelled,
        "n_errata": line.n_errata,
        **{status.replace("-", "_"): count for status, count in line.counts.items()},
        "scored_clean": line.scored_clean,
        "scored_poisoned": line.scored_poisoned,
        **_discrimination(line),
        **_probability_figures(line),
        **_cut(line),
    }


def _discrimination(line: Evaluation) -> dict[str, Cell]:
    found = line.discrimination
    return {
        "roc_auc": found.area if found else None,
        **bounds("roc_auc", found.interval if found else None),
        "roc_auc_interval": found.interval.method if found else None,
        **bounds("roc_auc_bootstrap", found.bootstrap if found else None),
        "roc_auc_failed_as_undecided": found.failed_as_undecided if found else None,
        "roc_auc_note": line.note,
        "tpr_at_fpr_5": found.tpr_at_fpr_5 if found else None,
        **bounds("tpr_at_fpr_5", found.tpr_at_fpr_5_interval if found else None),
        "tpr_at_fpr_10": found.tpr_at_fpr_10 if found else None,
        **bounds("tpr_at_fpr_10", found.tpr_at_fpr_10_interval if found else None),
        "fpr_at_tpr_80": found.fpr_at_tpr_80 if found else None,
        "fpr_at_tpr_95": found.fpr_at_tpr_95 if found else None,
    }


def _probability_figures(line: Evaluation) -> dict[str, Cell]:
    return {
        "cross_entropy": line.figures.cross_entropy if line.figures else None,
        "cross_entropy_halfwidth": line.figures.halfwidth if line.figures else None,
        "brier": line.figures.brier if line.figures else None,
        "probability_note": line.probability_note,
    }


def _cut(line: Evaluation) -> dict[str, Cell]:
    cut = line.cut
    return {
        "cut_name": cut.name if cut else None,
        "cut_origin": " and ".join(cut.origins) if cut else None,
        "cut_threshold": cut.threshold if cut else None,
        "cut_simulated_false_alarm_rate": cut.false_alarm_rate if cut else None,
        "cut_above": cut.above if cut else None,
        "cut_applied": cut.scored if cut else None,
        "cut_false_positives": cut.false_positives if cut else None,
        "cut_clean": cut.clean if cut else None,
        **bounds("cut_fpr", cut.fpr if cut else None),
        "cut_true_positives": cut.true_positives if cut else None,
        "cut_poisoned": cut.poisoned if cut else None,
        **bounds("cut_tpr", cut.tpr if cut else None),
    }


def comparison_row(one: Comparison) -> dict[str, Cell]:
    """Two scanners as column -> value; None where a figure does not exist."""
    areas = one.areas
    return {
        "first": one.first,
        "second": one.second,
        "clean": areas.clean,
        "poisoned": areas.poisoned,
        "left_out": one.left_out,
        "roc_auc_first": areas.first,
        "roc_auc_second": areas.second,
        **with_bounds("difference", areas.difference, areas.interval),
        "p": areas.p_value,
        "p_holm": one.p_holm,
        "detectable_difference": areas.detectable,
    }


def _costs(scanner: str, rows: Sequence[Row]) -> dict[str, Cell]:
    spent = [r.record for r in rows if r.record is not None and r.record.status == "scored"]
    seconds = [record.seconds for record in spent]
    return {
        "scanner": scanner,
        "scored": len(spent),
        "seconds_mean": float(np.mean(seconds)) if spent else None,
        "seconds_median": float(np.median(seconds)) if spent else None,
        "seconds_highest": max(seconds, default=None),
        "seconds_total": float(sum(r.record.seconds for r in rows if r.record)),
        "forward_passes_mean": float(np.mean([r.forward_passes for r in spent])) if spent else None,
        "backward_passes_mean": float(np.mean([r.backward_passes for r in spent]))
        if spent
        else None,
        "peak_memory_mb": max((r.peak_memory_bytes / 1e6 for r in spent), default=None),
    }


def with_bounds(
    name: str, value: float | None, interval: Interval | IntervalRecord | None
) -> dict[str, Cell]:
    """A figure and the bounds of its interval."""
    return {name: value, **bounds(name, interval)}


def bounds(name: str, interval: Interval | IntervalRecord | None) -> dict[str, Cell]:
    """The bounds of a figure's interval; None where there is none."""
    return {
        f"{name}_low": interval.low if interval else None,
        f"{name}_high": interval.high if interval else None,
    }


def _result(row: Row, answers: Probabilities) -> dict[str, Cell]:
    record, truth, smallest = row.record, row.truth, row.smallest
    return {
        "model": row.model,
        "architecture": (record.architecture if record else None) or row.entry.architecture,
        "classes": record.num_classes if record else None,
        "scanner": row.scanner,
        "score": row.score,
        "probability": answers.by_name.get(row.model),
        "status": row.status,
        "reason": record.reason if record else None,
        "suspected_target": record.target if record else None,
        "suspected_source": record.source if record else None,
        "smallest_trigger_size": smallest.size if smallest else None,
        "smallest_trigger_asr": smallest.asr if smallest else None,
        "evidence": "; ".join(evidence_words(record.evidence)) if record else None,
        "clean_accuracy": record.clean_accuracy if record else None,
        "normalisation": record.normalisation if record else None,
        "poisoned": truth.poisoned if truth else None,
        "trigger_type": truth.trigger_type if truth else None,
        "target": _joined(truth.targets) if truth else None,
        "source": _joined(truth.sources) if truth else None,
        "errata": truth.errata if truth else None,
        "doubts": "; ".join(row.doubts),
        "guards": " ".join(record.guards) if record else None,
        "seconds": record.seconds if record else None,
        "forward_passes": record.forward_passes if record else None,
        "backward_passes": record.backward_passes if record else None,
        "peak_memory_mb": record.peak_memory_bytes / 1e6 if record else None,
    }


def _joined(classes: Iterable[int]) -> str:
    return " ".join(str(c) for c in classes)


def as_csv(lines: Iterable[dict[str, Cell]]) -> bytes:
    """CSV with a header, or nothing at all without lines."""
    rows: list[Iterable[str]] = []
    for line in lines:
        rows += [map(_cell, line.values())] if rows else [line, map(_cell, line.values())]
    return "".join(map(_csv_row, rows)).encode()


def _csv_row(cells: Iterable[str]) -> str:
    """One row; whatever some reader takes for the end of one is quoted."""
    buffer = io.StringIO()
    # Python quotes what is in the terminator, and before 3.13 no other end of a line.
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Cell) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return str(value)
