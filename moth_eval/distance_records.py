"""What a run of `moth-eval distance` writes, and how it is read back. No torch here.

A run folder holds::

    run.json                        one DistanceManifest, replaced whole
    ledger/<sitting>.jsonl          one DistanceRecord per line, append-only, one file per sitting
    triggers/<source>-<target>-<seed>.npz   mask, pattern and an image, of the smallest pairs only
    distance.csv, distance.json ... made from the above by `reports`, never read back
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .distance_table import ClassDistances, Pair, SeedDistance
from .errors import RunError
from .records import (
    LEDGER,
    TRIGGERS,
    ManifestFolder,
    Record,
    sealed,
    unsealed,
)

KEPT_PAIRS = 6
"""Pairs whose triggers are kept as pixels, smallest first."""


class ProtocolRecord(Record):
    """How the distances are measured; see `moth_eval.distance.DistanceProtocol`."""

    preset: str
    samples: int
    seeds: tuple[int, ...]
    success_rate: float
    precision: str
    schedule: dict[str, Any]
    """The preset's hyper-parameters as they were used."""


class DistanceManifest(Record):
    """What a run is: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["distance"] = "distance"
    created: datetime
    command: tuple[str, ...]
    name: str
    """The model's name in tables."""
    model: str
    """Absolute path of the model file."""
    sha256: str
    architecture: str
    """Name of the network, as read from the file or given."""
    architecture_option: str = ""
    """What `--arch` said."""
    normalisation: str
    num_classes: int
    image_shape: tuple[int, int, int]
    examples: str
    """Absolute path of the images; those that lie with the model if `--examples` was not given."""
    examples_sha256: str
    """Hash of images and labels as they were read and used."""
    example_count: int
    clean_accuracy: float
    """Fraction of the images that the model classifies rightly, in [0, 1]."""
    doubts: tuple[str, ...] = ()
    protocol: ProtocolRecord
    stability_sets: int | None = None
    """Sets of samples of a stability study; null where distances are minima over seeds."""
    pairs: tuple[Pair, ...]
    device: str
    threads: int
    versions: dict[str, str]


class DistanceRecord(Record):
    """One finished inversion: a pair under a seed."""

    source: int
    target: int
    seed: int
    distance: float | None
    """Sum of the mask over all channels; null if not valid."""
    asr: float
    valid: bool
    samples: int
    steps: int
    trigger_sha256: str
    """Hash of the `.npz` of the trigger, whether it is still kept or not."""
    seconds: float
    """Wall-clock time since the sitting began (s)."""

    @property
    def row(self) -> SeedDistance:
        """The result without its provenance."""
        return SeedDistance(**self.model_dump(exclude={"trigger_sha256", "seconds"}))

    @property
    def trigger_file(self) -> str:
        """Where its trigger is, or was, relative to the run folder."""
        return f"{TRIGGERS}/{self.source}-{self.target}-{self.seed}.npz"


def encode_record(record: DistanceRecord) -> bytes:
    """The line of a ledger: JSON with a checksum in front, ended by a newline."""
    return sealed(record)


def decode_record(raw: bytes) -> DistanceRecord:
    """The record back; raises `ValueError` if the line is cut, altered or of another schema."""
    return DistanceRecord.model_validate_json(unsealed(raw))


def kept_records(records: dict[tuple[Pair, int], DistanceRecord]) -> list[DistanceRecord]:
    """The smallest valid record of each of the smallest pairs, smallest first."""
    best: dict[Pair, DistanceRecord] = {}
    for (pair, _), record in records.items():
        before = best.get(pair)
        if record.valid and (before is None or _order(record) < _order(before)):
            best[pair] = record
    return sorted(best.values(), key=_order)[:KEPT_PAIRS]


def _order(record: DistanceRecord) -> tuple[float, int, int, int]:
    distance = math.inf if record.distance is None else record.distance
    return distance, record.source, record.target, record.seed


class DistanceFolder(ManifestFolder[DistanceManifest]):
    """The folder of a distance run."""

    schema = DistanceManifest
    kind = "distance run"

    def sittings(self) -> Iterator[list[DistanceRecord]]:
        """The intact records of every sitting, oldest first.

        A torn last line of a file (the writer was killed) is skipped.

        Raises:
            RunError: a line that is not the last one of its file is damaged.
        """
        for path in sorted((self.path / LEDGER).glob("*.jsonl")):
            yield list(_intact(path))

    def records(self) -> dict[tuple[Pair, int], DistanceRecord]:
        """Pair and seed -> its record; the last one counts."""
        return {(r.row.pair, r.seed): r for sitting in self.sittings() for r in sitting}

    def distances(self) -> ClassDistances:
        """The pairs that are finished under all their seeds, with the time of all sittings."""
        manifest, sittings = self.manifest(), [s for s in self.sittings() if s]
        records = {(r.row.pair, r.seed): r for sitting in sittings for r in sitting}
        seeds = manifest.protocol.seeds
        finished = [p for p in manifest.pairs if all((p, seed) in records for seed in seeds)]
        return ClassDistances(
            num_classes=manifest.num_classes,
            rows=tuple(records[pair, seed].row for pair in finished for seed in seeds),
            seconds=sum(max(r.seconds for r in s) for s in sittings),
        )


def _intact(path: Path) -> Iterator[DistanceRecord]:
    raw = path.read_bytes().split(b"\n")
    for number, line in enumerate(raw, start=1):
        if not line:
            continue
        try:
            yield decode_record(line)
        except ValueError as error:
            if number == len(raw):
                continue
            raise RunError(
                f"{path}, line {number} is damaged ({error}); restore the file from a copy, or "
                "delete that line: its pair will be measured again"
            ) from error
