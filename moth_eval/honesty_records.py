"""What `moth-eval honesty` writes, and how it is read back. No torch here.

A run folder holds::

    run.json                    one HonestyManifest
    checks/<name>.json          one CheckRecord per finished check, written whole
    honesty.json, *.csv ...     made from the above by `reports`, never read back
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from .distance_table import Pair
from .errors import RunError
from .hardening_records import AccuracyRecord, IntervalRecord, read_record
from .inverter_table import InverterCheck, PairCheck, Restarts
from .records import ManifestFolder, PlainName, Record, write_whole

CHECKS = "checks"


class NetworkRecord(Record):
    """One of the two networks."""

    name: str
    model: str
    """Absolute path of the model file."""
    sha256: str
    architecture: str
    """Name of the network, as read from the file or given."""
    architecture_option: str
    """What `--arch` or `--arch-after` said."""
    normalisation: str
    doubts: tuple[str, ...]


class AttackRecord(Record):
    """Projected gradient descent; see `moth_eval.robustness.PGD`."""

    epsilon: float
    step_size: float
    steps: int
    random_start: bool
    restarts: int


class ChecksRecord(Record):
    """What was asked for; see `moth_eval.honesty.HonestySettings`."""

    pairs: tuple[Pair, ...]
    restarts: int
    images_per_class: int
    schedule: dict[str, Any]
    signed_schedule: dict[str, Any]
    attacks: tuple[AttackRecord, ...]
    patch_kinds: tuple[str, ...]
    patch_sizes: tuple[int, ...]
    patch_tries: int
    precision: str


class HonestyManifest(Record):
    """What a run is: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["honesty"] = "honesty"
    created: datetime
    command: tuple[str, ...]
    before: NetworkRecord
    after: NetworkRecord
    num_classes: int
    image_shape: tuple[int, int, int]
    examples: str
    """Absolute path of the images."""
    examples_sha256: str
    """Hash of images and labels as they were read and used."""
    example_count: int
    settings: ChecksRecord
    pairs_named: bool
    """Whether `--pairs` named the pairs."""
    checks: tuple[PlainName, ...]
    """Names of all checks, in order."""
    notes: tuple[str, ...] = ()
    """What to know before the figures are read."""
    seed: int
    device: str
    threads: int
    versions: dict[str, str]


class RestartsRecord(Record):
    """What the restarts found for one pair on one network; see `moth_eval.inverter_table`."""

    sizes: tuple[float | None, ...]
    """Size of each restart's trigger; null where it missed the success rate."""
    asrs: tuple[float, ...]
    transferred: float | None
    """ASR on the other network of the smallest trigger found here."""

    @property
    def restarts(self) -> Restarts:
        """The same as the table has it."""
        return Restarts(sizes=self.sizes, asrs=self.asrs, transferred=self.transferred)


class PairCheckRecord(Record):
    """One pair of classes under one inverter."""

    source: int
    target: int
    before: RestartsRecord
    after: RestartsRecord


class InverterRecord(Record):
    """All pairs under one inverter."""

    inverter: str
    success_rate: float
    """ASR that makes a trigger valid."""
    pairs: tuple[PairCheckRecord, ...]

    @property
    def check(self) -> InverterCheck:
        """The table, from which growth and scatter follow."""
        return InverterCheck(
            inverter=self.inverter,
            success_rate=self.success_rate,
            pairs=tuple(
                PairCheck(
                    source=pair.source,
                    target=pair.target,
                    before=pair.before.restarts,
                    after=pair.after.restarts,
                )
                for pair in self.pairs
            ),
        )


class RateRecord(Record):
    """A counted fraction."""

    value: float
    hits: int
    n: int
    interval: IntervalRecord


class RobustnessRecord(Record):
    """Robust accuracy under one attack."""

    attack: AttackRecord
    before: RateRecord
    after: RateRecord
    per_class_before: tuple[RateRecord | None, ...]
    """Null for a class without images."""
    per_class_after: tuple[RateRecord | None, ...]


class CurvePointRecord(Record):
    """ASR at one patch size."""

    size: int
    asr: float
    n: int
    """Stamped images, all pairs together."""
    interval: IntervalRecord
    per_pair: tuple[float, ...]


class CurveRecord(Record):
    """ASR of growing patches of one kind."""

    kind: str
    before: tuple[CurvePointRecord, ...]
    after: tuple[CurvePointRecord, ...]


class CheckRecord(Record):
    """One finished check; one of the four results is there."""

    schema_version: Literal[1] = 1
    name: str
    accuracy: AccuracyRecord | None = None
    inverter: InverterRecord | None = None
    robustness: RobustnessRecord | None = None
    curve: CurveRecord | None = None
    forward_passes: int
    """Images that went forward through both networks."""
    backward_passes: int
    seconds: float
    """Wall-clock time (s)."""


class HonestyFolder(ManifestFolder[HonestyManifest]):
    """The folder of honesty checks."""

    schema = HonestyManifest
    kind = "run of honesty checks"

    def records(self) -> dict[str, CheckRecord]:
        """Name -> record of every finished check, in the order of the manifest.

        Raises:
            RunError: the manifest or a record is damaged.
        """
        found = {}
        for name in self.manifest().checks:
            path = self._file(name)
            if not path.is_file():
                continue
            found[name] = read_record(path, CheckRecord)
            if found[name].name != name:
                raise RunError(
                    f"{path} holds the check {found[name].name!r}, expected {name!r}: delete it, "
                    "and the same command makes the check again"
                )
        return found

    def write(self, record: CheckRecord) -> None:
        """Keep a finished check; once this returns it survives a power cut."""
        write_whole(self._file(record.name), record.model_dump_json(indent=2).encode() + b"\n")

    def _file(self, name: str) -> Path:
        return self.path / CHECKS / f"{name}.json"
