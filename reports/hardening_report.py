"""Every file of a hardening study's report, rebuilt from its manifest and cards alone."""

from __future__ import annotations

from pathlib import Path

from moth_eval.text import visible

from .hardening_pictures import Point, scatter
from .hardening_study import (
    HardeningFindings,
    MethodLine,
    degradation_of,
    difference_rows,
    increase_of,
    rows,
    summary_row,
)
from .hardening_summary import hardening_latex, hardening_markdown
from .report_files import write_report
from .study_cells import shortened
from .tables import as_csv
from .wording import count


def write_hardening_report(found: HardeningFindings) -> list[Path]:
    """Write every table and figure; the paths written.

    They depend on the manifest and the cards only, byte for byte. A table without rows is not
    written, and one that an earlier report left is removed.
    """
    points = [point for line in found.lines for point in _points(line)]
    legend = {line.method: _legend(line) for line in found.lines}
    files = {
        "hardening.csv": as_csv(rows(found)),
        "summary.csv": as_csv(map(summary_row, found.lines)),
        "differences.csv": as_csv(difference_rows(found)),
        "hardening.md": hardening_markdown(found).encode(),
        "hardening.tex": hardening_latex(found).encode(),
        "hardening.png": scatter(points, legend, kind="png"),
        "hardening.svg": scatter(points, legend, kind="svg"),
    }
    return write_report(found.path, files)


def _points(line: MethodLine) -> list[Point]:
    """A point per cell that has an accuracy and an increase."""
    points = []
    for card in line.cards:
        lost, gained = degradation_of(card), increase_of(card)
        if lost is not None and gained is not None:
            seconds = card.training.seconds
            points.append(Point(method=line.method, change=-lost, increase=gained, seconds=seconds))
    return points


def _legend(line: MethodLine) -> str:
    return visible(
        f"{shortened(line.method)}: {len(_points(line))} of {count(len(line.cells), 'cell')}"
    )
