"""The page: one self-contained HTML file, safe to open whatever the models are called.

Names and reasons are chosen by strangers. Every one of them passes through autoescaping, and the
page forbids itself (by a content security policy with hashes) any script or style but its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.filters import do_urlencode
from markupsafe import Markup

from moth_eval.metrics import tpr_at_fpr
from moth_eval.text import visible

from .comparisons import Comparison
from .doubts import Doubt
from .drawings import score_strip, size_bars
from .evaluation import ALL, AtCut, Evaluation, is_whole, scores_by_class
from .pictures import Pictures
from .roc import MOST_BANDS
from .rows import Row, Run
from .verdicts import FINDINGS, Verdict
from .wording import (
    ABOVE_CUT,
    CUTS,
    NO_CUT,
    NO_EVIDENCE,
    aligned,
    count,
    evidence_words,
    false_alarms,
    finding,
    number,
    percent,
    span,
)

TEMPLATES = Path(__file__).parent / "templates"

MOST_EMBEDDED_BYTES = 12_000_000
"""Trigger sheets beyond this are linked, not embedded; the most suspicious models come first."""

FALSE_ALARMS_ALLOWED = (0.0, 0.05, 0.1, 0.2)

MOST_NAMES = 12
"""Models listed under one doubt; results.csv has them all."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page is made from.

    Attributes:
        run: the run.
        lines: its metrics.
        doubts: shown first, in this order.
        pictures: model and scanner -> pictures of its triggers, the sheets on disk.
        comparisons: scanner against scanner.
        verdicts: model and scanner -> verdict, in a run of `scan`; else empty.
        roc_light: the ROC figure as SVG; empty if there is none.
        roc_dark: the same for a dark screen.
        files: names of the other files of the report, to link to.
    """

    run: Run
    lines: Sequence[Evaluation]
    comparisons: Sequence[Comparison]
    verdicts: Mapping[tuple[str, str], Verdict]
    doubts: Sequence[Doubt]
    pictures: dict[tuple[str, str], Pictures]
    roc_light: bytes
    roc_dark: bytes
    files: tuple[str, ...]

    @property
    def banded(self) -> bool:
        """Whether the ROC figure shows bands."""
        whole = [line for line in self.lines if is_whole(line)]
        return sum(line.discrimination is not None for line in whole) <= MOST_BANDS


def render(page: Page) -> bytes:
    """The page as UTF-8 HTML."""
    rows = sorted(page.run.rows, key=lambda row: _rank(page.run, row))
    style, script = _asset("report.css"), _asset("report.js")
    sheets = _embedded(page, rows)
    template = _environment().get_template("report.html")
    return template.render(
        style=Markup(style),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        policy=_policy(style, script),
        run=_facts(page.run),
        doubts=[_doubt(doubt) for doubt in page.doubts],
        scanners=[_scanner(page, line) for line in page.lines if is_whole(line)],
        parts=_parts(page.lines),
        comparisons=page.comparisons,
        costs=[_cost(page.run, name) for name in page.run.scanners],
        roc_light=_data("image/svg+xml", page.roc_light),
        roc_dark=_data("image/svg+xml", page.roc_dark),
        banded=page.banded,
        rows=[_row(page, row, i, sheets) for i, row in enumerate(rows)],
        sheets=[_sheet(page, rows[i], i, data) for i, data in sheets.items()],
        many_scanners=len(page.run.scanners) > 1,
        truth_known=any(row.truth for row in rows),
        files=page.files,
        hashes=[(visible(e.name), visible(e.file), e.sha256) for e in page.run.manifest.entries],
    ).encode()


def _rank(run: Run, row: Row) -> tuple[int, bool, float]:
    """Scanner by scanner, the most suspicious first, models without a score last."""
    return run.scanners.index(row.scanner), row.score is None, -(row.score or 0.0)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        visible=visible, number=number, aligned=aligned, percent=percent, span=span, count=count
    )
    return environment


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """A content security policy under which nothing but this page's own text runs or loads."""
    own = {
        kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in (("style", style), ("script", script))
    }
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{own['style']}'; script-src 'sha256-{own['script']}'"
    )


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""


