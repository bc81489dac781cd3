"""What an honesty study will do: everything checked before anything is measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from moth_eval.distance import checked_pairs
from moth_eval.errors import InputError, MothError
from moth_eval.honesty import HonestySettings
from moth_eval.honesty_records import (
    ChecksRecord,
    HonestyFolder,
    HonestyManifest,
    NetworkRecord,
)
from moth_eval.inversion.frozen import Precision
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.sources import ImageSource
from moth_eval.loading.subjects import Opened, open_subject
from moth_eval.patch_curves import KINDS, Kind, Pair
from moth_eval.records import canonical
from moth_eval.robustness import PGD
from moth_eval.runner import resolve_device
from moth_eval.splits import hash_of
from moth_eval.subject import Subject

from .harden_data import per_class
from .honesty_pairs import FEW_CLASSES, check_patches, default_pairs
from .sittings import refuse_differences, same_ground
from .versions import versions

STEPS_ACROSS = 4
"""Steps of an attack that reach from an image to the edge of its ball, as 2/255 of 8/255."""


@dataclass(frozen=True, kw_only=True)
class HonestyStudy:
    """What to compare, and how thoroughly; the fields are the command's options.

    Attributes:
        before: model file before hardening, or the folder of one model.
        after: the same after hardening.
        examples: clean, labelled images: a folder, an `.npz`, or a torchvision set.
        run: folder for the results.
        architecture: where the first network comes from if its file holds only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        architecture_after: the same of the second; empty: as the first.
        first: only the first so many images; None: all.
        pairs: `(source, target)` classes; None: chosen; empty: every ordered pair.
        restarts: inversions per pair, inverter and network.
        images_per_class: images of a source class that triggers and patches are made for.
        patch_kinds: kinds of patches.
        patch_sizes: sides of the square patches (pixels).
        epsilons: of the attacks, in units of the image range `[0, 1]`.
        precision: of the gradients.
        seed: decides everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads; None: as many as torch takes.
        command: how the run was called, for the record.
    """

    before: Path
    after: Path
    examples: ImageSource
    run: Path
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    architecture_after: str = ""
    first: int | None = None
    pairs: tuple[Pair, ...] | None = None
    restarts: int = 3
    images_per_class: int = 100
    patch_kinds: tuple[str, ...] = KINDS
    patch_sizes: tuple[int, ...] = (2, 4, 6, 8)
    epsilons: tuple[float, ...] = (8 / 255, 0.5)
    precision: Precision = "float32"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HonestyPlan:
    """What a study will do, and what is finished already.

    Attributes:
        run: the folder.
        before: the first network with the images that are used.
        after: the second one with the same images.
        settings: what is checked.
        seed: decides everything random.
        finished: names of the checks that are finished.
    """

    run: Path
    before: Subject
    after: Subject
    settings: HonestySettings
    seed: int
    finished: frozenset[str]


def plan(study: HonestyStudy) -> HonestyPlan:
    """Open both models, check everything that can be checked at once, and write the manifest.

    Raises:
        InputError: an option, a model or the images are unusable; nothing was written.
        RunError: the run folder holds something else.
    """
    folder = HonestyFolder(study.run)
    _require_own_folder(folder)
    if study.threads is not None:
        torch.set_num_threads(study.threads)
    kinds = _kinds(study.patch_kinds)
    attacks = tuple(PGD(epsilon=e, step_size=e / STEPS_ACROSS) for e in study.epsilons)
    models, opened = _opened(study)
    before, after = _comparable(study, opened)
    settings = HonestySettings(
        pairs=_pairs(study, before),
        restarts=study.restarts,
        images_per_class=study.images_per_class,
        attacks=attacks,
        patch_kinds=kinds,
        patch_sizes=tuple(sorted(set(study.patch_sizes))),
        precision=study.precision,
    )
    check_patches(settings, before)
    manifest = _manifest(study, settings, models, opened, before)
    if folder.exists:
        manifest = _continued(folder, manifest)
    folder.write_manifest(manifest)
    return HonestyPlan(
        run=study.run,
        before=before,
        after=after,
        settings=settings,
        seed=study.seed,
        finished=frozenset(folder.records()),
    )


def _require_own_folder(folder: HonestyFolder) -> None:
    """Refuse to write between files of another kind.

    Raises:
        RunError: the folder holds another kind of run, or a damaged one.
        InputError: it holds anything else.
    """
    if folder.exists:
        folder.manifest()
        return
    if not folder.path.is_dir():
        return
    others = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith("."))
    if others:
        raise InputError(
            f"{folder.path} holds {', '.join(others[:3])}, but no honesty run: expected a new or "
            "empty folder as --out"
        )


Models = tuple[RoundModel, RoundModel]
Both = tuple[Opened, Opened]


def _opened(study: HonestyStudy) -> tuple[Models, Both]:
    before = _only_model("BEFORE", study.before, study.examples)
    after = _only_model("AFTER", study.after, study.examples)
    # The images are read alike for both, whatever lies beside the second one.
    after = replace(after, layout=before.layout, crop=before.crop)
    before, after = (replace(m, normalisation=study.normalisation) for m in (before, after))
    opened = (
        _open("BEFORE", before, study.architecture, study),
        _open("AFTER", after, study.architecture_after or study.architecture, study),
    )
    return (before, after), opened


def _open(role: str, model: RoundModel, option: str, study: HonestyStudy) -> Opened:
    source, device = _source(option, study), resolve_device(study.device)
    try:
        return open_subject(
            model,
            architecture=source,
            device=device,
            require_sandbox=study.require_sandbox,
            select=lambda pictures: pictures.first(study.first),
            size=stated_size(study.before),
        )
    except MothError as error:
        raise type(error)(f"{role}: {error}") from error


def _only_model(role: str, path: Path, examples: ImageSource) -> RoundModel:
    models = read_round(path, examples=examples).models
    if len(models) != 1:
        raise InputError(
            f"{role}: expected one model, {path} holds {len(models)}: name one model file, or the "
            "folder of one model"
        )
    return models[0]


def _source(option: str, study: HonestyStudy) -> ArchitectureSource | None:
    """Where a network comes from; code that lies with either model is never taken."""
    found = None
    for model in (study.before, study.after):
        found = ArchitectureSource.optional(option, forbidden=model)
    return found


def _comparable(study: HonestyStudy, opened: Both) -> tuple[Subject, Subject]:
    """Both subjects with the very same images.

    Raises:
        InputError: they have other classes or eat other images, so they are no two states of one
            network.
    """
    before, after = (one.subject for one in opened)
    if (before.num_classes, before.image_shape) != (after.num_classes, after.image_shape):
        raise InputError(
            f"BEFORE ({study.before}) has {before.num_classes} classes and images of shape "
            f"{before.image_shape}, AFTER ({study.after}) has {after.num_classes} and "
            f"{after.image_shape}: expected the same network before and after hardening"
        )
    return before, replace(after, examples=before.examples)


def _kinds(named: Sequence[str]) -> tuple[Kind, ...]:
    unknown = [name for name in named if name not in KINDS]
    if unknown:
        raise InputError(f"--patches: expected some of {', '.join(KINDS)}, got {unknown[0]!r}")
    return tuple(kind for kind in KINDS if kind in named)


def _pairs(study: HonestyStudy, subject: Subject) -> tuple[Pair, ...]:
    if study.pairs is None:
        return default_pairs(subject.examples, subject.num_classes)
    return tuple(checked_pairs(subject, study.pairs or None))


def _manifest(
    study: HonestyStudy, settings: HonestySettings, models: Models, opened: Both, subject: Subject
) -> HonestyManifest:
    options = (study.architecture, study.architecture_after or study.architecture)
    before, after = (
        NetworkRecord(
            name=one.subject.name,
            model=str(model.file.resolve()),
            sha256=one.subject.sha256,
            architecture=one.subject.architecture,
            architecture_option=option,
            normalisation=one.normalisation,
            doubts=one.subject.doubts,
        )
        for model, one, option in zip(models, opened, options, strict=True)
    )
    return HonestyManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        before=before,
        after=after,
        num_classes=subject.num_classes,
        image_shape=subject.image_shape,
        examples=str(study.examples.resolve()),
        examples_sha256=hash_of(subject.examples),
        example_count=len(subject.examples),
        # As JSON gives them back, so that they can be compared with those of an earlier sitting.
        settings=ChecksRecord.model_validate(json.loads(canonical(asdict(settings)))),
        pairs_named=study.pairs is not None,
        checks=settings.checks,
        notes=tuple(_notes(study, settings, before, after, subject)),
        seed=study.seed,
        device=str(subject.examples.images.device),
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def _notes(
    study: HonestyStudy,
    settings: HonestySettings,
    before: NetworkRecord,
    after: NetworkRecord,
    subject: Subject,
) -> list[str]:
    notes = []
    if before.sha256 == after.sha256:
        notes.append("both files are the same, byte for byte")
    if before.normalisation != after.normalisation:
        notes.append(
            f"the networks are read with different normalisations, {before.normalisation} before "
            f"and {after.normalisation} after"
        )
    counts = per_class(subject.examples, subject.num_classes)
    if study.pairs is None:
        chosen = "one pair per source class, each with the next class as its target"
        if subject.num_classes <= FEW_CLASSES:
            chosen = "every ordered pair"
        notes.append(f"no pairs were named: {chosen}")
        absent = [str(label) for label, count in enumerate(counts) if not count]
        if absent:
            notes.append(f"classes without examples are in no pair: {', '.join(absent)}")
    wanted = settings.images_per_class
    short = [s for s in sorted({s for s, _ in settings.pairs}) if counts[s] < wanted]
    if short:
        named = ", ".join(f"{s} ({counts[s]})" for s in short)
        notes.append(f"fewer than {wanted} images, all of them are used: class {named}")
    return notes


def _continued(folder: HonestyFolder, new: HonestyManifest) -> HonestyManifest:
    """The manifest of a run that goes on.

    Raises:
        RunError: the folder holds checks of other networks, other images or other settings.
    """
    old = folder.manifest()
    pairs: Sequence[tuple[str, object, object]] = [
        *_differences("BEFORE's", _plain(old.before), _plain(new.before)),
        *_differences("AFTER's", _plain(old.after), _plain(new.after)),
        ("images with the hash", old.examples_sha256, new.examples_sha256),
        *_differences("the setting", old.settings.model_dump(), new.settings.model_dump()),
        ("--seed", old.seed, new.seed),
        *same_ground(old.device, new.device, old.versions, new.versions),
    ]
    refuse_differences(folder.path, pairs)
    return old


def _plain(record: NetworkRecord) -> dict[str, object]:
    """What decides the result: not what the file is called or where it lies."""
    return record.model_dump(include={"sha256", "architecture_option", "normalisation"})


def _differences(
    what: str, old: Mapping[str, object], new: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    return [(f"{what} {name}", old[name], value) for name, value in new.items()]
