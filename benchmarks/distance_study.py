"""Class distances of one model, resumable, into a run folder."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from moth_eval.distance import (
    DistanceProtocol,
    checked_pairs,
    class_distances,
    draw_samples,
    stability_protocol,
)
from moth_eval.distance_records import (
    DistanceFolder,
    DistanceManifest,
    DistanceRecord,
    ProtocolRecord,
    encode_record,
    kept_records,
)
from moth_eval.distance_table import Pair, SeedDistance
from moth_eval.errors import InputError, RunError
from moth_eval.inversion.problems import Inversion
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.sources import ImageSource
from moth_eval.loading.subjects import Opened, open_subject
from moth_eval.records import TRIGGERS, canonical, write_whole
from moth_eval.runner import resolve_device
from moth_eval.splits import hash_of
from moth_eval.subject import Subject

from .ledger import LedgerFile
from .sittings import refuse_differences, same_ground
from .versions import versions

Records = dict[tuple[Pair, int], DistanceRecord]
"""Pair and seed -> what came of it."""


@dataclass(frozen=True, kw_only=True)
class DistanceStudy:
    """What to measure, and how; the fields are the command's options.

    Attributes:
        model: the model file, or the folder of one model.
        run: folder for the results.
        protocol: how distances are measured.
        stability_sets: sets of samples of a stability study in place of the protocol's seeds.
        pairs: `(source, target)` classes; None: every ordered pair.
        architecture: where the network comes from if the file holds only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        examples: clean images, if they do not lie with the model.
        first: only the first so many images; None: all.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads; None: as many as torch takes.
        command: how the run was called, for the record.
    """

    model: Path
    run: Path
    protocol: DistanceProtocol
    stability_sets: int | None = None
    pairs: tuple[Pair, ...] | None = None
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    examples: ImageSource | None = None
    first: int | None = None
    device: str = "auto"
    threads: int | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DistancePlan:
    """What a study will do, and what is finished already.

    Attributes:
        subject: the model and the images that are used.
        protocol: with the seeds that are used.
        pairs: the pairs that this call asks for.
        manifest: of the run, which may hold more pairs from earlier calls.
        finished: records of the run.
    """

    subject: Subject
    protocol: DistanceProtocol
    pairs: tuple[Pair, ...]
    manifest: DistanceManifest
    finished: Records

    @property
    def total(self) -> int:
        """Inversions that this call asks for."""
        return len(self.pairs) * len(self.protocol.seeds)

    @property
    def done(self) -> int:
        """Those of them that are finished already."""
        return sum((p, s) in self.finished for p in self.pairs for s in self.protocol.seeds)


def plan(study: DistanceStudy) -> DistancePlan:
    """Open the model, check everything that can be checked at once, and write the manifest.

    Raises:
        InputError: an option, the model or its images are unusable; nothing was written.
        RunError: the run folder holds another run.
    """
    if study.threads is not None:
        torch.set_num_threads(study.threads)
    protocol = study.protocol
    if study.stability_sets is not None:
        protocol = stability_protocol(protocol, study.stability_sets)
    found, opened = _opened(study)
    pairs = tuple(checked_pairs(opened.subject, study.pairs))
    manifest = _manifest(study, protocol, pairs, found, opened)
    folder = DistanceFolder(study.run)
    if folder.exists:
        manifest = _continued(folder, manifest)
        _refuse_longer_rows(folder, protocol)
    folder.write_manifest(manifest)
    return DistancePlan(
        subject=opened.subject,
        protocol=protocol,
        pairs=pairs,
        manifest=manifest,
        finished=folder.records(),
    )


def carry_out(
    plan: DistancePlan, run: Path, *, on_progress: Callable[[int, int, int], None]
) -> Records:
    """Measure what is open; all records of the run in the end.

    A `KeyboardInterrupt` passes through; the run folder then holds all that was finished, and the
    same study continues from there.

    Args:
        plan: from `plan`.
        run: the run folder.
        on_progress: told how many steps are taken, of how many, and how many inversions of this
            call are finished.
    """
    finished_before = plan.done
    with DistanceWriter(run, plan) as writer:
        class_distances(
            plan.subject,
            plan.protocol,
            pairs=plan.pairs,
            done=[record.row for record in plan.finished.values()],
            on_pair=writer.write,
            on_progress=lambda taken, total: on_progress(
                taken, total, finished_before + writer.written
            ),
        )
    return writer.records


class DistanceWriter:
    """Writes finished inversions as they come: trigger, then ledger line, each safe on disk.

    Attributes:
        records: all records of the run.
        written: how many this writer wrote.
    """

    def __init__(self, run: Path, plan: DistancePlan) -> None:
        """Open a ledger file of its own."""
        self._run, self._plan = run, plan
        self._started = time.perf_counter()
        self.records: Records = dict(plan.finished)
        self.written = 0
        self._file = LedgerFile(run)

    def __enter__(self) -> DistanceWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, row: SeedDistance, inversion: Inversion) -> None:
        """Keep a finished inversion; once this returns it survives a power cut."""
        content = self._arrays(row, inversion)
        record = DistanceRecord(
            **asdict(row),
            trigger_sha256=hashlib.sha256(content).hexdigest(),
            seconds=time.perf_counter() - self._started,
        )
        self.records[row.pair, row.seed] = record
        kept = {self._run / one.trigger_file for one in kept_records(self.records)}
        path = self._run / record.trigger_file
        if path in kept:
            write_whole(path, content)
        self._file.append(encode_record(record))
        self.written += 1
        for other in set((self._run / TRIGGERS).glob("*.npz")) - kept:
            other.unlink()

    def _arrays(self, row: SeedDistance, inversion: Inversion) -> bytes:
        examples = self._plan.subject.examples
        first = draw_samples(examples.labels, row.source, row.seed, self._plan.protocol.samples)[0]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            mask=inversion.mask.numpy(),
            pattern=inversion.pattern.numpy(),
            image=examples.images[first].cpu().numpy(),
        )
        return buffer.getvalue()


def _opened(study: DistanceStudy) -> tuple[RoundModel, Opened]:
    models = read_round(study.model, examples=study.examples).models
    if len(models) != 1:
        raise InputError(
            f"expected one model, {study.model} holds {len(models)}: name one model file, or the "
            "folder of one model"
        )
    source = ArchitectureSource.optional(study.architecture, forbidden=study.model)
    device = resolve_device(study.device)
    opened = open_subject(
        replace(models[0], normalisation=study.normalisation),
        architecture=source,
        device=device,
        require_sandbox=study.require_sandbox,
        select=lambda pictures: pictures.first(study.first),
        size=stated_size(models[0].file) if models[0].examples_named else None,
    )
    return models[0], opened


def _manifest(
    study: DistanceStudy,
    protocol: DistanceProtocol,
    pairs: tuple[Pair, ...],
    found: RoundModel,
    opened: Opened,
) -> DistanceManifest:
    subject = opened.subject
    return DistanceManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        name=subject.name,
        model=str(found.file.resolve()),
        sha256=subject.sha256,
        architecture=subject.architecture,
        architecture_option=study.architecture,
        normalisation=opened.normalisation,
        num_classes=subject.num_classes,
        image_shape=subject.image_shape,
        examples=str(found.examples.resolve()) if found.examples else "",
        examples_sha256=hash_of(subject.examples),
        example_count=len(subject.examples),
        clean_accuracy=subject.accuracy(),
        doubts=subject.doubts,
        protocol=_protocol_record(protocol),
        stability_sets=study.stability_sets,
        pairs=tuple(sorted(pairs)),
        device=str(subject.examples.images.device),
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def _protocol_record(protocol: DistanceProtocol) -> ProtocolRecord:
    # As JSON gives it back, so that it can be compared with the one of an earlier sitting.
    schedule = json.loads(canonical(asdict(protocol.schedule)))
    return ProtocolRecord(**asdict(protocol), schedule=schedule)


def _refuse_longer_rows(folder: DistanceFolder, protocol: DistanceProtocol) -> None:
    """Earlier versions took more passes over classes with fewer images than samples.

    Raises:
        RunError: the run has such rows, which new ones cannot be compared with.
    """
    for record in folder.records().values():
        most = protocol.schedule_of(record.samples).steps
        if record.steps > most:
            raise RunError(
                f"{folder.path} holds {record.steps} steps for {record.source}-{record.target}, "
                f"which takes {most} with {record.samples} images: an earlier version made them; "
                "measure into another --out"
            )


def _continued(folder: DistanceFolder, new: DistanceManifest) -> DistanceManifest:
    """The manifest of a run that goes on: the old one, with the pairs that the new call adds.

    Raises:
        RunError: the folder holds distances of another model, other images or another protocol.
    """
    old = folder.manifest()
    pairs: Sequence[tuple[str, object, object]] = [
        ("a model with the hash", old.sha256, new.sha256),
        ("--arch", old.architecture_option, new.architecture_option),
        ("images with the hash", old.examples_sha256, new.examples_sha256),
        ("the normalisation", old.normalisation, new.normalisation),
        *(
            (f"the protocol's {name}", value, getattr(new.protocol, name))
            for name, value in old.protocol
        ),
        ("--stability", old.stability_sets, new.stability_sets),
        *same_ground(old.device, new.device, old.versions, new.versions),
    ]
    refuse_differences(folder.path, pairs)
    return old.model_copy(update={"pairs": tuple(sorted({*old.pairs, *new.pairs}))})
