"""Every file of a report, rebuilt from the manifest, the ledger and the triggers of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from moth_eval.errors import RunError
from moth_eval.records import TRIGGERS
from moth_eval.run_files import write_changed

from .calibration import Probabilities
from .comparisons import Comparison, compare
from .doubts import Doubt, find_doubts, picture_doubts
from .ensemble import ensemble
from .evaluation import Evaluation, evaluate, probabilities
from .evidence_pictures import drawn as drawn_of
from .figures import DARK
from .page import Page, render
from .pictures import Pictures
from .roc import MOST_BANDS, ScannerCurve, draw, draw_panels, scanner_curves
from .rows import Run, read_run
from .tables import (
    comparisons_csv,
    confusion_csv,
    costs_csv,
    metrics_csv,
    results_csv,
    roc_bands_csv,
    roc_csv,
)
from .verdict_files import Judged, read_verdicts

PAGE = "report.html"
LONGEST_WORD = 80
"""Bytes of what a scanner is called in file names."""

_OWN_FILES = (
    "roc.csv", "roc-bands.csv", "roc.png", "roc.svg", "roc-panels.png", "comparisons.csv",
    "confusion.csv", "confusion-*.csv", "verdicts.csv", "verdicts.json",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All figures of a run, and what speaks against them; nothing is drawn or written yet."""

    run: Run
    lines: Sequence[Evaluation]
    answers: dict[str, Probabilities]
    comparisons: Sequence[Comparison]
    doubts: Sequence[Doubt]
    judged: Judged | None = None
    """Verdicts, if it is a run of `scan`."""


def work_out(path: Path) -> Findings:
    """The figures and doubts of a run folder.

    Raises:
        RunError: there is no manifest, or it or the ledger is damaged.
    """
    run = read_run(path)
    answers = {scanner: probabilities(run.of(scanner)) for scanner in run.scanners}
    together = ensemble(run)
    if together is not None:
        run = replace(run, derived=together.rows)
        answers[together.name] = together.answers
    lines = evaluate(run, answers)
    return Findings(
        run=run,
        lines=lines,
        answers=answers,
        comparisons=compare(run, tuple(answers)),
        doubts=find_doubts(run, lines),
        judged=read_verdicts(run),
    )


def write_reports(findings: Findings) -> list[Path]:
    """Write every table, figure and page of a run folder; the paths written, the page last.

    The files depend on the manifest, the ledger and `triggers/` only, byte for byte. Files of an
    earlier report that have no place in this one (a ROC without both classes) are removed.
    """
    curves = scanner_curves(findings.run, findings.lines)
    drawn, unreadable = _pictures(findings.run)
    files = {**_tables(findings), **_roc(curves)}
    if findings.judged is not None:
        files |= findings.judged.files()
    page = Page(
        run=findings.run,
        lines=findings.lines,
        comparisons=findings.comparisons,
        verdicts=findings.judged.by_scan if findings.judged else {},
        doubts=[*findings.doubts, *picture_doubts(unreadable)],
        pictures=drawn,
        roc_light=files.get("roc.svg", b""),
        roc_dark=draw(curves, kind="svg", theme=DARK) if curves else b"",
        files=tuple(files),
    )
    files[PAGE] = render(page)
    folder = findings.run.path
    for name, content in files.items():
        write_changed(folder / name, content)
    sheets = [one.path for one in drawn.values()]
    _remove_stale(folder, {*files, *sheets})
    return [folder / name for name in (*sheets, *files)]


def _pictures(
    run: Run,
) -> tuple[dict[tuple[str, str], Pictures], dict[tuple[str, str], str]]:
    """Write the sheets; model and scanner -> pictures, or the reason why there is none."""
    drawn: dict[tuple[str, str], Pictures] = {}
    unreadable: dict[tuple[str, str], str] = {}
    for row in run.rows:
        try:
            found = drawn_of(run.path, row)
        except RunError as error:
            unreadable[row.model, row.scanner] = str(error)
        else:
            if found:
                write_changed(run.path / found.path, found.sheet)
                # A thousand sheets would fill the memory; the page reads back those it embeds.
                drawn[row.model, row.scanner] = replace(found, sheet=b"")
    return drawn, unreadable


def _tables(findings: Findings) -> dict[str, bytes]:
    files = {
        "results.csv": results_csv(findings.run.rows, findings.answers),
        "metrics.csv": metrics_csv(findings.lines),
        "costs.csv": costs_csv(findings.run),
    }
    if findings.comparisons:
        files["comparisons.csv"] = comparisons_csv(findings.comparisons)
    words = _file_words(findings.run.scanners)
    for place, scanner in enumerate(findings.run.scanners):
        answers = findings.answers[scanner]
        if answers.by_name:
            name = "confusion.csv" if place == 0 else f"confusion-{words[scanner]}.csv"
            files[name] = confusion_csv(findings.run.of(scanner), answers)
    return files


def _roc(curves: Sequence[ScannerCurve]) -> dict[str, bytes]:
    if not curves:
        return {}
    return {
        "roc.csv": roc_csv({c.scanner: c.curve for c in curves}),
        "roc-bands.csv": roc_bands_csv({c.scanner: c.bounds for c in curves}),
        "roc.png": draw(curves, kind="png"),
        "roc.svg": draw(curves, kind="svg"),
        **({"roc-panels.png": draw_panels(curves, kind="png")} if len(curves) > MOST_BANDS else {}),
    }


def _file_words(scanners: Sequence[str]) -> dict[str, str]:
    """Scanner -> what it is called in file names, each another word of at most 80 bytes."""
    words: dict[str, str] = {}
    for scanner in scanners:
        word = re.sub(r"[^\w.-]", "_", scanner)
        if len(word.encode()) > LONGEST_WORD or word in words.values():
            digest = hashlib.sha256(scanner.encode(errors="surrogatepass")).hexdigest()[:8]
            word = f"{word.encode()[: LONGEST_WORD - 9].decode(errors='ignore')}-{digest}"
        words[scanner] = word
    return words


def _remove_stale(run: Path, wanted: set[str]) -> None:
    """Remove what an earlier report left and this one does not have."""
    for pattern in (*_OWN_FILES, f"{TRIGGERS}/*.png"):
        for path in run.glob(pattern):
            if path.relative_to(run).as_posix() not in wanted:
                path.unlink()
