"""One cell of a run's table, carried out again and held against the first time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moth_eval.cli import load_command
from moth_eval.distance_records import DistanceFolder
from moth_eval.errors import InputError
from moth_eval.hardening_cells import CellState
from moth_eval.hardening_study_records import HardeningStudyFolder, HardeningStudyManifest
from moth_eval.loading.architectures import imports_code
from moth_eval.loading.sources import TORCHVISION
from moth_eval.records import RunFolder, ScanRecord
from moth_eval.removal_records import RemovalFolder, RemovalManifest, RemovalState
from moth_eval.text import visible

from .run_states import kind_of
from .study_files import key_of, options_of_call
from .third_party import PREFIX

S = TypeVar("S", CellState, RemovalState)

Value = float | int | str | None

TRUSTED = ("detector", "arch", "engine", "address")
"""Options that may name programs, code and machines."""

IMAGES = ("data", "test", "examples")
"""Options that name images."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a cell, the first time and now."""

    name: str
    before: Value
    now: Value

    def agrees(self, tolerance: float) -> bool:
        """Whether both are equal; numbers up to `tolerance` of the larger one."""
        if isinstance(self.before, float) and isinstance(self.now, float):
            allowed = tolerance * max(abs(self.before), abs(self.now))
            return abs(self.before - self.now) <= allowed
        return self.before == self.now


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell and how it is carried out again.

    Attributes:
        command: the word of the command.
        options: by the names of a study file; `out` is left to the caller.
        figures: given a run folder, what the cell says there.
    """

    command: str
    options: Mapping[str, Any]
    figures: Callable[[Path], dict[str, Value]]

    def require_ours(self) -> None:
        """Refuses options that would run a program or code, or reach another machine.

        A run folder may come from anybody, and its record is what these options are read from.

        Raises:
            InputError: there is such an option; names it.
        """
        given = {name: self.options.get(name) for name in TRUSTED}
        if given["arch"] and not imports_code(str(given["arch"])):
            del given["arch"]
        # torchvision unpickles what lies in the folders of some of its data sets.
        named = {name: str(self.options.get(name) or "") for name in IMAGES}
        given |= {name: text for name, text in named.items() if text.startswith(TORCHVISION)}
        words = [f"--{name} {visible(_joined(value))}" for name, value in given.items() if value]
        if words:
            raise InputError(
                f"the record of the run asks for {', '.join(words)}: a program, code or a machine "
                "of its writer's choice would be run with your rights. If you made the run "
                "yourself, or trust who did, give --trust-run"
            )


def _joined(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def find_cell(run: Path, name: str) -> Cell:
    """The cell of that name in a run folder.

    Args:
        run: of scans: `MODEL` or `MODEL/SCANNER`; of a hardening or removal study:
            `MODEL/METHOD/SEED`; of distances: `SOURCE-TARGET`.
        name: the cell.

    Raises:
        InputError: there is no such cell, it has no result, or cells of this kind of run cannot be
            carried out by themselves.
        RunError: the folder is no run, or is damaged.
    """
    kind = kind_of(run)
    if kind not in _KINDS:
        known = ", ".join(sorted(_KINDS))
        raise InputError(f"cells of a run of the kind {kind!r} are not reproduced, only of {known}")
    return _KINDS[kind](run, name)


def held_together(before: Mapping[str, Value], now: Mapping[str, Value]) -> list[Figure]:
    """The figures of a cell, the first time and now, in the order of the first time."""
    names = dict.fromkeys([*before, *now])
    return [Figure(name=name, before=before.get(name), now=now.get(name)) for name in names]


def _scan(run: Path, name: str) -> Cell:
    manifest = RunFolder(run).manifest()
    models = [entry.name for entry in manifest.entries]
    # A detector's command line has slashes of its own.
    heads = [one for one in models if name == one or name.startswith(f"{one}/")]
    model = max(heads, key=len, default=name)
    scanner = name.removeprefix(model).removeprefix("/")
    scanners = list(manifest.scanners)
    if not scanner and len(scanners) == 1:
        scanner = scanners[0]
    if model not in models or scanner not in scanners:
        raise _no_cell(run, name, [f"{m}/{s}" for m in models for s in scanners])
    if " " in manifest.models and not Path(manifest.models).exists():
        raise InputError(
            f"{manifest.models} is not there, or names several folders: a cell can be carried out "
            "again where all models come from one"
        )
    known = {key_of(parameter) for parameter in load_command("trojai").params}
    # A run of scan or calibrate has settings that decide nothing about a score.
    given = {k: v for k, v in options_of_call(manifest.command).items() if k in known}
    third_party = scanner.startswith(PREFIX)
    options = {
        **given,
        "models": manifest.models,
        "scanner": [] if third_party else [scanner],
        "detector": [scanner.removeprefix(PREFIX)] if third_party else [],
        "only": [model],
        "seed": manifest.seed,
        "limit": None,
        "shard": None,
    }
    if manifest.examples:
        options["examples"] = manifest.examples
    if manifest.normalisation:
        options["normalisation"] = manifest.normalisation

    def figures(folder: Path) -> dict[str, Value]:
        at = RunFolder(folder)
        [entry] = [one for one in at.manifest().entries if one.name == model]
        record = at.records().get(entry.keys.get(scanner, ""))
        if record is not None:
            return _scan_figures(record)
        raise InputError(f"{folder}: {model} under {scanner} has no result")

    return Cell(command="trojai", options=options, figures=figures)


def _scan_figures(record: ScanRecord) -> dict[str, Value]:
    triggers = {
        f"size of the trigger to {t.target}"
        + ("" if t.source is None else f" from {t.source}"): t.size
        for t in record.triggers
    }
    return {
        "model file": record.sha256,
        "status": record.status,
        "score": record.score,
        "suspected target": record.target,
        "clean accuracy": record.clean_accuracy,
        **triggers,
    }


def _hardening(run: Path, name: str) -> Cell:
    folder = HardeningStudyFolder(run)
    states = {f"{c.model}/{c.method}/{c.seed}": c for c in folder.cells()}
    wanted = _state(run, name, states)
    options = _options(folder.manifest(), wanted, seeds=str(wanted.seed))

    def figures(at: Path) -> dict[str, Value]:
        for cell in HardeningStudyFolder(at).cells():
            if (cell.model, cell.method, cell.seed) == (wanted.model, wanted.method, wanted.seed):
                return _cell_figures(cell)
        raise InputError(f"{at}: {name} has no result")

    return Cell(command="hardening", options=options, figures=figures)


def _removal(run: Path, name: str) -> Cell:
    folder = RemovalFolder(run)
    states = {f"{c.model}/{c.method}/{c.seed}": c for c in folder.cells()}
    wanted = _state(run, name, states)
    options = _options(folder.manifest(), wanted, seeds=f"{wanted.seed},")

    def figures(at: Path) -> dict[str, Value]:
        for cell in RemovalFolder(at).cells():
            if (cell.model, cell.method, cell.seed) == (wanted.model, wanted.method, wanted.seed):
                return _repair_figures(cell)
        raise InputError(f"{at}: {name} has no result")

    return Cell(command="removal", options=options, figures=figures)


def _state(run: Path, name: str, states: Mapping[str, S]) -> S:
    if name not in states:
        raise _no_cell(run, name, list(states))
    return states[name]


def _options(
    manifest: HardeningStudyManifest | RemovalManifest,
    wanted: CellState | RemovalState,
    *,
    seeds: str,
) -> dict[str, Any]:
    """The options that carry out one cell of a study of cells."""
    options = {
        **options_of_call(manifest.command),
        "models": manifest.models,
        "data": manifest.data or None,
        "methods": None,
        "method": [wanted.method],
        "seeds": seeds,
        "only": [wanted.model],
        "shard": None,
    }
    if manifest.test:
        options["test"] = manifest.test
    if manifest.normalisation:
        options["normalisation"] = manifest.normalisation
    return options


def _repair_figures(cell: RemovalState) -> dict[str, Value]:
    if cell.card is None:
        return {"status": cell.status}
    figures: dict[str, Value] = {
        "model file": cell.card.sha256,
        "status": cell.status,
        "accuracy before": cell.card.before.rates.accuracy,
        "ASR before": cell.card.before.rates.asr,
    }
    for row in cell.card.variants:
        of = f" of {row.name}" if row.name else ""
        figures |= {
            f"accuracy after{of}": row.rates.accuracy,
            f"ASR after{of}": row.rates.asr,
            f"RA after{of}": row.rates.ra,
        }
    return figures


def _cell_figures(cell: CellState) -> dict[str, Value]:
    card = cell.card
    if card is None:
        return {"status": cell.status}
    accuracy, distance = card.accuracy, card.distance
    return {
        "model file": card.run.sha256,
        "status": cell.status,
        "accuracy before": accuracy.before if accuracy else None,
        "accuracy after": accuracy.after if accuracy else None,
        "mean distance before": distance.mean_before if distance else None,
        "mean distance after": distance.mean_after if distance else None,
    }


def _distance(run: Path, name: str) -> Cell:
    folder = DistanceFolder(run)
    manifest = folder.manifest()
    pairs = {f"{a}-{b}": (a, b) for a, b in manifest.pairs}
    if name not in pairs:
        raise _no_cell(run, name, list(pairs))
    options = {
        **options_of_call(manifest.command),
        "model": manifest.model,
        "examples": manifest.examples,
        "pairs": name,
    }

    def figures(at: Path) -> dict[str, Value]:
        records = DistanceFolder(at).records()
        return {
            f"distance under seed {seed}": record.distance
            for (pair, seed), record in records.items()
            if pair == pairs[name]
        }

    return Cell(command="distance", options=options, figures=figures)


def _no_cell(run: Path, name: str, known: Sequence[str]) -> InputError:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.4) or list(known[:1])
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(f"{run} has no cell {name!r}{hint}")


_KINDS: Mapping[str, Callable[[Path, str], Cell]] = {
    "trojai": _scan,
    "hardening-study": _hardening,
    "removal": _removal,
    "distance": _distance,
}
