"""One model x scanner: what it is, and how it is carried out in a process of its own."""

from __future__ import annotations

import hashlib
import io
import logging
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moth_eval import __version__
from moth_eval.errors import MothError, OutOfMemory, RefusedFile
from moth_eval.loading.rounds import RoundModel
from moth_eval.log import figures
from moth_eval.machine import lack_of_disk, lack_of_memory
from moth_eval.records import (
    RESULT_VERSION,
    TRIGGERS,
    EvidenceRecord,
    RuleRecord,
    ScanRecord,
    TriggerRecord,
    canonical,
    write_whole,
)
from moth_eval.text import file_name

from .third_party import METHOD, run_detector

if TYPE_CHECKING:
    from moth_eval.loading.subjects import Opened
    from moth_eval.scan import Evidence, Scan, Trigger

    from .pool import Outcome
    from .supervisor import Place, Tell

LOG = logging.getLogger(__name__)

MOST_TRIGGERS = 64
"""Inverted triggers kept as pixels, smallest first; sizes and success rates are kept for all."""


@cache
def _torch_version() -> str:
    """Read once: looking a distribution up takes milliseconds, and rounds have many tasks."""
    return version("torch")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker needs: no ground truth among it.

    Attributes:
        model: where the model and its examples are.
        sha256: hash of the model file; empty if there is none.
        data_sha256: hash of the example images.
        scanner: name in tables.
        method: row of the scanners' table.
        parameters: fields of the scanner.
        seed: the run's seed.
        device: where to compute.
        architecture: what `--arch` said, or empty.
        require_sandbox: whether to refuse where the process that opens models lacks a guard.
        models: the folder of models, from which no code is imported.
        run: the run folder.
    """

    model: RoundModel
    sha256: str
    data_sha256: str
    scanner: str
    method: str
    parameters: dict[str, Any]
    seed: int
    device: str
    architecture: str
    models: Path
    run: Path
    require_sandbox: bool = False

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the result."""
        parts = {
            "version": RESULT_VERSION,
            "package": __version__,
            "model": self.sha256 or self.model.name,
            "data": self.data_sha256,
            "name": self.model.name,
            "scanner": self.scanner,
            "method": self.method,
            "parameters": self.parameters,
            "seed": self.seed,
            "device": self.device.partition(":")[0],
            "architecture": self.architecture,
            "stated": [
                self.model.architecture,
                self.model.num_classes,
                self.model.crop,
                *filter(None, [self._named_normalisation]),
            ],
            "layout": self.model.layout,
            "torch": _torch_version(),
        }
        if self.require_sandbox and self.method != METHOD:  # another's detector has no guards
            parts["guarded"] = True
        return hashlib.sha256(canonical(parts).encode()).hexdigest()

    @property
    def _named_normalisation(self) -> str:
        """The normalisation that is not found on the examples; empty if it is."""
        stated = self.model.stated_normalisation
        return self.model.normalisation or (stated and f"stated {stated}")

    @property
    def label(self) -> str:
        """What the task is called in logs."""
        return f"{self.model.name} under {self.scanner}"

    @property
    def file_name(self) -> str:
        """Stem of the files that are this task's alone."""
        return f"{file_name(self.model.name)}--{file_name(self.scanner)}"

    def without_answer(self, status: str, reason: str, **more: Any) -> ScanRecord:
        """The record of a task that gave no score; `more` are further fields of it."""
        return ScanRecord.model_validate(
            {**self._identity(), "status": status, "reason": reason, **more}
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "model": self.model.name,
            "scanner": self.scanner,
            "sha256": self.sha256,
            "architecture": self.model.architecture,
            "num_classes": self.model.num_classes,
            "seed": self.seed,
            "device": self.device,
        }


def execute(task: Task, place: Place, tell: Tell) -> ScanRecord:
    """The record of a task, carried out here and now; the inverted triggers are on disk before.

    Bad files and failing scanners give a record that says so; nothing is raised for them.

    Args:
        task: what to do.
        place: its device is the one that is used.
        tell: not called; scans say nothing until they are over.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
        OSError: a disk takes no more, which says nothing about it either.
    """
    task = replace(task, device=place.device)
    try:
        return _executed(task)
    except OutOfMemory:
        raise
    except RefusedFile as error:
        return task.without_answer("refused", str(error))
    except MothError as error:
        return task.without_answer("failed", str(error))
    except Exception as error:  # a worker must answer, whatever a file or the machine does to it
        if lack_of_memory(error) is not None or lack_of_disk(error):
            raise
        return task.without_answer("failed", f"{type(error).__name__}: {error}")


def record_of(outcome: Outcome[Task, ScanRecord]) -> ScanRecord:
    """The record of a task that a pool has carried out."""
    ended = outcome.ended
    if ended.answer is not None:
        return ended.answer.model_copy(update={"attempts": outcome.earlier})
    return replace(outcome.task, device=outcome.place.device).without_answer(
        ended.status,
        ended.reason,
        seconds=ended.seconds,
        peak_memory_bytes=ended.peak_memory_bytes,
        attempts=outcome.earlier,
    )


