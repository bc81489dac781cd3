"""Synthetic folders of honesty runs, made through the records API alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moth_eval.intervals import wilson

# The records are imported where they are used: tests/test_docs.py takes every record class that
# is known when it is collected for one of moth_eval.records.

PAIRS = ((0, 1), (1, 2), (2, 0))
CHECKS = (
    "accuracy", "mask-and-pattern", "signed-pixels", "pgd-0", "patches-solid", "patches-crop",
)  # fmt: skip
ATTACK = {
    "epsilon": 8 / 255, "step_size": 2 / 255, "steps": 20, "random_start": True, "restarts": 1,
}  # fmt: skip


def rate(hits: int, n: int) -> dict[str, Any]:
    bounds = wilson(hits, n)
    interval = {"low": bounds.low, "high": bounds.high, "method": bounds.method}
    return {"value": hits / n, "hits": hits, "n": n, "interval": interval}


def point(size: int, *hits: int) -> dict[str, Any]:
    """ASR of three pairs with ten images each."""
    total = rate(sum(hits), 30)
    return {
        "size": size, "asr": total["value"], "n": 30, "interval": total["interval"],
        "per_pair": [h / 10 for h in hits],
    }  # fmt: skip


def restarts(*sizes: float | None, transferred: float | None) -> dict[str, Any]:
    asrs = [0.5 if size is None else 0.95 for size in sizes]
    return {"sizes": sizes, "asrs": asrs, "transferred": transferred}


def results() -> dict[str, dict[str, Any]]:
    """What each check found; the third pair has no trigger after by mask and pattern."""
    before = [restarts(10.0 * k, 12.0 * k, transferred=0.2 * k) for k in (1, 2, 3)]
    trained = [
        restarts(40.0, 50.0, transferred=0.9),
        restarts(80.0, None, transferred=0.1),
        restarts(None, None, transferred=None),
    ]
    other = [restarts(20.0 * k, 20.0 * k, transferred=0.0) for k in (1, 2, 3)]
    inverters = {
        name: [
            {"source": source, "target": target, "before": b, "after": a}
            for (source, target), b, a in zip(PAIRS, before, after, strict=True)
        ]
        for name, after in (("mask-and-pattern", trained), ("signed-pixels", other))
    }
    return {
        "accuracy": {
            "accuracy": {
                "before": 0.9, "after": 0.85, "lost": 6, "gained": 1, "n": 100, "p_value": 0.125,
                "difference": {"low": -0.1, "high": 0.0, "method": "Agresti-Min"},
            }
        },
        **{
            name: {"inverter": {"inverter": name, "success_rate": 0.9, "pairs": pairs}}
            for name, pairs in inverters.items()
        },
        "pgd-0": {
            "robustness": {
                "attack": ATTACK, "before": rate(10, 100), "after": rate(25, 100),
                "per_class_before": [rate(4, 40), rate(6, 60), None],
                "per_class_after": [rate(10, 40), rate(15, 60), None],
            }
        },
        **{
            f"patches-{kind}": {
                "curve": {
                    "kind": kind, "before": [point(2, 1, 2, 3), point(6, 9, 9, 9)],
                    "after": [point(2, 0, 0, 0), point(6, 3, 6, 9)],
                }
            }
            for kind in ("solid", "crop")
        },
    }  # fmt: skip


def manifest(**fields: Any) -> Any:
    from moth_eval.honesty_records import ChecksRecord, HonestyManifest, NetworkRecord

    network: dict[str, Any] = {
        "architecture": "resnet18", "architecture_option": "", "normalisation": "unit",
        "doubts": (),
    }  # fmt: skip
    values: dict[str, Any] = {
        "created": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "command": ("moth-eval", "honesty"),
        "before": NetworkRecord(name="net", model="/data/net.pt", sha256="ab" * 32, **network),
        "after": NetworkRecord(name="new", model="/data/new.pt", sha256="cd" * 32, **network),
        "num_classes": 3,
        "image_shape": (3, 8, 8),
        "examples": "/data/images.npz",
        "examples_sha256": "ef" * 32,
        "example_count": 100,
        "settings": ChecksRecord.model_validate(
            {
                "pairs": PAIRS, "restarts": 2, "images_per_class": 20, "schedule": {"steps": 600},
                "signed_schedule": {"steps": 600}, "attacks": [ATTACK],
                "patch_kinds": ["solid", "crop"], "patch_sizes": [2, 6], "patch_tries": 3,
                "precision": "float32",
            }
        ),
        "pairs_named": False,
        "checks": CHECKS,
        "notes": ("no pairs were named: every ordered pair",),
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "versions": {"moth-eval": "0.1.0"},
    }  # fmt: skip
    return HonestyManifest(**{**values, **fields})


def make_honesty_run(path: Path, *, finished: Sequence[str] = CHECKS, **fields: Any) -> Path:
    """Write a run folder in which these checks are finished.

    Args:
        path: the folder.
        finished: names of checks.
        fields: of the manifest.
    """
    from moth_eval.honesty_records import CheckRecord, HonestyFolder

    folder = HonestyFolder(path)
    folder.write_manifest(manifest(**fields))
    for name in finished:
        values = {"name": name, "forward_passes": 200, "backward_passes": 100, "seconds": 1.5}
        folder.write(CheckRecord.model_validate({**values, **results()[name]}))
    return path
