"""Scores of clean models, gathered into a calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from moth_eval.scan_doubts import wrong_examples


def calibration_of(
    manifest: RunManifest, records: Sequence[ScanRecord], *, dataset: str, command: tuple[str, ...]
) -> Calibration:
    """The calibration that a run over clean models gives.

    Copies of one file count once; models that could not be opened are in no group, and those that
    were scanned with images of others have no score that counts.

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
    if not any(counts(r) for g in by_scanner.values() for rs in g.values() for r in rs):
        wrong = next((text for r in records if (text := wrong_examples(r))), "")
        said = f" that counts ({wrong})" if wrong else ""
        raise InputError(f"no clean model has a score{said}, so there is nothing to calibrate on")
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


def counts(record: ScanRecord) -> bool:
    """Whether a calibration rests on a scan: it has a score, on images that are the model's."""
    return record.score is not None and not wrong_examples(record)


def _group(records: Iterable[ScanRecord]) -> CalibrationGroup:
    once = {record.sha256: record for record in records}
    used = {sha: record for sha, record in once.items() if counts(record)}
    return CalibrationGroup(
        scores=tuple(sorted(r.score for r in used.values() if r.score is not None)),
        models=tuple(sorted(used)),
        unanswered=len(once) - len(used),
        examples=tuple(sorted({record.examples for record in used.values()})),
    )


def lines_of(calibration: Calibration, out: Path) -> list[str]:
    """What a calibration can promise, a line per scanner and group."""
    lines = []
    for name, scanner in calibration.scanners.items():
        for group, found in scanner.groups.items():
            count = len(found.scores)
            without = f", {found.unanswered} left out" if found.unanswered else ""
            promise = f"no budget below {smallest_budget(count):.2g}" if count else "nothing"
            lines.append(f"{name}, {group}: {count} clean models{without}; promises {promise}")
    return [*lines, f"wrote {out}"]
