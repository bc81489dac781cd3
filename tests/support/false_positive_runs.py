"""Synthetic folders of false-positives studies, made through the records API alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moth_eval.false_positive_records import (
    AFTER,
    AGAIN,
    BEFORE,
    FalsePositivesFolder,
    FalsePositivesManifest,
)
from moth_eval.hardening_cells import CELLS, CellOutcome, write_outcome
from moth_eval.records import Truth
from tests.support.hardening_runs import VERSIONS, WHEN, card, digest, write_card
from tests.support.runs import entry, make_run, record


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model: its scores (None: scanned without one, absent: not scanned) and its hardening."""

    truth: Truth | None = None
    before: float | None = None
    again: float | None = None
    after: float | None = None
    hardening: str = ""
    """`hardened`, `timed-out`, or empty where nothing was begun."""
    accuracy: tuple[float, float] = (0.9, 0.88)
    fields: Mapping[str, Any] | None = None
    """Of the record of the scan after."""


def make_false_positives_run(path: Path, cases: Mapping[str, Case], **fields: Any) -> Path:
    """Write a run folder with these models."""
    values: dict[str, Any] = {
        "created": WHEN,
        "command": ("moth-eval", "false-positives"),
        "models": "/data/round",
        "scanner": "nc",
        "threshold": None,
        "method": "moth",
        "parameters": {"method": "moth"},
        "data": "",
        "data_sha256": "",
        "share": 0.05,
        "distance_pairs": 0,
        "architecture": "",
        "seed": 0,
        "device": "cpu",
        "timeout_seconds": None,
        "versions": VERSIONS,
        "folders": {name: f"{name}--moth--0" for name in cases},
    }
    FalsePositivesFolder(path).write_manifest(FalsePositivesManifest(**{**values, **fields}))
    make_run(
        path / BEFORE,
        [entry(name, case.truth, sha256=digest(name)) for name, case in cases.items()],
        [record(name, case.before, sha256=digest(name)) for name, case in cases.items()],
    )
    again = {name: case.again for name, case in cases.items() if case.again is not None}
    make_run(
        path / AGAIN,
        [entry(name, sha256=digest(name)) for name in again],
        [record(name, score, sha256=digest(name)) for name, score in again.items()],
    )
    _write_hardenings(path, cases)
    return path


def _write_hardenings(path: Path, cases: Mapping[str, Case]) -> None:
    new = {name: digest(f"new {name}") for name, case in cases.items() if case.hardening}
    for name, case in cases.items():
        folder = path / CELLS / f"{name}--moth--0"
        if case.hardening == "hardened":
            before, after = case.accuracy
            write_card(folder, card(name, "moth", 0, before=before, after=after, new=new[name]))
        elif case.hardening:
            values = {"status": case.hardening, "reason": "no result", "seconds": 5}
            write_outcome(folder, CellOutcome.model_validate(values))
    hardened = [name for name, case in cases.items() if case.hardening == "hardened"]
    make_run(
        path / AFTER,
        [entry(name, sha256=new[name]) for name in hardened],
        [
            record(name, cases[name].after, sha256=new[name], **(cases[name].fields or {}))
            for name in hardened
        ],
    )
