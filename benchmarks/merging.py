"""Run folders that were made apart become one: shards of a cluster's job, or later additions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from moth_eval.errors import InputError, RunError
from moth_eval.hardening_cells import CELLS, outcome_path
from moth_eval.hardening_study_records import (
    HardeningStudyFolder,
    HardeningStudyManifest,
    StudyModel,
)
from moth_eval.records import (
    LEDGER,
    LOGS,
    MANIFEST,
    TRIGGERS,
    RunFolder,
    RunManifest,
    write_whole,
)

from .run_states import kind_of
from .sittings import Difference, refuse_differences

ORIGINALS = "originals"


def merge(runs: Sequence[Path], out: Path) -> str:
    """Put everything that is in `runs` into `out` as well; the kind of run that it is.

    What is in `out` already stays and counts; the runs are left as they are. Reports are not built.

    Args:
        runs: folders of runs of one kind, on the same models, with the same settings.
        out: a run folder of that kind, or a new one.

    Raises:
        InputError: there is nothing to merge, or runs of this kind cannot be merged.
        RunError: a folder is no run, or the runs differ in what must be the same.
    """
    sources = [run for run in runs if run.resolve() != out.resolve()]
    if (out / MANIFEST).is_file():
        sources = [out, *sources]
    if not sources:
        raise InputError("expected run folders to merge, got none")
    kinds = {run: kind_of(run) for run in sources}
    different = sorted(set(kinds.values()))
    if len(different) > 1:
        raise InputError(f"expected runs of one kind, got {', '.join(different)}")
    [kind] = different
    if kind not in _MERGERS:
        known = ", ".join(sorted(_MERGERS))
        raise InputError(f"runs of the kind {kind!r} cannot be merged, only those of {known}")
    _MERGERS[kind](sources, out)
    return kind


def _merge_scans(runs: Sequence[Path], out: Path) -> None:
    manifests = {run: RunFolder(run).manifest() for run in runs}
    merged = next(iter(manifests.values()))
    for run, manifest in list(manifests.items())[1:]:
        refuse_differences(run, _scan_differences(merged, manifest))
        merged = _both_scans(merged, manifest)
    for run in runs:
        for part in (LEDGER, TRIGGERS, LOGS):
            _copy(run / part, out / part)
    entries = tuple(sorted(merged.entries, key=lambda entry: entry.name))
    RunFolder(out).write_manifest(merged.model_copy(update={"entries": entries}))


def _scan_differences(old: RunManifest, new: RunManifest) -> list[Difference]:
    names = ("models", "seed", "architecture", "examples")
    pairs: list[Difference] = [(n, getattr(old, n), getattr(new, n)) for n in names]
    pairs.append(("the device", old.device.partition(":")[0], new.device.partition(":")[0]))
    shared = old.scanners.keys() & new.scanners.keys()
    pairs += [(f"scanner {name}", old.scanners[name], new.scanners[name]) for name in shared]
    pairs += _versions(old.versions, new.versions)
    here = {entry.name: entry for entry in old.entries}
    for entry in new.entries:
        before = here.get(entry.name, entry)
        pairs.append((f"model {entry.name}, of hash", before.sha256, entry.sha256))
    return pairs


def _both_scans(old: RunManifest, new: RunManifest) -> RunManifest:
    entries = {entry.name: entry for entry in old.entries}
    for entry in new.entries:
        before = entries.get(entry.name, entry)
        keys = {**before.keys, **entry.keys}
        entries[entry.name] = entry.model_copy(update={"keys": keys})
    return old.model_copy(
        update={
            "scanners": {**old.scanners, **new.scanners},
            "entries": tuple(entries.values()),
            "created": min(old.created, new.created),
        }
    )


def _merge_cells(runs: Sequence[Path], out: Path) -> None:
    manifests = {run: HardeningStudyFolder(run).manifest() for run in runs}
    merged = next(iter(manifests.values()))
    for run, manifest in list(manifests.items())[1:]:
        refuse_differences(run, _study_differences(merged, manifest))
        merged = _both_studies(merged, manifest)
    for run in runs:
        _copy(run / ORIGINALS, out / ORIGINALS)
        _copy_cells(run / CELLS, out / CELLS)
    HardeningStudyFolder(out).write_manifest(merged)


def _study_differences(
    old: HardeningStudyManifest, new: HardeningStudyManifest
) -> list[Difference]:
    names = (
        "models", "data_sha256", "test_sha256", "share", "first", "architecture",
        "distance_pairs", "distance_seeds", "distance_precision",
    )  # fmt: skip
    pairs: list[Difference] = [(n, getattr(old, n), getattr(new, n)) for n in names]
    pairs.append(("the device", old.device.partition(":")[0], new.device.partition(":")[0]))
    shared = old.methods.keys() & new.methods.keys()
    pairs += [(f"method {name}", old.methods[name], new.methods[name]) for name in shared]
    return pairs + _versions(old.versions, new.versions)


def _both_studies(
    old: HardeningStudyManifest, new: HardeningStudyManifest
) -> HardeningStudyManifest:
    from .cells import folder_names

    methods = {**old.methods, **new.methods}
    seeds = tuple(dict.fromkeys([*old.seeds, *new.seeds]))
    known = {entry.name: entry for entry in [*new.entries, *old.entries]}
    folders = folder_names(sorted(known), list(methods), seeds)
    entries = tuple(
        StudyModel(
            name=name, file=known[name].file, sha256=known[name].sha256, folders=folders[name]
        )
        for name in sorted(known)
    )
    return old.model_copy(
        update={
            "methods": methods,
            "seeds": seeds,
            "entries": entries,
            "created": min(old.created, new.created),
        }
    )


def _versions(old: Mapping[str, str], new: Mapping[str, str]) -> list[Difference]:
    return [(name, old.get(name), new.get(name)) for name in ("torch", "moth-eval")]


def _copy(source: Path, target: Path) -> None:
    """Copy every file that is not there yet; a file that is there has the same content."""
    for path in _files(source):
        there = target / path.relative_to(source)
        if there.exists():
            if there.read_bytes() != path.read_bytes() and path.suffix != ".lock":
                raise RunError(
                    f"{path} and {there} differ, though they are to be the same: merge into a new "
                    "folder, and leave one of the runs out"
                )
            continue
        write_whole(there, path.read_bytes())


def _copy_cells(source: Path, target: Path) -> None:
    """Copy cells that are not in the target; one with a card is worth more than one without."""
    for folder in sorted(path for path in source.glob("*") if path.is_dir()):
        there = target / folder.name
        if (there / "card.json").is_file():
            continue
        if there.exists() and not (folder / "card.json").is_file():
            continue
        shutil.rmtree(there, ignore_errors=True)
        outcome_path(there).unlink(missing_ok=True)
        _copy(folder, there)
    for outcome in sorted(source.glob("*.json")):
        there = target / outcome.name
        if not there.exists() and not (target / outcome.stem / "card.json").is_file():
            write_whole(there, outcome.read_bytes())


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")


_MERGERS: Mapping[str, Callable[[Sequence[Path], Path], None]] = {
    "trojai": _merge_scans,
    "hardening-study": _merge_cells,
}
