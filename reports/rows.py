"""A run folder as rows: one per model and scanner, whether there is a result or not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moth_eval.records import (
    ModelEntry,
    RunFolder,
    RunManifest,
    ScanRecord,
    TriggerRecord,
    Truth,
    records_of,
)
from moth_eval.smallest_trigger import smallest_named

PENDING = "pending"

STATUSES = (
    "scored", "inconclusive", "refused", "timed-out", "failed", "crashed", "out-of-memory", PENDING,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model under one scanner.

    Attributes:
        entry: the model, as the manifest names it.
        scanner: name of the scanner.
        record: the result; None if there is none yet.
        remarks: what reading the ledger brought up, beside the record's own doubts.
    """

    entry: ModelEntry
    scanner: str
    record: ScanRecord | None = None
    remarks: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.entry.name

    @property
    def status(self) -> str:
        """One of `STATUSES`."""
        return self.record.status if self.record else PENDING

    @property
    def score(self) -> float | None:
        """The score; higher is more suspicious."""
        return self.record.score if self.record else None

    @property
    def truth(self) -> Truth | None:
        """What is known of the model by construction."""
        return self.entry.truth

    @property
    def label(self) -> int | None:
        """1 poisoned, 0 clean; None if unknown or left out of metrics by an erratum."""
        if self.truth is None or self.truth.errata:
            return None
        return int(self.truth.poisoned)

    @property
    def doubts(self) -> tuple[str, ...]:
        """All that speaks against taking the row at face value."""
        return (*(self.record.doubts if self.record else ()), *self.remarks)

    @property
    def above_cut(self) -> bool | None:
        """Whether the score lies above the scanner's own cut; None if that is undefined."""
        return self.record.above_cut if self.record else None

    @property
    def smallest(self) -> TriggerRecord | None:
        """Smallest valid trigger of the suspected pair, else of its target, else of all."""
        if self.record is None:
            return None
        valid = [t for t in self.record.triggers if t.valid]
        return smallest_named(valid, self.record.target, self.record.source)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read once.

    Attributes:
        path: the folder.
        manifest: what the run is.
        rows: every model under every scanner, in the order of the manifest.
        derived: rows of what is made from the scores, such as an ensemble; none of them is a scan.
    """

    path: Path
    manifest: RunManifest
    rows: tuple[Row, ...]
    derived: tuple[Row, ...] = ()

    @property
    def scanners(self) -> tuple[str, ...]:
        """Names of the scanners, in the order of the manifest."""
        return tuple(self.manifest.scanners)

    def of(self, scanner: str) -> tuple[Row, ...]:
        """The rows of one scanner, or of what was made from the scores."""
        return tuple(row for row in (*self.rows, *self.derived) if row.scanner == scanner)


def read_run(path: Path) -> Run:
    """The rows of a run folder.

    Raises:
        RunError: there is no manifest, or it or the ledger is damaged.
    """
    folder = RunFolder(path)
    manifest, lines = folder.manifest(), list(folder.lines())
    begun = {(line.model, line.scanner) for line in lines}
    records: dict[tuple[str, str], list[ScanRecord]] = defaultdict(list)
    for record in records_of(lines).values():
        records[record.model, record.scanner].append(record)
    rows = tuple(
        _row(entry, scanner, records[entry.name, scanner], begun=(entry.name, scanner) in begun)
        for entry in manifest.entries
        for scanner in manifest.scanners
    )
    return Run(path=path, manifest=manifest, rows=rows)


def _row(entry: ModelEntry, scanner: str, records: Sequence[ScanRecord], *, begun: bool) -> Row:
    current = [r for r in records if r.sha256 == entry.sha256]
    if scanner in entry.keys:
        current = [r for r in current if r.key == entry.keys[scanner]]
    remarks = []
    if len(current) > 1:
        remarks.append(f"scanned under {len(current)} different settings; the last result is shown")
    if len(current) < len(records):
        remarks.append("a result of another version of the model file or other settings is ignored")
    if begun and not records:
        remarks.append("a scan was started but left no result")
    return Row(
        entry=entry,
        scanner=scanner,
        record=current[-1] if current else None,
        remarks=tuple(remarks),
    )
