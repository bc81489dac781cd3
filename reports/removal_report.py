"""Every file of a removal study's report, rebuilt from its manifest and cards alone."""

from __future__ import annotations

import json
from pathlib import Path

from moth_eval.text import visible

from .removal import FIGURES, NONE, Line, RemovalFindings, figures
from .removal_pictures import Mark, asr_against_accuracy
from .removal_tables import (
    ORIGINALS,
    attack_rows,
    control_rows,
    difference_rows,
    method_rows,
    removal_data,
    result_rows,
)
from .removal_texts import removal_latex, removal_markdown, shortened_label
from .report_files import write_report
from .tables import as_csv
from .wording import count


def write_removal_report(found: RemovalFindings) -> list[Path]:
    """Write every table and figure; the paths written.

    They depend on the manifest and the cards only, byte for byte. A table without rows is not
    written, and one that an earlier report left is removed.
    """
    summary = json.dumps(removal_data(found), indent=2, allow_nan=False)
    files = {
        "results.csv": as_csv(result_rows(found)),
        "methods.csv": as_csv(method_rows(found)),
        "attacks.csv": as_csv(attack_rows(found)),
        "controls.csv": as_csv(control_rows(found)),
        "differences.csv": as_csv(difference_rows(found)),
        "removal.md": removal_markdown(found).encode(),
        "removal.tex": removal_latex(found).encode(),
        "summary.json": f"{summary}\n".encode(),
        "removal.png": _figure(found, "png"),
        "removal.svg": _figure(found, "svg"),
    }
    return write_report(found.path, files)


def _figure(found: RemovalFindings, kind: str) -> bytes:
    lines = (ORIGINALS, *found.lines)
    marks = [mark for line in lines for mark in _marks(found, line)]
    legend = {line.label: _legend(found, line) for line in lines}
    hollow = frozenset(line.label for line in lines if line.oracle or line.method == NONE)
    return asr_against_accuracy(
        marks, legend, hollow=hollow, kind="png" if kind == "png" else "svg"
    )


def _marks(found: RemovalFindings, line: Line) -> list[Mark]:
    """A point per model that is in the comparison."""
    results = found.results(line, found.compared(found.scored))
    across, up = (figures(results, FIGURES[name]) for name in ("accuracy", "asr"))
    return [
        Mark(label=line.label, accuracy=sum(a) / len(a), asr=sum(up[model]) / len(up[model]))
        for model, a in across.items()
        if model in up
    ]


def _legend(found: RemovalFindings, line: Line) -> str:
    name = "before" if line.method == NONE else shortened_label(line)
    return visible(f"{name}: {count(len(_marks(found, line)), 'model')}")
