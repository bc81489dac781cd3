"""What a run leaves on disk, and how it is read back. No torch here: reports read it without.

A run folder holds::

    run.json                    one RunManifest, replaced whole
    ledger/<writer>.jsonl       one LedgerLine per line, append-only, one file per writer
    triggers/<model>--<scanner>--<key>.npz   arrays targets, sources (-1: any), masks, patterns,
                                sizes, asrs, valid; one row per inverted trigger
    logs/<model>--<scanner>.log what the work wrote while it was under way, if anything
    results.csv, report.html ... made from the above by `reports`, never read back
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, field_validator

from .errors import RunError
from .run_files import LARGEST_LEDGER, LARGEST_RECORD, read_file
from .run_files import write_whole as write_whole

SCHEMA_VERSION = 1
RESULT_VERSION = 6
"""Of scans: raised when a scanner would give another result for a model than before."""

SCORES_SINCE = 6
"""Results of this version and later have equal scores; later ones differ in what stands beside."""

MANIFEST = "run.json"
LEDGER = "ledger"
TRIGGERS = "triggers"
LOGS = "logs"


class Record(BaseModel):
    """Base of all records: frozen, and unknown or mistyped fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _writable(cls, value: object) -> object:
        """Text that UTF-8 cannot hold (a file's name may be any bytes) is spelled out."""
        return _writable(value)


def _writable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple | list):
        return type(value)(_writable(part) for part in value)
    if isinstance(value, dict):
        return {_writable(key): _writable(part) for key, part in value.items()}
    return value


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"expected the name of a file or folder in its place, got {name!r}")
    return name


def _inner(path: str) -> str:
    for part in path.split("/"):
        _plain(part)
    return path


PlainName = Annotated[str, AfterValidator(_plain)]
"""Name of a file or folder in a place that is known: it leads nowhere else."""
InnerPath = Annotated[str, AfterValidator(_inner)]
"""Path of a file in a folder that is known: it does not lead out of it."""


class Truth(Record):
    """What is known of a model by construction; held by the study, never by a scanner."""

    poisoned: bool
    trigger_type: str = ""
    """`polygon`, `patch`, `instagram` ...; joined by `+` when there are several; empty if clean."""
    targets: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    """Classes that the trigger flips; empty: every class but the target."""
    errata: str = ""
    """Why this model is left out of metrics, if it is."""


class ModelEntry(Record):
    """One model of a run, as found in the folder of models."""

    name: str
    file: str
    """Path of the model file relative to `RunManifest.models`."""
    sha256: str
    architecture: str = ""
    truth: Truth | None = None
    keys: dict[str, str] = {}
    """Scanner name -> key of the task; a record with another key is not of this run."""


class RunManifest(Record):
    """What a run is: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["trojai"] = "trojai"
    created: datetime
    command: tuple[str, ...]
    models: str
    """Absolute path of the folder of models."""
    seed: int
    device: str
    """Device as resolved, such as `cpu` or `cuda:0`."""
    scanners: dict[str, dict[str, Any]]
    """Scanner name -> its parameters."""
    versions: dict[str, str]
    """Distribution -> version, plus `python` and `platform`."""
    architecture: str = ""
    """What `--arch` said."""
    normalisation: str = ""
    """What `--normalisation` said; empty: what side-cars state, else found by trial."""
    examples: str = ""
    """Absolute path that `--examples` named; empty: the models' own."""
    timeout_seconds: float | None = None
    entries: tuple[ModelEntry, ...]


class RuleRecord(Record):
    """A scanner's own cut; see `moth_eval.scan.Rule`."""

    name: str
    threshold: float
    false_alarm_rate: float | None
    """By simulation; None: not known."""
    source: str
    origin: Literal["published", "ours", "given"] = "published"


class TriggerRecord(Record):
    """Size and success rate of one inverted trigger; the pixels are in the `.npz`."""

    target: int
    source: int | None
    size: float
    asr: float
    valid: bool


class EvidenceRecord(Record):
    """One figure of a class or a pair of classes; see `moth_eval.scan.Evidence`."""

    what: str
    value: float
    target: int | None
    source: int | None


class AttemptRecord(Record):
    """One attempt at a task that was made again."""

    status: Literal["failed", "crashed", "timed-out", "out-of-memory", "lost"]
    """`lost`: it was begun, and the run ended before it did."""
    reason: str
    seconds: float | None
    """Wall-clock time (s); None where nobody was left to take it."""
    peak_memory_bytes: int = 0


LOST = AttemptRecord(
    status="lost", reason="the run ended while this attempt was under way", seconds=None
)


