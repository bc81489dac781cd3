"""How run folders of every kind stand: what is done, what is not, and whether they are sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

from moth_eval.distance_records import DistanceFolder, kept_records
from moth_eval.errors import MothError, RunError
from moth_eval.false_positive_records import AFTER, AGAIN, BEFORE, FalsePositivesFolder, flag
from moth_eval.hardening_cells import CELLS, CellState, read_cell
from moth_eval.hardening_records import CARD, WEIGHTS, HardeningCard, read_record
from moth_eval.hardening_study_records import HardeningStudyFolder
from moth_eval.honesty_records import HonestyFolder
from moth_eval.loading.formats import opened
from moth_eval.records import LEDGER, MANIFEST, AttemptRecord, RunFolder, unsealed
from moth_eval.removal_records import REMOVAL, RemovalCard, RemovalFolder, files_of
from moth_eval.run_files import LARGEST_LEDGER, entries_in, read_file, read_json
from moth_eval.scan_calibration import POLICY

PENDING = "pending"
DONE = "done"

DEEPEST = 32
"""Folders above a run folder that are looked through for it."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of a run's work.

    Attributes:
        name: what it is.
        status: `pending`, `done`, or what the run's tables call it.
        reason: one sentence; empty where there is nothing to say.
        attempts: those before the last one.
    """

    name: str
    status: str
    reason: str = ""
    attempts: tuple[AttemptRecord, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunState:
    """How a run stands.

    Attributes:
        path: its folder.
        kind: what its manifest says that it is; empty if there is none to read.
        created: when it was begun; empty if that cannot be read.
        command: what it was called with.
        versions: of the distributions that made it.
        pieces: all of its work, in the order of its tables.
        problem: why the folder cannot be read; empty if it can.
    """

    path: Path
    kind: str = ""
    created: str = ""
    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    pieces: tuple[Piece, ...] = ()
    problem: str = ""

    @property
    def command_word(self) -> str:
        """Which command it is of: the kind, but for `scan`, whose runs are those of `trojai`."""
        return "scan" if self.kind == "trojai" and (self.path / POLICY).is_file() else self.kind

    @property
    def counts(self) -> dict[str, int]:
        """Status -> pieces of work, the commonest first."""
        return dict(Counter(piece.status for piece in self.pieces).most_common())

    @property
    def done(self) -> int:
        """Pieces of work that have been carried out, however they ended."""
        return sum(piece.status != PENDING for piece in self.pieces)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return not self.problem and self.done == len(self.pieces)


def find_runs(folder: Path) -> list[Path]:
    """Every run folder in a folder, by name; runs inside another run are parts of it.

    A link may stand for a run folder; what else it leads to is not looked through.
    """
    if _is_run(folder):
        return [folder]
    return list(_runs_in(folder, DEEPEST)) if folder.is_dir() else []


def _runs_in(folder: Path, depth: int) -> Iterator[Path]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if _is_run(inner):
            yield inner
        elif depth and not inner.is_symlink():
            yield from _runs_in(inner, depth - 1)


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (MANIFEST, CARD))


def kind_of(run: Path) -> str:
    """What kind of run a folder holds.

    Raises:
        RunError: it is no run folder.
    """
    try:
        return str(_manifest(run)["kind"])
    except (OSError, RunError, KeyError) as error:
        raise RunError(f"{run} is not a run folder: {MANIFEST} cannot be read ({error})") from error


def state_of(run: Path) -> RunState:
    """How the run in a folder stands; a folder that cannot be read is a state too."""
    kind = ""
    try:
        manifest = _manifest(run)
        kind = str(manifest["kind"])
        return RunState(
            path=run,
            kind=kind,
            pieces=tuple(_KINDS[kind](run)),
            created=str(manifest["created"]),
            command=tuple(map(str, manifest["command"])),
            versions={name: str(version) for name, version in manifest["versions"].items()},
        )
    except RunError as error:
        return RunState(path=run, kind=kind, problem=str(error))
    except KeyError as error:
        return RunState(path=run, problem=f"{run} is of no known kind of run ({error})")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return RunState(path=run, problem=f"{run / MANIFEST} cannot be read: {error}")


def _manifest(run: Path) -> dict[str, Any]:
    """A run's manifest as it stands in the file; a finished hardening keeps it in its card."""
    if (run / CARD).is_file() and not (run / MANIFEST).is_file():
        return _table(_table(read_json(run / CARD), run / CARD)["run"], run / CARD)
    return _table(read_json(run / MANIFEST), run / MANIFEST)


