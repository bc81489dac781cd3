"""The manifest of a run of scans: how it goes on, and how two become one."""

from __future__ import annotations

import os
from pathlib import Path

from moth_eval.records import RunFolder, RunManifest, records_of

from .sittings import GO_ON, refuse_differences


def relative(file: Path, models: Path) -> str:
    """Where a model file lies in the folder of models, which may be named by a link."""
    root = models.resolve()
    return os.path.relpath(file, root if file.is_relative_to(root) else models)


def continued(folder: RunFolder, new: RunManifest) -> RunManifest:
    """The manifest of a run that goes on: the old one, with what the new call adds.

    Raises:
        RunError: the folder holds a run of other models, another seed or other parameters.
    """
    old = folder.manifest()
    pairs: list[tuple[str, object, object]] = [
        ("models", old.models, new.models),
        ("seed", old.seed, new.seed),
        ("device", old.device, new.device),
        ("--arch", old.architecture, new.architecture),
        ("--normalisation", old.normalisation, new.normalisation),
        ("--examples", old.examples, new.examples),
    ]
    shared = old.scanners.keys() & new.scanners.keys()
    pairs += [(f"scanner {name}", old.scanners[name], new.scanners[name]) for name in shared]
    advice = GO_ON
    records = records_of(folder.lines()).values()
    if not any(record.status in ("scored", "refused") for record in records):
        advice = "no model has an answer in it: remove that folder, or choose another --out"
    refuse_differences(folder.path, pairs, advice=advice)
    now = {"timeout_seconds": new.timeout_seconds, "versions": new.versions, "command": new.command}
    return united(old, new).model_copy(update=now)


def united(old: RunManifest, new: RunManifest) -> RunManifest:
    """A manifest with the models and scanners of both; of a changed file, what is new counts."""
    entries = {entry.name: entry for entry in old.entries}
    for entry in new.entries:
        before = entries.get(entry.name, entry)
        same = before.sha256 == entry.sha256
        keys = {**(before.keys if same else {}), **entry.keys}
        truth = entry.truth or (before.truth if same else None)
        entries[entry.name] = entry.model_copy(update={"keys": keys, "truth": truth})
    return old.model_copy(
        update={
            "scanners": {**old.scanners, **new.scanners},
            "entries": tuple(entries[name] for name in sorted(entries)),
        }
    )
