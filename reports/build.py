"""Every file of a report, rebuilt from the manifest, the ledger and the triggers of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moth_eval.errors import RunError
from moth_eval.records import TRIGGERS, write_whole

from .calibration import Probabilities
from .doubts import Doubt, find_doubts
from .evaluation import Evaluation, evaluate, probabilities
from .page import Page, render
from .pictures import Pictures, pictures
from .roc import DARK, ScannerCurve, draw, scanner_curves
from .rows import Run, read_run
from .tables import confusion_csv, metrics_csv, results_csv, roc_csv

PAGE = "report.html"
_OWN_FILES = ("roc.csv", "roc.png", "roc.svg", "confusion.csv", "confusion-*.csv")


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that is worked out from a run before anything is written."""

    run: Run
    lines: Sequence[Evaluation]
    answers: dict[str, Probabilities]
    curves: Sequence[ScannerCurve]
    pictures: dict[tuple[str, str], Pictures]
    doubts: Sequence[Doubt]


def build_reports(run: Path) -> list[Path]:
    """Write every table, figure and page of a run folder; the paths written, the page last.

    The files depend on the manifest, the ledger and `triggers/` only, byte for byte. Files of an
    earlier report that have no place in this one (a ROC without both classes) are removed.

    Args:
        run: a run folder.

    Raises:
        RunError: there is no manifest, or it or the ledger is damaged.
    """
    report = work_out(read_run(run))
    files = {**_tables(report), **_roc(report)}
    files |= {drawn.path: drawn.sheet for drawn in report.pictures.values()}
    files[PAGE] = _page(report, files)
    _remove_stale(run, set(files))
    for name, content in files.items():
        _write(run / name, content)
    return [run / name for name in files]


def work_out(run: Run) -> Report:
    """Metrics, curves, pictures and doubts of a run; nothing is written."""
    lines = evaluate(run)
    drawn, unreadable = _pictures(run)
    return Report(
        run=run,
        lines=lines,
        answers={scanner: probabilities(run.of(scanner)) for scanner in run.scanners},
        curves=scanner_curves(run, lines),
        pictures=drawn,
        doubts=find_doubts(run, lines, unreadable),
    )


def _pictures(
    run: Run,
) -> tuple[dict[tuple[str, str], Pictures], dict[tuple[str, str], str]]:
    drawn: dict[tuple[str, str], Pictures] = {}
    unreadable: dict[tuple[str, str], str] = {}
    for row in run.rows:
        try:
            found = pictures(run.path, row)
        except RunError as error:
            unreadable[row.model, row.scanner] = str(error)
        else:
            if found:
                drawn[row.model, row.scanner] = found
    return drawn, unreadable


def _tables(report: Report) -> dict[str, bytes]:
    files = {
        "results.csv": results_csv(report.run.rows, report.answers),
        "metrics.csv": metrics_csv(report.lines),
    }
    for place, scanner in enumerate(report.run.scanners):
        answers = report.answers[scanner]
        if answers.by_name:
            name = "confusion.csv" if place == 0 else f"confusion-{_file_word(scanner)}.csv"
            files[name] = confusion_csv(report.run.of(scanner), answers)
    return files


def _roc(report: Report) -> dict[str, bytes]:
    if not report.curves:
        return {}
    return {
        "roc.csv": roc_csv({c.scanner: c.curve for c in report.curves}),
        "roc.png": draw(report.curves, kind="png"),
        "roc.svg": draw(report.curves, kind="svg"),
    }


def _page(report: Report, files: dict[str, bytes]) -> bytes:
    dark = draw(report.curves, kind="svg", theme=DARK) if report.curves else b""
    page = Page(
        run=report.run,
        lines=report.lines,
        doubts=report.doubts,
        pictures=report.pictures,
        roc_light=files.get("roc.svg", b""),
        roc_dark=dark,
        files=tuple(name for name in files if not name.startswith(TRIGGERS)),
    )
    return render(page)


def _file_word(scanner: str) -> str:
    return re.sub(r"[^\w.-]", "_", scanner)


def _remove_stale(run: Path, wanted: set[str]) -> None:
    """Remove what an earlier report left and this one does not have."""
    for pattern in (*_OWN_FILES, f"{TRIGGERS}/*.png"):
        for path in run.glob(pattern):
            if path.relative_to(run).as_posix() not in wanted:
                path.unlink()


def _write(path: Path, content: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == content):
        write_whole(path, content)