def _executed(task: Task) -> ScanRecord:
    if task.method == METHOD:
        found = run_detector(task)
        return ScanRecord.model_validate({**task._identity(), **found})
    import torch

    from moth_eval.loading.architectures import ArchitectureSource
    from moth_eval.loading.subjects import open_subject

    opened = open_subject(
        task.model,
        architecture=ArchitectureSource.optional(task.architecture, forbidden=task.models),
        device=torch.device(task.device),
        require_sandbox=task.require_sandbox,
    )
    LOG.info(
        "opened",
        extra=figures(
            task=task.label, format=opened.format, architecture=opened.subject.architecture,
            normalisation=opened.normalisation, guards=" ".join(opened.guards),
        ),
    )  # fmt: skip
    if opened.subject.sha256 != task.sha256:
        raise RefusedFile(f"{task.model.file} was changed while the run was on; run it again")
    return _scanned(task, opened)


def _scanned(task: Task, opened: Opened) -> ScanRecord:
    from moth_eval.plugins import resolve
    from moth_eval.runner import run_scan
    from moth_eval.scan import Scanner
    from scanners import ENTRY_POINTS, SCANNERS

    scanner = resolve(task.method, SCANNERS, ENTRY_POINTS)(**task.parameters)
    assert isinstance(scanner, Scanner)  # noqa: S101 - checked when the run was planned
    scan = run_scan(scanner, opened.subject, name=task.method, seed=task.seed)
    LOG.info(
        f"{scan.status.value} {scan.reason}".strip(),
        extra=figures(task=task.label, score=scan.score, target=scan.target),
    )
    file, digest = _save_pictures(task, scan)
    return _record(task, opened, scan, file, digest)


def _record(task: Task, opened: Opened, scan: Scan, file: str, digest: str) -> ScanRecord:
    subject = opened.subject
    return ScanRecord.model_validate(
        {
            **task._identity(),
            "status": scan.status.value,
            "reason": scan.reason,
            "score": scan.score,
            "target": scan.target,
            "source": scan.source,
            "architecture": subject.architecture,
            "num_classes": subject.num_classes,
            "image_shape": subject.image_shape,
            "clean_accuracy": subject.accuracy(),
            "examples": len(subject.examples),
            "normalisation": opened.normalisation,
            "normalisations_tried": dict(opened.tried),
            "doubts": subject.doubts,
            "guards": opened.guards,
            "rule": RuleRecord(**asdict(scan.rule)) if scan.rule else None,
            "triggers": tuple(
                TriggerRecord(
                    target=t.target, source=t.source, size=t.size, asr=t.asr, valid=t.valid
                )
                for t in scan.triggers
            ),
            "evidence": tuple(
                EvidenceRecord(what=e.what, value=e.value, target=e.target, source=e.source)
                for e in scan.evidence
            ),
            "triggers_file": file,
            "triggers_sha256": digest,
            "forward_passes": scan.cost.forward_passes,
            "backward_passes": scan.cost.backward_passes,
            "seconds": scan.cost.seconds,
            "peak_memory_bytes": scan.cost.peak_memory_bytes,
        }
    )


def _save_pictures(task: Task, scan: Scan) -> tuple[str, str]:
    """Write all that can be seen; its path relative to the run folder, and its hash."""
    import numpy as np

    arrays = {**_trigger_arrays(scan.triggers), **_evidence_arrays(scan.evidence)}
    if not arrays:
        return "", ""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    # The key tells results of one model and scanner apart: each record has a file of its own.
    name = f"{TRIGGERS}/{task.file_name}--{task.key[:8]}.npz"
    write_whole(task.run / name, buffer.getvalue())
    return name, hashlib.sha256(buffer.getvalue()).hexdigest()


def _trigger_arrays(triggers: tuple[Trigger, ...]) -> dict[str, Any]:
    """The smallest triggers as arrays."""
    import numpy as np

    if not triggers:
        return {}
    triggers = tuple(sorted(triggers, key=lambda t: (not t.valid, t.size))[:MOST_TRIGGERS])
    return {
        "targets": np.array([t.target for t in triggers]),
        "sources": np.array([-1 if t.source is None else t.source for t in triggers]),
        "masks": np.stack([t.mask.numpy() for t in triggers]),
        "patterns": np.stack([t.pattern.numpy() for t in triggers]),
        "sizes": np.array([t.size for t in triggers]),
        "asrs": np.array([t.asr for t in triggers]),
        "valid": np.array([t.valid for t in triggers]),
    }


def _evidence_arrays(evidence: tuple[Evidence, ...]) -> dict[str, Any]:
    """The first pictures of the evidence, and which of its figures they belong to."""
    import numpy as np

    seen = [(n, e.pictures) for n, e in enumerate(evidence) if e.pictures is not None]
    if not seen:
        return {}
    return {
        "evidence": np.array([number for number, _ in seen[:MOST_TRIGGERS]]),
        "pictures": np.stack([pictures.numpy() for _, pictures in seen[:MOST_TRIGGERS]]),
    }


def parse_scanner(spec: str) -> tuple[str, dict[str, Any]]:
    """The scanner and its parameters from `NAME` or `NAME:field=value,field=value`.

    Raises:
        InputError: no such scanner, no such field, or a value that the field does not take.
    """
    from moth_eval.plugins import parse_spec
    from moth_eval.scan import Scanner
    from scanners import ENTRY_POINTS, SCANNERS

    return parse_spec(spec, SCANNERS, ENTRY_POINTS, kind="scanner", contract=Scanner)
