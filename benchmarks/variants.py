"""Further networks that a method left beside its result: kept on disk, and read back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from moth_eval.hardening_records import read_record
from moth_eval.loading.files import sha256_of
from moth_eval.records import write_whole
from moth_eval.removal_records import VARIANT_LIST, VARIANTS, VariantFile, VariantList

from .harden_model import Reopening

if TYPE_CHECKING:
    from moth_eval.hardening import Hardening


def save_variants(run: Path, reopening: Reopening, done: Hardening) -> None:
    """Write every further network of a hardening, then the list of them.

    Args:
        run: folder of the hardening.
        reopening: how its networks are written.
        done: the hardening.
    """
    files = []
    for number, variant in enumerate(done.variants):
        path = run / VARIANTS / f"{number}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        reopening.save(path, variant.module)
        files.append(
            VariantFile.model_validate(
                {
                    "kind": variant.kind.value,
                    "name": variant.name,
                    "file": path.name,
                    "sha256": sha256_of(path),
                }
            )
        )
    figures = {name: value for name, value in done.figures.items() if math.isfinite(value)}
    made = VariantList(variants=tuple(files), figures=figures)
    text = made.model_dump_json(indent=2).encode() + b"\n"
    write_whole(run / VARIANTS / VARIANT_LIST, text)


def read_variants(run: Path) -> VariantList:
    """The list of further networks; an empty one if none was kept.

    Raises:
        RunError: it is damaged.
    """
    path = run / VARIANTS / VARIANT_LIST
    return read_record(path, VariantList) if path.is_file() else VariantList(variants=())


def drop_variants(run: Path, kept: set[str]) -> None:
    """Remove the weights of all further networks but those whose hash is `kept`."""
    for one in read_variants(run).variants:
        if one.sha256 not in kept:
            path = run / VARIANTS / one.file
            for stale in (path, path.with_suffix(".arch.json")):
                stale.unlink(missing_ok=True)
