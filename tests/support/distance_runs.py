"""Synthetic folders of distance runs, made through the records API alone."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moth_eval.records import LEDGER, write_whole

if TYPE_CHECKING:
    from moth_eval.distance_records import DistanceManifest, DistanceRecord

# The records are imported where they are used: tests/test_docs.py takes every record class that
# is known when it is collected for one of moth_eval.records.


def manifest(pairs: Sequence[tuple[int, int]], seeds: Sequence[int], **fields: Any) -> Any:
    from moth_eval.distance_records import DistanceManifest, ProtocolRecord

    protocol = ProtocolRecord(
        preset="fast",
        samples=100,
        seeds=tuple(seeds),
        success_rate=0.9,
        precision="float32",
        schedule={"steps": 600},
    )
    values: dict[str, Any] = {
        "created": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
        "command": ("moth-eval", "distance", "net.pt"),
        "name": "net",
        "model": "/data/net.pt",
        "sha256": "ab" * 32,
        "architecture": "resnet18",
        "normalisation": "unit",
        "num_classes": 4,
        "image_shape": (3, 8, 8),
        "examples": "/data/images.npz",
        "examples_sha256": "cd" * 32,
        "example_count": 400,
        "clean_accuracy": 0.9,
        "device": "cpu",
        "threads": 1,
        "versions": {"moth-eval": "0.1.0"},
    }
    return DistanceManifest(protocol=protocol, pairs=tuple(pairs), **{**values, **fields})


def make_distance_run(
    path: Path,
    distances: dict[tuple[int, int], Sequence[float | None]],
    *,
    seeds: Sequence[int] = (1, 2, 3),
    tail: bytes = b"",
    samples: int = 100,
    **fields: Any,
) -> Path:
    """Write a run folder in which these seeds of these pairs are finished.

    Args:
        path: the folder.
        distances: pair -> a distance for each of its first seeds; None where it is not valid.
        seeds: of the protocol.
        tail: appended to the ledger as it is.
        samples: images used per class.
        fields: of the manifest.
    """
    from moth_eval.distance_records import DistanceFolder, encode_record, kept_records

    made: DistanceManifest = manifest(tuple(distances), seeds, **fields)
    DistanceFolder(path).write_manifest(made)
    records: dict[tuple[tuple[int, int], int], DistanceRecord] = {}
    contents: dict[str, bytes] = {}
    for pair, values in distances.items():
        for seed, value in zip(seeds, values, strict=False):
            content = _arrays(made.image_shape, seed=hash((*pair, seed)) % 1000)
            one = _record(pair, seed, value, content, samples)
            records[pair, seed], contents[one.trigger_file] = one, content
    lines = b"".join(map(encode_record, records.values()))
    write_whole(path / LEDGER / "sitting-0.jsonl", lines + tail)
    for one in kept_records(records):
        write_whole(path / one.trigger_file, contents[one.trigger_file])
    return path


def _record(
    pair: tuple[int, int], seed: int, distance: float | None, content: bytes, samples: int
) -> DistanceRecord:
    from moth_eval.distance_records import DistanceRecord

    return DistanceRecord(
        source=pair[0],
        target=pair[1],
        seed=seed,
        distance=distance,
        asr=0.5 if distance is None else 0.95,
        valid=distance is not None,
        samples=samples,
        steps=600,
        trigger_sha256=hashlib.sha256(content).hexdigest(),
        seconds=1.5,
    )


def _arrays(shape: tuple[int, int, int], seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        mask=generator.uniform(0, 1, (1, *shape[1:])).astype(np.float32),
        pattern=generator.uniform(0, 1, shape).astype(np.float32),
        image=generator.uniform(0, 1, shape).astype(np.float32),
    )
    return buffer.getvalue()