def _table(value: object, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise RunError(f"{path} cannot be read: expected a table of names, got a {kind}")
    return value


def _trojai(run: Path) -> Iterator[Piece]:
    folder = RunFolder(run)
    manifest = folder.manifest()
    records = {(r.model, r.scanner, r.sha256, r.key): r for r in folder.records().values()}
    keyless = {key[:3]: record for key, record in records.items()}
    for entry in manifest.entries:
        for scanner in manifest.scanners:
            name, same = f"{entry.name} under {scanner}", (entry.name, scanner, entry.sha256)
            key = entry.keys.get(scanner)
            record = records.get((*same, key)) if key else keyless.get(same)
            if record is None:
                yield Piece(name=name, status=PENDING)
            else:
                yield Piece(
                    name=name,
                    status=record.status,
                    reason=record.reason,
                    attempts=record.attempts,
                )


def _distance(run: Path) -> Iterator[Piece]:
    folder = DistanceFolder(run)
    manifest, records = folder.manifest(), folder.records()
    for pair in manifest.pairs:
        for seed in manifest.protocol.seeds:
            done = (pair, seed) in records
            name = f"{pair[0]} to {pair[1]}, seed {seed}"
            yield Piece(name=name, status=DONE if done else PENDING)


def _honesty(run: Path) -> Iterator[Piece]:
    folder = HonestyFolder(run)
    records = folder.records()
    for name in folder.manifest().checks:
        yield Piece(name=name, status=DONE if name in records else PENDING)


def _hardening(run: Path) -> Iterator[Piece]:
    if (run / CARD).is_file():
        card = read_record(run / CARD, HardeningCard)
        yield Piece(name=card.run.method, status=card.training.status, reason=card.training.reason)
    else:
        yield Piece(name="hardening", status=PENDING)


def _study(run: Path) -> Iterator[Piece]:
    return map(_cell, HardeningStudyFolder(run).cells())


def _cell(state: CellState) -> Piece:
    return Piece(name=state.label, status=state.status, reason=state.reason)


def _removal(run: Path) -> Iterator[Piece]:
    for state in RemovalFolder(run).cells():
        yield Piece(name=state.label, status=state.status, reason=state.reason)


def _false_positives(run: Path) -> Iterator[Piece]:
    manifest = FalsePositivesFolder(run).manifest()
    for part in (BEFORE, AGAIN, AFTER):
        if (run / part / MANIFEST).is_file():
            for piece in _trojai(run / part):
                yield Piece(name=f"{part}: {piece.name}", status=piece.status, reason=piece.reason)
    if not (run / BEFORE / MANIFEST).is_file():
        yield Piece(name=BEFORE, status=PENDING)
        return
    records = {record.model: record for record in RunFolder(run / BEFORE).records().values()}
    for model, name in manifest.folders.items():
        record = records.get(model)
        if record is None or not flag(record, manifest.threshold):
            continue
        cell = read_cell(
            run / CELLS / name,
            model=model,
            sha256=record.sha256,
            method=manifest.method,
            seed=manifest.seed,
        )
        yield _cell(cell)


_KINDS: Mapping[str, Callable[[Path], Iterator[Piece]]] = {
    "trojai": _trojai,
    "distance": _distance,
    "hardening": _hardening,
    "hardening-study": _study,
    "removal": _removal,
    "false-positives": _false_positives,
    "honesty": _honesty,
}


def unsound(state: RunState) -> Iterator[str]:
    """What is wrong with a run folder, in sentences; nothing if it is sound.

    Looked at are manifests, the checksum of every line of every ledger, and the hash of every file
    that a record names. A torn last line of a ledger is no damage: its writer was stopped.
    """
    run = state.path
    files = [Path(entry.path) for entry in entries_in(run)]
    yield from _damaged_lines(path for path in files if path.match(f"{LEDGER}/*.jsonl"))
    if state.problem:
        yield state.problem
        return
    parts = {path.parent for path in files if path.name in (MANIFEST, CARD)}
    for part in sorted(parts):
        inner = state if part == run else state_of(part)
        if inner.problem:
            yield inner.problem
        elif inner.kind in _FILES:
            yield from _FILES[inner.kind](part)
    for piece in state.pieces:
        if piece.status == "unreadable":
            yield f"{piece.name}: {piece.reason}"


def _damaged_lines(ledgers: Iterable[Path]) -> Iterator[str]:
    for path in sorted(ledgers):
        lines = read_file(path, largest=LARGEST_LEDGER).split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                if line:  # one that was emptied is one that was deleted
                    unsealed(line)
            except ValueError:
                yield f"{path}, line {number}: the checksum does not fit"


def _scan_files(run: Path) -> Iterator[str]:
    folder = RunFolder(run)
    current = {key for entry in folder.manifest().entries for key in entry.keys.values()}
    # Results of other keys may have lost their file to another one: it once had no key in its name.
    records = sorted(folder.records().values(), key=lambda record: record.key in current)
    named = {record.triggers_file: record.triggers_sha256 for record in records}
    for name, digest in named.items():
        if name:
            yield from _other_hash(run / name, digest)


def _distance_files(run: Path) -> Iterator[str]:
    for record in kept_records(DistanceFolder(run).records()):
        yield from _other_hash(run / record.trigger_file, record.trigger_sha256)


def _hardened_files(run: Path) -> Iterator[str]:
    if (run / CARD).is_file():
        training = read_record(run / CARD, HardeningCard).training
        if training.sha256:
            yield from _other_hash(run / WEIGHTS, training.sha256)


def _removal_files(run: Path) -> Iterator[str]:
    for path in sorted(run.glob(f"{CELLS}/*/{REMOVAL}")):
        try:
            files = files_of(path.parent, read_record(path, RemovalCard))
        except RunError:  # its cell is unreadable, which is told of it
            continue
        for file, digest in files.items():
            yield from _other_hash(file, digest)


def _other_hash(path: Path, expected: str) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing"
        return
    try:
        with opened(path) as file:
            same = file_digest(file, "sha256").hexdigest() == expected
    except MothError as error:
        yield f"{path}: {error}"
        return
    if not same:
        yield f"{path} is not the file that was written: its hash differs"


_FILES: Mapping[str, Callable[[Path], Iterator[str]]] = {
    "trojai": _scan_files,
    "distance": _distance_files,
    "hardening": _hardened_files,
    "removal": _removal_files,
}


def as_data(state: RunState) -> dict[str, Any]:
    """A state as JSON takes it."""
    return {
        "path": str(state.path),
        "kind": state.kind,
        "created": state.created,
        "command": list(state.command),
        "versions": dict(state.versions),
        "complete": state.complete,
        "problem": state.problem,
        "counts": state.counts,
        "pieces": [
            {
                "name": piece.name,
                "status": piece.status,
                "reason": piece.reason,
                "attempts": [attempt.model_dump() for attempt in piece.attempts],
            }
            for piece in state.pieces
        ],
    }