def _facts(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    scored = [r for r in run.rows if r.status == "scored"]
    findings = [finding(r) for r in run.rows]
    return {
        "title": visible(Path(manifest.models).name or manifest.models),
        "models": visible(manifest.models),
        "n_models": len(manifest.entries),
        "n_scanners": len(run.scanners),
        "n_rows": len(run.rows),
        "above": findings.count(ABOVE_CUT),
        "no_evidence": findings.count(NO_EVIDENCE),
        "no_cut": findings.count(NO_CUT),
        "unanswered": len(run.rows) - len(scored),
        "created": manifest.created.isoformat(timespec="seconds"),
        "command": visible(" ".join(manifest.command)),
        "seed": manifest.seed,
        "device": visible(manifest.device),
        "timeout": manifest.timeout_seconds,
        "versions": [(visible(k), visible(v)) for k, v in sorted(manifest.versions.items())],
        "parameters": [
            (visible(name), visible(json.dumps(values, sort_keys=True, default=str)))
            for name, values in manifest.scanners.items()
        ],
        "seconds": sum(r.record.seconds for r in run.rows if r.record),
    }


def _doubt(doubt: Doubt) -> dict[str, Any]:
    return {
        "serious": doubt.serious,
        "title": _unbroken(visible(doubt.title)),
        "detail": _unbroken(visible(doubt.detail)),
        "models": [visible(name) for name in doubt.models[:MOST_NAMES]],
        "more": max(len(doubt.models) - MOST_NAMES, 0),
    }


def _unbroken(text: str) -> str:
    """The text with its per cent signs kept on the line of their number."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _scanner(page: Page, line: Evaluation) -> dict[str, Any]:
    threshold = line.cut.threshold if line.cut else None
    return {
        "name": visible(line.scanner),
        "line": line,
        "found": _found_at(page.run.of(line.scanner)) if line.discrimination else [],
        "strip": score_strip(page.run.of(line.scanner), threshold),
        "cut": _cut_words(line.cut) if line.cut else "this scanner states no cut",
    }


def _parts(lines: Sequence[Evaluation]) -> list[tuple[str, str, list[tuple[str, Evaluation]]]]:
    """Title, head of the column and lines with their names, of every table of parts of a run."""
    found = [
        (
            "By trigger type, each against all clean models",
            "Trigger type",
            [(visible(line.trigger_type), line) for line in lines if line.trigger_type != ALL],
        ),
        (
            "By scope of the trigger, each against all clean models",
            "Scope",
            [(line.scope, line) for line in lines if line.scope != ALL],
        ),
        (
            "By architecture, clean and backdoored models of it",
            "Architecture",
            [(visible(line.architecture), line) for line in lines if line.architecture != ALL],
        ),
    ]
    return [part for part in found if part[2]]


def _cut_words(cut: AtCut) -> str:
    """What a cut is, whose it is, and what it is worth."""
    limit = "" if cut.threshold is None else f" > {number(cut.threshold)}"
    origins = " and ".join(CUTS[origin] for origin in cut.origins)
    return visible(f"{cut.name}{limit}, {origins}; {false_alarms(cut.false_alarm_rate)}")


def _cost(run: Run, scanner: str) -> tuple[str, float | None, float | None]:
    """A scanner, and per model the means of its seconds and its passes, forward and backward."""
    spent = [r.record for r in run.of(scanner) if r.record and r.record.status == "scored"]
    if not spent:
        return visible(scanner), None, None
    passes = np.mean([r.forward_passes + r.backward_passes for r in spent])
    return visible(scanner), float(np.mean([r.seconds for r in spent])), float(passes)


def _found_at(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """False-positive rate allowed -> share of backdoored models found."""
    clean, poisoned = scores_by_class(rows)
    truth = np.repeat([0, 1], [clean.size, poisoned.size])
    scores = np.concatenate([clean, poisoned])
    return [(limit, tpr_at_fpr(scores, truth, limit)) for limit in FALSE_ALARMS_ALLOWED]


def _row(page: Page, row: Row, place: int, sheets: dict[int, str]) -> dict[str, Any]:
    record, drawn = row.record, page.pictures.get((row.model, row.scanner))
    verdict = page.verdicts.get((row.model, row.scanner))
    return {
        "model": visible(row.model),
        "architecture": visible((record.architecture if record else "") or row.entry.architecture),
        "classes": record.num_classes if record else None,
        "scanner": visible(row.scanner),
        "truth": _truth(row),
        "score": row.score,
        "finding": verdict.grade if verdict else finding(row),
        "tone": "above" if verdict and verdict.grade in FINDINGS else _tone(row),
        "reason": visible(verdict.basis if verdict else record.reason if record else ""),
        "target": record.target if record else None,
        "source": record.source if record else None,
        "smallest": row.smallest,
        "bars": size_bars(record.triggers, record.target) if record else "",
        "accuracy": record.clean_accuracy if record else None,
        "seconds": record.seconds if record else None,
        "doubts": [visible(text) for text in (verdict.doubts if verdict else row.doubts)],
        "evidence": evidence_words(record.evidence, MOST_NAMES) if record else [],
        "thumbnail": _data("image/png", drawn.thumbnail) if drawn else "",
        "link": _link(drawn, place, sheets) if drawn else "",
        "caption": drawn.caption if drawn else "",
    }


def _truth(row: Row) -> tuple[str, str]:
    """What is known of the model, and of which kind its trigger is."""
    if row.truth is None:
        return "unknown", ""
    if row.truth.errata:
        return "disputed", visible(row.truth.errata)
    return ("backdoored", visible(row.truth.trigger_type)) if row.label else ("clean", "")


def _tone(row: Row) -> str:
    """The style class of a finding."""
    if row.status == "scored":
        return "above" if row.above_cut else "plain"
    return "pending" if row.record is None else "unanswered"


def _embedded(page: Page, rows: Sequence[Row]) -> dict[int, str]:
    """Place in the table -> the sheet as data, for as many rows as the page can carry."""
    carried, left = {}, MOST_EMBEDDED_BYTES
    for place, row in enumerate(rows):
        drawn = page.pictures.get((row.model, row.scanner))
        sheet = page.run.path / drawn.path if drawn else None
        if sheet and sheet.stat().st_size <= left:
            carried[place] = _data("image/png", sheet.read_bytes())
            left -= sheet.stat().st_size
    return carried


def _link(drawn: Pictures, place: int, sheets: dict[int, str]) -> str:
    return f"#triggers-{place}" if place in sheets else do_urlencode(drawn.path)


def _sheet(page: Page, row: Row, place: int, data: str) -> dict[str, Any]:
    return {
        "id": f"triggers-{place}",
        "row": f"row-{place}",
        "data": data,
        "title": f"{visible(row.model)}, {visible(row.scanner)}",
        "caption": page.pictures[row.model, row.scanner].caption,
    }
