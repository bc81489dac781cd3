"""Synthetic folders of studies of removal, made through the records API alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moth_eval.hardening_cells import CELLS, CellOutcome, write_outcome
from moth_eval.metrics import defense_effectiveness
from moth_eval.records import write_whole
from moth_eval.removal_records import (
    REMOVAL,
    AttackedModel,
    BeforeRecord,
    FloorRecord,
    RatesRecord,
    ReactivationRecord,
    RemovalCard,
    RemovalFolder,
    RemovalManifest,
    VariantRecord,
)
from tests.support.hardening_runs import VERSIONS, WHEN, digest

Made = RemovalCard | CellOutcome | None

BEFORE = RatesRecord(accuracy=0.9, asr=0.96, ra=0.02)
CLEAN = RatesRecord(accuracy=0.92)
FLOOR = FloorRecord(model="clean", sha256=digest("clean"), rates=RatesRecord(
    accuracy=0.92, asr=0.01, ra=0.9,
))  # fmt: skip


def repaired(
    model: str,
    accuracy: float,
    asr: float | None = None,
    ra: float | None = None,
    *,
    seed: int = 0,
    name: str = "",
    oracle: str = "",
    again: float | None = None,
    more: Sequence[VariantRecord] = (),
    seconds: float = 10.0,
    notes: tuple[str, ...] = (),
) -> RemovalCard:
    """A card; without an ASR that of a clean control."""
    before = CLEAN if asr is None else BEFORE
    return RemovalCard(
        finished=WHEN,
        sha256=digest(model),
        seed=seed,
        images_used=100,
        training_sha256="ab" * 32,
        test_sha256="cd" * 32,
        seconds=seconds,
        before=BeforeRecord(
            sha256=digest(model),
            rates=before,
            tested=200,
            victims=0 if asr is None else 180,
            floor=None if asr is None else FLOOR,
        ),
        variants=(variant(accuracy, asr, ra, name=name, oracle=oracle, again=again), *more),
        figures={"pruned": 7},
        notes=notes,
    )


def variant(
    accuracy: float,
    asr: float | None = None,
    ra: float | None = None,
    *,
    name: str = "",
    oracle: str = "",
    again: float | None = None,
) -> VariantRecord:
    """One network of a cell."""
    return VariantRecord(
        name=name,
        file=f"variants/{name}.safetensors" if name else "model.safetensors",
        sha256=digest(name or "own"),
        rates=RatesRecord(accuracy=accuracy, asr=asr, ra=ra),
        der=None if asr is None else effectiveness(accuracy, asr),
        oracle=oracle,
        reactivated=None if again is None else RatesRecord(accuracy=0.8, asr=again, ra=0.1),
    )


def effectiveness(accuracy: float, asr: float) -> float:
    """The DER of a repair of a model like `BEFORE`."""
    assert BEFORE.asr is not None
    return defense_effectiveness(
        accuracy_before=BEFORE.accuracy,
        accuracy_after=accuracy,
        asr_before=BEFORE.asr,
        asr_after=asr,
    )


def make_removal_run(
    path: Path,
    cells: Mapping[tuple[str, str, int], Made],
    *,
    models: Mapping[str, str],
    methods: Sequence[str],
    seeds: Sequence[int] = (0,),
    not_implanted: Mapping[str, str] | None = None,
    reactivation: int = 0,
    **fields: Any,
) -> Path:
    """Write a run folder with these cells; those that are absent or None are pending.

    Args:
        path: the folder.
        cells: what came of (model, method, seed).
        models: name -> attack, `none` for a clean control.
        methods: as asked for, `fine-tuning` among them.
        seeds: of the repairs.
        not_implanted: model -> why its gate refused it.
        reactivation: poisoned images of the check.
        fields: others of the manifest.
    """
    folders = {n: {m: {s: f"{n}--{m}--{s}" for s in seeds} for m in methods} for n in models}
    values: dict[str, Any] = {
        "created": WHEN,
        "command": ("moth-eval", "removal", "--models", "/m", "--data", "/d.npz", "--out", "/o"),
        "models": "/m",
        "data": "/d.npz",
        "data_sha256": "ab" * 32,
        "test": "/t.npz",
        "test_sha256": "ef" * 32,
        "clean_share": 0.05,
        "architecture": "",
        "methods": {method: _parameters(method) for method in methods},
        "control": "fine-tuning",
        "seeds": tuple(seeds),
        "reactivation": ReactivationRecord(
            images=reactivation, epochs=5, batch_size=128, learning_rate=0.01, momentum=0.9
        ),
        "device": "cpu",
        "timeout_seconds": None,
        "versions": VERSIONS,
        "entries": tuple(
            AttackedModel(
                name=name,
                file=f"/m/{name}/model.safetensors",
                sha256=digest(name),
                attack=attack,
                target=None if attack == "none" else 2,
                sources=(),
                threat="" if attack == "none" else "universal",
                not_implanted=(not_implanted or {}).get(name, ""),
                folders=folders[name],
            )
            for name, attack in models.items()
        ),
    }
    RemovalFolder(path).write_manifest(RemovalManifest(**{**values, **fields}))
    for (model, method, seed), made in cells.items():
        folder = path / CELLS / folders[model][method][seed]
        if isinstance(made, RemovalCard):
            write_whole(folder / REMOVAL, made.model_dump_json(indent=2).encode())
        elif made is not None:
            write_outcome(folder, made)
    return path


def _parameters(method: str) -> dict[str, Any]:
    name, _, rest = method.partition(":")
    return {"method": name, **dict(pair.split("=") for pair in rest.split(",") if pair)}
