"""What a run found, in a few plain lines for a terminal, and as data for a machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moth_eval.text import visible

from .build import Findings, work_out
from .comparisons import Comparison
from .evaluation import ALL, Discrimination, Evaluation, is_whole
from .rows import PENDING, Run
from .tables import Cell, comparison_row, metrics_row
from .wording import STATUS_WORDS, columns, count, number, percent, span

MOST_SUSPECTS = 5
LEVEL = 0.05
"""Corrected p value up to which two scanners are said to differ."""


def summary_lines(run: Path) -> list[str]:
    """The summary of a run folder, one string per line, without colour or control characters.

    Raises:
        RunError: there is no manifest, or it or the ledger is damaged.
    """
    return lines_of(work_out(run))


def lines_of(findings: Findings) -> list[str]:
    """The same for a run that is worked out already."""
    run = findings.run
    shown = [line for line in findings.lines if line.architecture == ALL]
    lines = [_head(run), "", *columns(_metric_cells(shown)), ""]
    whole = [line for line in findings.lines if is_whole(line)]
    lines += [f"{visible(line.scanner)}: {line.note}" for line in whole if line.note]
    lines += [text for scanner in run.scanners if (text := _suspects(run, scanner))]
    lines += [_apart(one) for one in findings.comparisons if one.p_holm <= LEVEL]
    serious = [doubt for doubt in findings.doubts if doubt.serious]
    if serious:
        lines += ["", f"{count(len(serious), 'serious doubt')}:"]
        lines += [f"  - {visible(doubt.title)}" for doubt in serious]
    return lines


def summary_data(findings: Findings, written: Sequence[Path]) -> dict[str, object]:
    """The summary as data that JSON can hold; figures that do not exist are null."""
    rows: list[dict[str, Cell]] = [metrics_row(line) for line in findings.lines]
    return {
        "run": str(findings.run.path),
        "complete": all(row.status != PENDING for row in findings.run.rows),
        "written": [str(path) for path in written],
        "metrics": rows,
        "comparisons": [comparison_row(one) for one in findings.comparisons],
        "doubts": [
            {"serious": d.serious, "title": d.title, "detail": d.detail, "models": list(d.models)}
            for d in findings.doubts
        ],
    }


def _head(run: Run) -> str:
    counts = {word: sum(r.status == s for r in run.rows) for s, word in STATUS_WORDS.items()}
    parts = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    models = count(len(run.manifest.entries), "model")
    return f"{models} under {count(len(run.scanners), 'scanner')}: {parts or 'nothing to scan'}"


def _metric_cells(lines: Sequence[Evaluation]) -> list[list[str]]:
    head = ["scanner", "trigger", "scored", "above cut", "ROC AUC (95 %)", "cross-entropy"]
    return [[*head, "TPR at FPR 5 % (95 %)"], *map(_cells, lines)]


def _cells(line: Evaluation) -> list[str]:
    found, figures, cut = line.discrimination, line.figures, line.cut
    return [
        visible(line.scanner),
        visible(line.trigger_type if line.scope == ALL else line.scope),
        f"{line.counts['scored']}/{line.n_models}",
        f"{cut.above}/{cut.scored}" if cut else "–",
        f"{found.area:.3f} ({span(found.interval)})" if found else "–",
        f"{figures.cross_entropy:.3f} ± {figures.halfwidth:.3f}" if figures else "–",
        _tpr(found) if found else "–",
    ]


def _tpr(found: Discrimination) -> str:
    low, high = found.tpr_at_fpr_5_interval.low, found.tpr_at_fpr_5_interval.high
    return f"{percent(found.tpr_at_fpr_5)} ({percent(low)} to {percent(high)})"


def _apart(one: Comparison) -> str:
    worse, better = sorted(
        [(one.areas.first, one.first), (one.areas.second, one.second)], key=lambda pair: pair[0]
    )
    return (
        f"{visible(better[1])} tells models apart better than {visible(worse[1])}: ROC area "
        f"{better[0]:.3f} against {worse[0]:.3f} on {one.areas.clean + one.areas.poisoned} models, "
        f"corrected p = {number(one.p_holm, 2)}"
    )


def _suspects(run: Run, scanner: str) -> str:
    """The models above their cut, or at least the highest scores."""
    scored = [row for row in run.of(scanner) if row.score is not None]
    above = [row for row in scored if row.above_cut is not False]
    first = sorted(above, key=lambda row: (-(row.score or 0.0), row.model))[:MOST_SUSPECTS]
    if not first:
        return f"{visible(scanner)}: no evidence found in any scored model" if scored else ""
    named = ", ".join(f"{visible(row.model)} ({number(row.score)})" for row in first)
    return f"{visible(scanner)}, most suspicious: {named}"
