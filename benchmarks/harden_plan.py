"""What a hardening study will do: everything checked before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from moth_eval.distance import PUBLISHED_SEEDS, DistanceProtocol
from moth_eval.distance_records import ProtocolRecord
from moth_eval.errors import InputError, RunError
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardening import Hardener
from moth_eval.hardening_records import (
    CARD,
    UNFINISHED,
    WEIGHTS,
    HardeningCard,
    HardeningManifest,
    read_record,
)
from moth_eval.inversion.frozen import Precision
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import sha256_of
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.sources import ImageSource, default_test, require_source
from moth_eval.loading.subjects import Opened, open_subject
from moth_eval.pictures import check_room
from moth_eval.plugins import build, parse_spec, resolve
from moth_eval.records import MANIFEST, Record, canonical
from moth_eval.runner import resolve_device
from moth_eval.splits import HELD_OUT
from moth_eval.subject import Subject

from .harden_data import Drawing, HardeningData, read_test
from .harden_measure import draw_pairs
from .harden_model import Reopening
from .oracles import refuse_oracle
from .versions import versions


@dataclass(frozen=True, kw_only=True)
class HardenStudy:
    """What to harden, with what, and how; the fields are the command's options.

    Attributes:
        model: the model file, or the folder of one model.
        data: clean, labelled images: a folder, an `.npz`, or a torchvision set.
        run: folder for the results.
        method: hardener specification, `NAME` or `NAME:field=value,...`.
        share: fraction of each class that is trained on, of what is not held out, in `(0, 1]`.
        test: images for testing; None: the test part of a torchvision set, else a fifth of each
            class of the data is held out.
        first: only the first so many images of the data; None: all.
        architecture: where the network comes from if the file holds only weights (`--arch`).
        normalisation: what the network was trained with (`--normalisation`); empty: what its
            side-car states, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        distance_pairs: pairs of classes whose distance is measured before and after; 0: none.
        distance_seeds: inversions per pair, 1 to 3; the smallest counts.
        distance_precision: of the gradients of these inversions.
        seed: decides everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads; None: as many as torch takes.
        command: how the run was called, for the record.
        variants: whether further networks that the method leaves are kept too.
        data_named: whether the user named the data; what lies with a model may be less large.
    """

    model: Path
    data: ImageSource
    run: Path
    method: str = "moth"
    share: float = 0.05
    test: ImageSource | None = None
    first: int | None = None
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    distance_pairs: int = 20
    distance_seeds: int = 1
    distance_precision: Precision = "float32"
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    command: tuple[str, ...] = ()
    variants: bool = False
    data_named: bool = True

    @property
    def protocol(self) -> DistanceProtocol:
        """How distances are measured.

        Raises:
            InputError: `distance_seeds` is out of range.
        """
        if not 1 <= self.distance_seeds <= len(PUBLISHED_SEEDS):
            raise InputError(
                f"--distance-seeds must be from 1 to {len(PUBLISHED_SEEDS)}, got "
                f"{self.distance_seeds}"
            )
        return DistanceProtocol(
            preset="fast",
            seeds=PUBLISHED_SEEDS[: self.distance_seeds],
            precision=self.distance_precision,
        )


@dataclass(frozen=True, kw_only=True)
class HardenPlan:
    """What a study will do.

    Attributes:
        run: the folder.
        subject: the original, with the training images as its examples.
        data: training and test images.
        hardener: the method.
        reopening: how the new model will be opened again.
        protocol: of the distances.
        manifest: everything needed to repeat the run.
        finished: the card, if there is nothing left to do.
        variants: whether further networks that the method leaves are kept too.
    """

    run: Path
    subject: Subject
    data: HardeningData
    hardener: Hardener
    reopening: Reopening
    protocol: DistanceProtocol
    manifest: HardeningManifest
    finished: HardeningCard | None
    variants: bool = False

    @property
    def folder(self) -> Path:
        """Where everything lies that is not finished."""
        return self.run / UNFINISHED


def plan(study: HardenStudy) -> HardenPlan:
    """Open the model, and check everything that can be checked at once.

    Raises:
        InputError: an option, the model or the images are unusable; nothing was written.
        RunError: the folder holds another hardening, or a finished one that was altered.
    """
    study = replace(study, test=default_test(study.data, study.test))
    if study.threads is not None:
        torch.set_num_threads(study.threads)
    protocol = study.protocol
    old = _earlier(study.run)
    method, parameters = parse_spec(
        study.method, HARDENERS, ENTRY_POINTS, kind="method", contract=Hardener
    )
    if not study.variants:
        refuse_oracle(method, parameters)
    hardener = cast(Hardener, build(resolve(method, HARDENERS, ENTRY_POINTS), parameters))
    found, opened, data = _opened(study)
    subject = opened.subject
    reopening = Reopening.of(subject, option=study.architecture, forbidden=study.model)
    reopening.check(subject)
    manifest = _manifest(study, protocol, (method, parameters), found, opened, data)
    if old is not None:
        manifest = _continued(study.run, old, manifest)
    return HardenPlan(
        run=study.run,
        subject=subject,
        data=data,
        hardener=hardener,
        reopening=reopening,
        protocol=protocol,
        manifest=manifest,
        finished=_finished(study.run),
        variants=study.variants,
    )


def _opened(study: HardenStudy) -> tuple[RoundModel, Opened, HardeningData]:
    require_source(study.data, "--data")
    models = read_round(study.model, examples=study.data).models
    if len(models) != 1:
        raise InputError(
            f"expected one model, {study.model} holds {len(models)}: name one model file, or the "
            "folder of one model"
        )
    source = ArchitectureSource.optional(study.architecture, forbidden=study.model)
    device = resolve_device(study.device)
    known = replace(models[0], normalisation=study.normalisation, examples_named=study.data_named)
    drawing = Drawing(
        share=study.share, seed=study.seed, first=study.first, held_out=study.test is None
    )
    drawing.check()
    opened = open_subject(
        known,
        architecture=source,
        device=device,
        require_sandbox=study.require_sandbox,
        select=drawing.training,
        size=stated_size(known.file),
    )
    if study.test is None:
        test = drawing.test(opened.pictures)
    else:
        test = read_test(study.test, models[0], opened)
        opened = _doubted(opened, test.resized)
    check_room(test)
    data = HardeningData(
        training=opened.subject.examples,
        test=test.examples().to(device),
        given=len(opened.pictures.first(study.first)),
        held_out=HELD_OUT if study.test is None else None,
    )
    return models[0], opened, data


def _doubted(opened: Opened, doubt: str) -> Opened:
    """The same with one more doubt, unless that is empty."""
    doubts = (*opened.subject.doubts, *filter(None, [doubt]))
    return replace(opened, subject=replace(opened.subject, doubts=doubts))


def _manifest(
    study: HardenStudy,
    protocol: DistanceProtocol,
    method: tuple[str, dict[str, Any]],
    found: RoundModel,
    opened: Opened,
    data: HardeningData,
) -> HardeningManifest:
    subject = opened.subject
    return HardeningManifest(
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
        doubts=subject.doubts,
        method=method[0],
        # As JSON gives them back, so that they can be compared with those of an earlier sitting.
        parameters=json.loads(json.dumps(method[1], default=str)),
        data=data.record(subject.num_classes, data=study.data, test=study.test, share=study.share),
        protocol=ProtocolRecord(
            **asdict(protocol), schedule=json.loads(canonical(asdict(protocol.schedule)))
        ),
        pairs=draw_pairs(data.test, subject.num_classes, study.distance_pairs, study.seed),
        seed=study.seed,
        device=str(subject.examples.images.device),
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def _earlier(run: Path) -> HardeningManifest | None:
    """The manifest of what the folder holds already, if it holds a hardening.

    Raises:
        InputError: it holds something else, which must not be written over.
    """
    if (run / UNFINISHED / MANIFEST).is_file():
        return read_record(run / UNFINISHED / MANIFEST, HardeningManifest)
    if (run / CARD).is_file():
        return read_record(run / CARD, HardeningCard).run
    if not run.is_dir():
        return None
    others = sorted(path.name for path in run.iterdir() if not path.name.startswith("."))
    if others and others != [UNFINISHED]:
        raise InputError(
            f"{run} holds {', '.join(others[:3])}, but no hardening: expected a new or empty "
            "folder as --out"
        )
    return None


def _finished(run: Path) -> HardeningCard | None:
    """The card of a hardening that is over.

    Raises:
        RunError: its model is not the one that was written.
    """
    if not (run / CARD).is_file():
        return None
    card = read_record(run / CARD, HardeningCard)
    if card.training.status != "hardened":
        return None
    weights = run / WEIGHTS
    if not weights.is_file() or sha256_of(weights) != card.training.sha256:
        raise RunError(
            f"{run} holds a finished hardening, but {WEIGHTS} is missing or was altered since: "
            "choose another --out"
        )
    return card


def _continued(run: Path, old: HardeningManifest, new: HardeningManifest) -> HardeningManifest:
    """The old manifest, if the new one asks for the same.

    Raises:
        RunError: it asks for something else.
    """
    pairs: Sequence[tuple[str, object, object]] = [
        ("of a model with the hash", old.sha256, new.sha256),
        ("with --arch", old.architecture_option, new.architecture_option),
        ("with the method", old.method, new.method),
        *_differences("with the parameter", old.parameters, new.parameters),
        *_differences("with the data's", _plain(old.data), _plain(new.data)),
        *_differences("with the distances'", old.protocol.model_dump(), new.protocol.model_dump()),
        ("with the pairs", old.pairs, new.pairs),
        ("with the normalisation", old.normalisation, new.normalisation),
        ("with --seed", old.seed, new.seed),
        ("on the device", old.device.partition(":")[0], new.device.partition(":")[0]),
        ("with torch", old.versions.get("torch"), new.versions.get("torch")),
        ("by moth-eval", old.versions.get("moth-eval"), new.versions.get("moth-eval")),
    ]
    for what, before, now in pairs:
        if before != now:
            raise RunError(
                f"{run} holds a hardening {what} {before!r}, this one has {now!r}: choose another "
                "--out, or repeat the earlier command to continue it"
            )
    return old


def _differences(
    what: str, old: Mapping[str, object], new: Mapping[str, object]
) -> list[tuple[str, object, object]]:
    return [(f"{what} {k}", old.get(k), new.get(k)) for k in sorted(old.keys() | new.keys())]


def _plain(record: Record) -> dict[str, object]:
    """The fields of a data record that decide the result: not where the files lie."""
    return record.model_dump(exclude={"data", "test"})
