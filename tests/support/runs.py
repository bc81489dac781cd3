"""Synthetic run folders, made through the records API alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from moth_eval.records import (
    LEDGER,
    LedgerLine,
    ModelEntry,
    RuleRecord,
    RunFolder,
    RunManifest,
    ScanRecord,
    TriggerRecord,
    Truth,
    encode,
    write_whole,
)
from reports.build import work_out, write_reports

RULE = RuleRecord(
    name="anomaly index", threshold=2.0, false_alarm_rate=0.33, source="simulated, 10 classes"
)


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def clean(**fields: Any) -> Truth:
    return Truth(poisoned=False, **fields)


def poisoned(kind: str = "patch", **fields: Any) -> Truth:
    return Truth(poisoned=True, trigger_type=kind, **{"targets": (0,), **fields})


def entry(name: str, truth: Truth | None = None, **fields: Any) -> ModelEntry:
    values = {"file": f"{name}/model.pt", "sha256": sha(name), "architecture": "resnet18"}
    return ModelEntry(name=name, truth=truth, **{**values, **fields})


def record(
    name: str, score: float | None = None, *, scanner: str = "nc", **fields: Any
) -> ScanRecord:
    """A record: scored if there is a score, else failed."""
    values: dict[str, Any] = {
        "key": sha(f"{name}/{scanner}"),
        "sha256": sha(name),
        "status": "failed" if score is None else "scored",
        "reason": "it broke" if score is None else "",
        "num_classes": 5,
        "image_shape": (3, 32, 32),
        "clean_accuracy": 0.99,
        "examples": 50,
        "normalisation": "imagenet",
        "rule": RULE,
        "seconds": 1.25,
        "forward_passes": 1000,
        "backward_passes": 900,
        "peak_memory_bytes": 50_000_000,
    }
    return ScanRecord(model=name, scanner=scanner, score=score, **{**values, **fields})


def manifest(
    entries: Sequence[ModelEntry], scanners: Iterable[str] = ("nc",), **fields: Any
) -> RunManifest:
    values: dict[str, Any] = {
        "created": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "command": ("moth-eval", "trojai", "round"),
        "models": "/data/round",
        "seed": 7,
        "device": "cpu",
        "versions": {"moth-eval": "0.1.0", "torch": "2.15.0", "python": "3.12.1"},
    }
    scanned: dict[str, dict[str, Any]] = {name: {"steps": 100} for name in scanners}
    return RunManifest(entries=tuple(entries), scanners=scanned, **{**values, **fields})


def make_run(
    path: Path,
    entries: Sequence[ModelEntry],
    records: Iterable[ScanRecord],
    *,
    scanners: Iterable[str] = ("nc",),
    tail: bytes = b"",
    writer: str = "worker-0",
    **fields: Any,
) -> Path:
    """Write a run folder; `tail` is appended to its ledger as it is."""
    RunFolder(path).write_manifest(manifest(entries, scanners, **fields))
    lines = b"".join(_lines(one) for one in records)
    write_whole(path / LEDGER / f"{writer}.jsonl", lines + tail)
    return path


def _lines(one: ScanRecord) -> bytes:
    same = {"key": one.key, "model": one.model, "scanner": one.scanner}
    end = LedgerLine(event="end", record=one, **same)
    return encode(LedgerLine(event="start", **same)) + encode(end)


def with_triggers(
    path: Path, one: ScanRecord, *, classes: int = 5, side: int = 32, seed: int = 0
) -> ScanRecord:
    """Write the `.npz` of a record and return the record that names it."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    radii = generator.uniform(side / 6, side / 3, classes)
    if one.target is not None and one.target < classes:
        radii[one.target] = side / 12
    centres = generator.uniform(side / 4, side * 3 / 4, (classes, 2))
    distance = np.hypot(rows - centres[:, :1, None], columns - centres[:, 1:, None])
    masks = np.clip(radii[:, None, None] + 1 - distance, 0, 1)[:, None].astype(np.float32)
    patterns = generator.uniform(0, 1, (classes, 3, side, side)).astype(np.float32)
    sizes = masks.sum(axis=(1, 2, 3))
    asrs = np.where(np.arange(classes) == classes - 1, 0.7, 0.99).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        targets=np.arange(classes),
        sources=np.full(classes, -1),
        masks=masks,
        patterns=patterns,
        sizes=sizes,
        asrs=asrs,
        valid=asrs > 0.9,
    )
    name = f"triggers/{one.model}--{one.scanner}.npz"
    write_whole(path / name, buffer.getvalue())
    found = tuple(
        TriggerRecord(
            target=i,
            source=None,
            size=float(sizes[i]),
            asr=float(asrs[i]),
            valid=bool(asrs[i] > 0.9),
        )
        for i in range(classes)
    )
    return one.model_copy(
        update={
            "triggers": found,
            "triggers_file": name,
            "triggers_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        }
    )


def large_run(
    path: Path,
    models: int = 24,
    *,
    scanners: Sequence[str] = ("nc",),
    classes: int = 5,
    side: int = 32,
) -> Path:
    """A run with both classes, two trigger types, triggers, and one model of every other status."""
    generator = np.random.default_rng(11)
    entries, records = [], []
    for i in range(models):
        bad = i % 2 == 1
        kind = ("patch", "instagram")[i // 2 % 2]
        one = entry(f"id-{i:08d}", poisoned(kind) if bad else clean())
        entries.append(one)
        for shift, scanner in enumerate(scanners):
            score = float(generator.gamma(2, 0.7) + bad * (1.6 - shift))
            made = record(
                one.name, score, scanner=scanner, target=0 if score > 2 else None, sha256=one.sha256
            )
            records.append(with_triggers(path, made, classes=classes, side=side, seed=i))
    for status in ("inconclusive", "refused", "timed-out", "failed"):
        one = entry(f"odd-{status}", poisoned() if status != "failed" else clean())
        entries.append(one)
        records.extend(
            record(one.name, scanner=s, status=status, reason=f"ended {status}") for s in scanners
        )
    entries.append(entry("not-yet", clean()))
    entries.append(entry("wrong-label", poisoned(errata="trigger was never inserted")))
    records.extend(record("wrong-label", 0.3, scanner=s) for s in scanners)
    return make_run(path, entries, records, scanners=scanners)


def build_reports(run: Path) -> list[Path]:
    """Write the report of a run folder, as the command does."""
    return write_reports(work_out(run))
