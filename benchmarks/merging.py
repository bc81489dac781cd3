"""Run folders that were made apart become one: shards of a cluster's job, or later additions."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from moth_eval.errors import InputError, RunError
from moth_eval.hardening_cells import CELLS, outcome_path
from moth_eval.hardening_records import CARD
from moth_eval.hardening_study_records import HardeningStudyFolder, HardeningStudyManifest
from moth_eval.records import LEDGER, LOGS, MANIFEST, TRIGGERS, RunFolder, RunManifest
from moth_eval.removal_records import REMOVAL, RemovalFolder, RemovalManifest
from moth_eval.run_files import (
    LARGEST_LEDGER,
    copy_file,
    entries_in,
    read_file,
    require_no_links,
    write_whole,
)

from .run_states import kind_of
from .sittings import Difference, first_unlike, same_ground

PARTIAL = ".partial"
"""Folder that a cell is in until it is whole."""

M = TypeVar("M", RunManifest, HardeningStudyManifest, RemovalManifest)
C = TypeVar("C", HardeningStudyManifest, RemovalManifest)
M_co = TypeVar("M_co", covariant=True)


class _Folder(Protocol[M_co]):
    """A run folder that has a manifest."""

    def manifest(self) -> M_co: ...


def merge(runs: Sequence[Path], out: Path) -> str:
    """Put everything that is in `runs` into `out` as well; the kind of run that it is.

    What is in `out` already stays; of two results of one scan, one with an answer counts. The runs
    are left as they are. Reports are not built.

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
    for run in sources:
        require_no_links(run)
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
    from .scan_manifest import united

    merged = _united(runs, RunFolder, _scan_differences, united)
    # Triggers first: wherever a merge is broken off, the files that a record names are there.
    _copy((run / part, out / part) for part in (TRIGGERS, LEDGER, LOGS) for run in runs)
    RunFolder(out).write_manifest(merged)


def _united(
    runs: Sequence[Path],
    folder: Callable[[Path], _Folder[M]],
    differences: Callable[[M, M], list[Difference]],
    united: Callable[[M, M], M],
) -> M:
    """One manifest for all runs, begun when the first of them was.

    Raises:
        RunError: a folder is no run, or the runs differ in what must be the same.
    """
    manifests = [folder(run).manifest() for run in runs]
    merged = manifests[0]
    for run, manifest in zip(runs, manifests, strict=True):
        unlike = first_unlike(differences(merged, manifest))
        if unlike is not None:
            what, before, now = unlike
            raise RunError(
                f"{runs[0]} and {run} cannot be merged, {what} is {before!r} there and {now!r} "
                "here: only parts of one study are, such as those of --shard or --only"
            )
        merged = united(merged, manifest)
    return merged.model_copy(update={"created": min(one.created for one in manifests)})


def _scan_differences(old: RunManifest, new: RunManifest) -> list[Difference]:
    names = ("models", "seed", "architecture", "normalisation", "examples")
    pairs: list[Difference] = [(n, getattr(old, n), getattr(new, n)) for n in names]
    pairs += same_ground(old.device, new.device, old.versions, new.versions)
    shared = old.scanners.keys() & new.scanners.keys()
    pairs += [(f"scanner {name}", old.scanners[name], new.scanners[name]) for name in shared]
    here = {entry.name: entry for entry in old.entries}
    for entry in new.entries:
        before = here.get(entry.name, entry)
        pairs.append((f"model {entry.name}, of hash", before.sha256, entry.sha256))
        if before.truth and entry.truth:
            pairs.append((f"model {entry.name}, of truth", before.truth, entry.truth))
    return pairs


def _merge_cells(runs: Sequence[Path], out: Path) -> None:
    from .hardening import ORIGINALS, united

    merged = _united(runs, HardeningStudyFolder, _study_differences, united)
    _copy_work(runs, out, ORIGINALS)
    HardeningStudyFolder(out).write_manifest(merged)