class ScanRecord(Record):
    """One model x scanner: the row that every table is made from."""

    schema_version: Literal[1] = 1
    key: str
    """Hash of all that decides the result; equal keys mean the work need not be repeated."""
    model: str
    scanner: str
    sha256: str
    status: Literal[
        "scored", "inconclusive", "refused", "timed-out", "failed", "crashed", "out-of-memory"
    ]
    reason: str = ""
    attempts: tuple[AttemptRecord, ...] = ()
    """Attempts before the one that is recorded, oldest first."""
    score: float | None = None
    target: int | None = None
    source: int | None = None
    architecture: str = ""
    num_classes: int | None = None
    image_shape: tuple[int, int, int] | None = None
    clean_accuracy: float | None = None
    """Fraction of clean examples classified rightly, in [0, 1]."""
    examples: int = 0
    normalisation: str = ""
    normalisations_tried: dict[str, float] = {}
    """Name of every candidate -> clean-example accuracy under it."""
    doubts: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    """What the kernel held the process to that opened the model file."""
    rule: RuleRecord | None = None
    triggers: tuple[TriggerRecord, ...] = ()
    evidence: tuple[EvidenceRecord, ...] = ()
    triggers_file: str = ""
    """Path of the `.npz` relative to the run folder; empty if there is none."""
    triggers_sha256: str = ""
    seed: int = 0
    device: str = ""
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0

    @property
    def cut(self) -> float | None:
        """The scanner's own cut; None without one."""
        return self.rule.threshold if self.rule else None

    @property
    def above_cut(self) -> bool | None:
        """Whether the score lies above the scanner's cut; None without a score or a cut."""
        return None if self.cut is None or self.score is None else self.score > self.cut


class LedgerLine(Record):
    """One line of a ledger file.

    An attempt at a task begins with `start`. It ends with `retry` if another one follows, else with
    `end`; with neither, the run ended first.
    """

    event: Literal["start", "retry", "end"]
    key: str
    model: str
    scanner: str
    attempt: AttemptRecord | None = None
    """Present on `retry` only."""
    record: ScanRecord | None = None
    """Present on `end` only."""


def sealed(record: Record) -> bytes:
    """A record as a line of a ledger: JSON with a checksum in front, ended by a newline."""
    body = record.model_dump_json().encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def unsealed(raw: bytes) -> bytes:
    """The JSON of such a line; raises `ValueError` if the line is cut or altered."""
    checksum, _, body = raw.rstrip(b"\n").partition(b" ")
    if not body or int(checksum, 16) != zlib.crc32(body):
        raise ValueError("checksum does not fit the line")
    return body


def encode(line: LedgerLine) -> bytes:
    """The line as it is written: JSON with a checksum in front, ended by a newline."""
    return sealed(line)


def decode(raw: bytes) -> LedgerLine:
    """The line back; raises `ValueError` if it is cut, altered or of another schema."""
    return LedgerLine.model_validate_json(unsealed(raw))


M = TypeVar("M", bound=Record)


class ManifestFolder(Generic[M]):
    """Read access to a run folder, and the atomic write of its manifest.

    A kind of run is a subclass that says what its manifest is, and reads the rest.

    Attributes:
        path: of the folder.
        schema: what the manifest has to be.
        kind: what such a run is called, such as `hardening study`.
    """

    schema: type[M]
    kind: str

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def exists(self) -> bool:
        """Whether a manifest is there."""
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> M:
        """The manifest.

        Raises:
            RunError: there is none, or it is damaged, of another version or another kind of run.
        """
        path = self.path / MANIFEST
        try:
            return self.schema.model_validate_json(read_file(path))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} is not a run folder: expected a file {MANIFEST} in it; "
                "give the folder that --out named"
            ) from None
        except ValidationError as error:
            raise RunError(
                f"{path} cannot be read as the manifest of a {self.kind}, schema version "
                f"{SCHEMA_VERSION}: {error.errors()[0]['msg']}; it was damaged, or written by "
                "another version or another command"
            ) from error

    def write_manifest(self, manifest: M) -> None:
        """Replace the manifest in one step: readers see the old one or the new one.

        Raises:
            RunError: it is larger than what `manifest` reads.
        """
        content = manifest.model_dump_json(indent=2).encode() + b"\n"
        if len(content) > LARGEST_RECORD:
            raise RunError(
                f"the manifest of {self.path} would have {len(content):,} bytes, at most "
                f"{LARGEST_RECORD:,} are read; divide the models among several runs"
            )
        write_whole(self.path / MANIFEST, content)


class RunFolder(ManifestFolder[RunManifest]):
    """The folder of a run of scans."""

    schema = RunManifest
    kind = "run"

    def lines(self) -> Iterator[LedgerLine]:
        """Every intact ledger line, file by file in order of name.

        A torn last line of a file (the writer was killed) is skipped.

        Raises:
            RunError: a line that is not the last one of its file is damaged.
        """
        for path in sorted((self.path / LEDGER).glob("*.jsonl")):
            raw = read_file(path, largest=LARGEST_LEDGER).split(b"\n")
            for number, line in enumerate(raw, start=1):
                if not line:
                    continue
                try:
                    yield decode(line)
                except ValueError as error:
                    if number == len(raw):
                        continue
                    raise RunError(
                        f"{path}, line {number} is damaged ({error}); restore the file from a "
                        "copy, or delete that line: its task will be run again"
                    ) from error

    def records(self) -> dict[str, ScanRecord]:
        """Task key -> its record, as `records_of` has it."""
        return records_of(self.lines())


def records_of(lines: Iterable[LedgerLine]) -> dict[str, ScanRecord]:
    """Task key -> its record: the last with an answer, else the last; the newest come last.

    Another attempt, or a merged run, that came to nothing takes no score away.
    """
    records: dict[str, ScanRecord] = {}
    for line in lines:
        if line.record is not None:
            before = records.pop(line.key, line.record)
            worse = _ANSWERS.get(line.record.status, 0) < _ANSWERS.get(before.status, 0)
            records[line.key] = before if worse else line.record
    return records


_ANSWERS = {"scored": 2, "refused": 2, "inconclusive": 1}  # how much of an answer a status is


def canonical(value: object) -> str:
    """Canonical JSON: equal values give equal text, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
