"""Synthetic folders of hardening studies, made through the records API alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moth_eval.distance_records import ProtocolRecord
from moth_eval.hardening_cells import CELLS, CellOutcome, write_outcome
from moth_eval.hardening_records import (
    CARD,
    AccuracyRecord,
    DataRecord,
    DistanceChange,
    HardeningCard,
    HardeningManifest,
    IncreaseRecord,
    IntervalRecord,
    PairRecord,
    TrainedRecord,
)
from moth_eval.hardening_study_records import (
    HardeningStudyFolder,
    HardeningStudyManifest,
    StudyModel,
)
from moth_eval.records import write_whole

WHEN = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
VERSIONS = {"moth-eval": "0.1.0", "torch": "2.10.0"}

PROTOCOL = ProtocolRecord(
    preset="fast",
    samples=100,
    seeds=(1,),
    success_rate=0.9,
    precision="float32",
    schedule={"steps": 600},
)


def digest(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]


def card(
    model: str,
    method: str,
    seed: int,
    *,
    status: str = "hardened",
    reason: str = "",
    before: float = 0.9,
    after: float = 0.85,
    increase: float | None = 0.5,
    seconds: float = 10.0,
    notes: tuple[str, ...] = (),
    new: str = "",
) -> HardeningCard:
    """A card whose two pairs have the distances 10 and 30 before."""
    hardened = status == "hardened"
    return HardeningCard(
        finished=WHEN,
        run=_manifest(model, method, seed),
        training=TrainedRecord.model_validate(
            {
                "status": status,
                "reason": reason,
                "sha256": new or (digest(f"{model}{method}{seed}") if hardened else ""),
                "rounds": 7,
                "images_used": 25,
                "pair_counts": (),
                "forward_passes": 1000,
                "backward_passes": 500,
                "seconds": seconds,
                "peak_memory_bytes": 2_000_000,
            }
        ),
        accuracy=_accuracy(before, after) if hardened else None,
        distance=_distance(increase) if hardened else None,
        notes=notes,
    )


def _manifest(model: str, method: str, seed: int) -> HardeningManifest:
    return HardeningManifest(
        created=WHEN,
        command=("moth-eval", "hardening"),
        name=model,
        model=f"/data/{model}.pt",
        sha256=digest(model),
        architecture="resnet18",
        architecture_option="",
        normalisation="unit",
        num_classes=4,
        image_shape=(3, 8, 8),
        doubts=(),
        method=method.partition(":")[0],
        parameters={"rounds": 7},
        data=DataRecord(
            data="/data/images.npz",
            test="",
            given=60,
            held_out=0.2,
            share=0.5,
            training=25,
            training_sha256="ab" * 32,
            training_per_class=(5, 5, 5, 10),
            tested=10,
            test_sha256="cd" * 32,
            test_per_class=(2, 2, 2, 4),
            in_both=0,
        ),
        protocol=PROTOCOL,
        pairs=((0, 1), (1, 0)),
        seed=seed,
        device="cpu",
        threads=1,
        versions=VERSIONS,
    )


def _accuracy(before: float, after: float) -> AccuracyRecord:
    change = after - before
    return AccuracyRecord(
        before=before,
        after=after,
        lost=5,
        gained=1,
        n=100,
        difference=IntervalRecord(low=change - 0.1, high=change + 0.1, method="Agresti-Min"),
        p_value=0.25,
    )


def _distance(increase: float | None) -> DistanceChange:
    known = increase is not None
    factor = 1 + (increase or 0)
    bounds = IntervalRecord(low=(increase or 0) - 0.2, high=(increase or 0) + 0.2, method="b")
    return DistanceChange(
        mean_before=20.0,
        mean_after=20 * factor if known else None,
        failed_before=(),
        failed_after=() if known else ((0, 1), (1, 0)),
        increase=IncreaseRecord(
            mean_of_ratios=factor - 1,
            ratio_of_means=(factor - 1) / 2,
            mean_of_ratios_interval=bounds,
            ratio_of_means_interval=None,
            pairs=2,
            left_out=(),
        )
        if known
        else None,
        pairs=(
            PairRecord(source=0, target=1, before=10.0, after=10 * factor if known else None),
            PairRecord(source=1, target=0, before=30.0, after=30 * factor if known else None),
        ),
    )


def write_card(folder: Path, made: HardeningCard) -> None:
    write_whole(folder / CARD, made.model_dump_json(indent=2).encode())


def make_hardening_run(
    path: Path,
    cells: Mapping[tuple[str, str, int], HardeningCard | CellOutcome | None],
    *,
    models: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    **fields: Any,
) -> Path:
    """Write a run folder with these cells; those that are absent or None are pending."""
    folders = {n: {m: {s: f"{n}--{m}--{s}" for s in seeds} for m in methods} for n in models}
    values: dict[str, Any] = {
        "created": WHEN,
        "command": ("moth-eval", "hardening"),
        "models": "/data",
        "data": "/data/images.npz",
        "data_sha256": "ab" * 32,
        "test": "",
        "test_sha256": "",
        "share": 0.05,
        "first": None,
        "architecture": "",
        "methods": {method: {"method": method} for method in methods},
        "seeds": tuple(seeds),
        "distance_pairs": 2,
        "distance_seeds": 1,
        "distance_precision": "float32",
        "device": "cpu",
        "timeout_seconds": None,
        "versions": VERSIONS,
        "entries": tuple(
            StudyModel(name=n, file=f"/data/{n}.pt", sha256=digest(n), folders=folders[n])
            for n in models
        ),
    }
    HardeningStudyFolder(path).write_manifest(HardeningStudyManifest(**{**values, **fields}))
    for (model, method, seed), made in cells.items():
        folder = path / CELLS / folders[model][method][seed]
        if isinstance(made, HardeningCard):
            write_card(folder, made)
        elif made is not None:
            write_outcome(folder, made)
    return path