def _merge_removals(runs: Sequence[Path], out: Path) -> None:
    from .hardening import ORIGINALS, united

    merged = _united(runs, RemovalFolder, _removal_differences, united)
    _copy_work(runs, out, ORIGINALS)
    RemovalFolder(out).write_manifest(merged)


def _copy_work(runs: Sequence[Path], out: Path, originals: str) -> None:
    _copy((run / originals, out / originals) for run in runs)
    for run in runs:
        _copy_cells(run / CELLS, out / CELLS)


def _study_differences(
    old: HardeningStudyManifest, new: HardeningStudyManifest
) -> list[Difference]:
    from .hardening import SAME

    return _cell_differences(SAME, old, new)


def _removal_differences(old: RemovalManifest, new: RemovalManifest) -> list[Difference]:
    from .removal import SAME

    return _cell_differences((*SAME, "control"), old, new)


def _cell_differences(same: Sequence[str], old: C, new: C) -> list[Difference]:
    names = [name for name in same if name != "device"]  # of the same kind is enough
    pairs: list[Difference] = [(n, getattr(old, n), getattr(new, n)) for n in names]
    pairs += same_ground(old.device, new.device, old.versions, new.versions)
    shared = old.methods.keys() & new.methods.keys()
    return pairs + [(f"method {name}", old.methods[name], new.methods[name]) for name in shared]


def _copy(folders: Iterable[tuple[Path, Path]]) -> None:
    """Copy every file of folders to where it belongs, unless it is there; all of them, or none.

    One that is there has the same content, or goes on.

    Args:
        folders: where files are, and where they belong.

    Raises:
        RunError: two that are to be the same differ; nothing was copied.
    """
    chosen = dict[Path, Path]()
    for source, target in folders:
        for path in _files(source):
            place = target / path.relative_to(source)
            there = chosen.get(place, place)
            if not there.exists() or _goes_on(path, there):
                chosen[place] = path
            elif _differs(path, there):
                raise RunError(
                    f"{path} and {there} differ, though they are to be the same: merge into a new "
                    "folder, and leave one of the runs out"
                )
    for place, path in chosen.items():
        copy_file(path, place)


def _differs(path: Path, there: Path) -> bool:
    """Whether two files differ that are to be the same, as locks and logs are not."""
    return path.suffix not in (".lock", ".log") and not filecmp.cmp(path, there, shallow=False)


def _goes_on(path: Path, there: Path) -> bool:
    """Whether a ledger file has more lines than its copy of an earlier merge, or a log does."""
    if path.suffix not in (".log", ".jsonl") or path.stat().st_size <= there.stat().st_size:
        return False
    return path.suffix == ".log" or read_file(path, largest=LARGEST_LEDGER).startswith(
        read_file(there, largest=LARGEST_LEDGER)
    )


def _copy_cells(source: Path, target: Path) -> None:
    """Copy cells that are not in the target; one with more cards is worth more.

    A cell comes under its name once it is whole, so that a merge that is broken off can go on.
    """
    partial = target / PARTIAL
    for folder in sorted(path for path in source.glob("*") if path.is_dir()):
        there = target / folder.name
        if folder.name == PARTIAL or (there.exists() and _worth(folder) <= _worth(there)):
            continue
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _copy([(folder, partial)])
        shutil.rmtree(there, ignore_errors=True)
        outcome_path(there).unlink(missing_ok=True)
        partial.rename(there)
    shutil.rmtree(partial, ignore_errors=True)
    for outcome in sorted(source.glob("*.json")):
        there = target / outcome.name
        if not there.exists() and not (target / outcome.stem / CARD).is_file():
            write_whole(there, read_file(outcome))


def _worth(cell: Path) -> int:
    return sum((cell / name).is_file() for name in (CARD, REMOVAL))


def _files(folder: Path) -> Iterable[Path]:
    files = (Path(entry.path) for entry in entries_in(folder) if entry.is_file())
    return sorted(path for path in files if path.suffix != ".png")


_MERGERS: Mapping[str, Callable[[Sequence[Path], Path], None]] = {
    "trojai": _merge_scans,
    "hardening-study": _merge_cells,
    "removal": _merge_removals,
}
