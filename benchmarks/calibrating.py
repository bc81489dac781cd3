"""Scores of clean models, gathered into a calibration."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from moth_eval.errors import InputError
from moth_eval.records import RESULT_VERSION, RunManifest, ScanRecord
from moth_eval.scan_calibration import (
    CalibratedScanner,
    Calibration,
    CalibrationGroup,
    group_of,
    smallest_budget,
)


def calibration_of(
    manifest: RunManifest, records: Iterable[ScanRecord], *, dataset: str, command: tuple[str, ...]
) -> Calibration:
    """The calibration that a run over clean models gives.

    Copies of one file count once; models that could not be opened are in no group.

    Args:
        manifest: of the run.
        records: of its scans.
        dataset: what the models' data are called.
        command: how it was made.

    Raises:
        InputError: no model has a score.
    """
    by_scanner: dict[str, dict[str, list[ScanRecord]]] = {name: {} for name in manifest.scanners}
    for record in records:
        if record.num_classes and record.image_shape:
            group = group_of(dataset, record.num_classes, record.image_shape, record.architecture)
            by_scanner[record.scanner].setdefault(group, []).append(record)
    if not any(r.score is not None for g in by_scanner.values() for rs in g.values() for r in rs):
        raise InputError("no clean model has a score, so there is nothing to calibrate on")
    return Calibration(
        created=datetime.now(UTC).replace(microsecond=0),
        command=command,
        models=manifest.models,
        dataset=dataset,
        seed=manifest.seed,
        device=manifest.device,
        versions=manifest.versions,
        result_version=RESULT_VERSION,
        scanners={
            name: CalibratedScanner(
                parameters=manifest.scanners[name],
                groups={group: _group(found) for group, found in sorted(groups.items())},
            )
            for name, groups in by_scanner.items()
        },
    )


def _group(records: Iterable[ScanRecord]) -> CalibrationGroup:
    once = {record.sha256: record for record in records}
    scores = [record.score for record in once.values() if record.score is not None]
    return CalibrationGroup(
        scores=tuple(sorted(scores)),
        models=tuple(sorted(sha for sha, record in once.items() if record.score is not None)),
        unanswered=len(once) - len(scores),
    )


def lines_of(calibration: Calibration, out: Path) -> list[str]:
    """What a calibration can promise, a line per scanner and group."""
    lines = []
    for name, scanner in calibration.scanners.items():
        for group, found in scanner.groups.items():
            count = len(found.scores)
            without = f", {found.unanswered} without a score" if found.unanswered else ""
            promise = f"no budget below {smallest_budget(count):.2g}" if count else "nothing"
            lines.append(f"{name}, {group}: {count} clean models{without}; promises {promise}")
    return [*lines, f"wrote {out}"]
