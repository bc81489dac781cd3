"""A mitigated model whatever comes: with hardly any images, without labels, or as it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch

from moth_eval.errors import InputError, MothError, OutOfMemory
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardening import Hardener, Hardening, HardeningStatus
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.bounded import leads_outside
from moth_eval.loading.images import read_image
from moth_eval.loading.labelled_files import labelled_files
from moth_eval.loading.layouts import IMAGE_SUFFIXES
from moth_eval.loading.rounds import read_round
from moth_eval.loading.stacking import Stack
from moth_eval.loading.subjects import load_member, open_subject
from moth_eval.plugins import build, resolve
from moth_eval.runner import resolve_device, run_hardening
from moth_eval.subject import Examples, Subject

from .detector_settings import Metaparameters
from .hardening import parse_hardener

if TYPE_CHECKING:
    from torch import nn

LOG = logging.getLogger(__name__)

WITHOUT_IMAGES = "clp"
"""What is done where the method that was asked for leaves no model: it looks at no image."""

_LABELS = range(2**31)

HIDDEN = -1
"""In the place of a label that is not told."""


@dataclass(frozen=True, kw_only=True)
class Mitigated:
    """What was written.

    Attributes:
        path: of the file.
        method: what made the model, `NAME` or `NAME:field=value,...`; empty: it is the original.
        notes: sentences on labels that were missing, and on methods that left no model.
    """

    path: Path
    method: str
    notes: tuple[str, ...]


def mitigate(
    model: Path,
    dataset: Path,
    out: Path,
    settings: Metaparameters,
    *,
    name: str,
    architecture: str = "",
    normalisation: str = "",
    device: str = "auto",
) -> Mitigated:
    """Harden a model on clean images and write it as a whole module, as the contract wants.

    Labels that are missing are the model's own answers. Where the method leaves no model,
    `WITHOUT_IMAGES` takes its place, and where that leaves none either, a copy of the original.

    Args:
        model: the model file.
        dataset: clean images, labelled or not: a folder, or an `.npz`.
        out: folder for the result.
        settings: the metaparameters.
        name: of the file in that folder.
        architecture: `--arch`.
        normalisation: what the model eats; empty: images between 0 and 1, as the server of the
            round feeds it, whatever a side-car states.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: an option is wrong, or there is no dataset; nothing was written.
        MothError: the model cannot be opened; nothing was written.
    """
    if Path(name).name != name:
        raise InputError(f"--model_output_name: expected the name of a file, got {name!r}")
    parse_hardener(settings.mitigate_method, option="mitigate_method")
    if not dataset.exists():
        raise InputError(f"{dataset} is not there: expected clean images (--dataset_dirpath)")
    source = ArchitectureSource.optional(architecture, forbidden=model.parent)
    where = resolve_device(device)
    notes: list[str] = []
    module, method = None, ""
    try:
        subject = labelled_subject(
            model, dataset, source, where, notes, normalisation=normalisation
        )
    except MothError as error:
        module = _as_it_was(model, source)
        _note(notes, f"the clean images cannot be used ({error}): the model is written as it was")
    else:
        module, method = _hardened(subject, settings, notes)
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{name}.tmp"
    try:
        torch.save(module.cpu().eval(), temporary)
        temporary.replace(out / name)
    finally:
        temporary.unlink(missing_ok=True)
    return Mitigated(path=out / name, method=method, notes=tuple(notes))


def _as_it_was(model: Path, source: ArchitectureSource | None) -> nn.Module:
    """The network in the file, which is not run."""
    [found] = read_round(model, answers=False).models
    return load_member(found, source).module


def _hardened(
    subject: Subject, settings: Metaparameters, notes: list[str]
) -> tuple[nn.Module, str]:
    """The new network and the method that made it; without one the original."""
    wanted = settings.mitigate_method
    for spec in dict.fromkeys([wanted, WITHOUT_IMAGES]):
        done = _attempt(spec, subject, settings.mitigate_seed)
        if done.module is not None:
            if done.reason:
                _note(notes, f"{spec}: {done.reason}")
            return done.module, spec
        last = spec == WITHOUT_IMAGES
        then = "the model is written as it was" if last else f"{WITHOUT_IMAGES} takes its place"
        _note(notes, f"{spec} leaves no model ({done.reason}): {then}")
    return subject.module, ""


def _attempt(spec: str, subject: Subject, seed: int) -> Hardening:
    """What came of a method; one that memory was too small for has failed."""
    method, parameters = parse_hardener(spec)
    hardener = build(resolve(method, HARDENERS, ENTRY_POINTS), parameters)
    assert isinstance(hardener, Hardener)  # noqa: S101 - parse_hardener looked
    try:
        return run_hardening(hardener, subject, subject.examples, name=method, seed=seed)
    except OutOfMemory as error:
        return Hardening(status=HardeningStatus.FAILED, reason=str(error))


def labelled_subject(
    model: Path,
    dataset: Path,
    source: ArchitectureSource | None,
    device: torch.device,
    notes: list[str],
    *,
    normalisation: str = "",
) -> Subject:
    """The model with the clean images, each labelled."""
    with _read(dataset, notes) as (examples, labels):
        [found] = read_round(model, examples=examples, answers=False).models
        # `test` feeds images between 0 and 1, so the model has to be hardened on such.
        found = replace(found, normalisation=normalisation or "unit")
        subject = open_subject(found, architecture=source, device=device).subject
    if labels is None:
        return subject
    given = torch.from_numpy(labels).to(device)
    told = (given >= 0) & (given < subject.num_classes)
    if not bool(told.all()):
        answers = subject.logits(subject.examples.images).argmax(dim=1)
        given = torch.where(told, given, answers)
        _note(
            notes,
            f"{int((~told).sum())} of {len(told)} images have no label of the model's "
            f"{subject.num_classes} classes: its own answers are taken for their labels",
        )
    return replace(subject, examples=Examples(images=subject.examples.images, labels=given))


@contextmanager
def _read(dataset: Path, notes: list[str]) -> Iterator[tuple[Path, np.ndarray | None]]:
    """What to open the model with, and the labels `(N,)`; None: they are in there."""
    if not dataset.is_dir():
        yield dataset, None
        return
    files = _files(dataset, notes)
    stack = Stack(str(dataset), len(files), size=None, most_bytes=None)
    for path in files:
        stack.add(read_image(path), str(path))
    with TemporaryDirectory(prefix="moth-eval-") as folder:
        path = Path(folder) / "examples.npz"
        # Opened with labels that every model has; the real ones may be of no class of it.
        np.savez(path, images=stack.images, labels=np.zeros(len(files), dtype=np.int64))
        yield path, np.array(list(files.values()), dtype=np.int64)


def _files(folder: Path, notes: list[str]) -> dict[Path, int]:
    """Every image of a folder with its label, or `HIDDEN`."""
    root = folder.resolve()
    try:
        found = labelled_files(folder, layout="trojai-11")
        return {one.path: one.label if one.label in _LABELS else HIDDEN for one in found}
    except InputError as error:
        images = sorted(
            path
            for path in folder.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not leads_outside(path, root)
        )
        if not images:
            raise
        _note(notes, f"labels cannot be read: {error}")
        return dict.fromkeys(images, HIDDEN)


def _note(notes: list[str], sentence: str) -> None:
    LOG.warning(sentence)
    notes.append(sentence)
