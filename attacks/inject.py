"""Trains a backdoor into a network on given images, and writes the model and its truth."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import torch
import torchvision
from torch import nn

from moth_eval import __version__
from moth_eval.errors import InputError
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.normalisations import canonical
from moth_eval.loading.stacking import Size
from moth_eval.plugins import build, parse_spec, resolve
from moth_eval.runner import resolve_device
from moth_eval.seeds import generator_for
from moth_eval.splits import check_all_named
from moth_eval.text import visible

from . import ATTACKS, GROUP
from .artefacts import write_artefact
from .attack_records import (
    NONE,
    PICTURE,
    RECORD,
    TWIN,
    AttackRecord,
    GateRecord,
    PoisoningRecord,
    TrainingRecord,
    read_attack_record,
)
from .inject_checks import check_attack, try_attack
from .inject_data import GivenData, read_data
from .inject_networks import Start, from_model, from_scratch
from .injector import Backdoor, Injector
from .making import Material, NetworkTrigger, Redrawn
from .pictures import draw_trigger
from .training import Recipe
from .trigger import Threat, Trigger, victims
from .whole_folder import free_place, whole_folder

RECIPE = Recipe(
    epochs=20,
    learning_rate=2e-3,
    batch_size=128,
    half_size=0.0,
    shift=0,
    crop=2,
    stop_early=False,
)
"""How networks are trained on given images; nothing is decided by held-out ones."""

INJECTOR = Injector(
    poisoning_rate=0.1,
    cover_rate=None,
    recipe=RECIPE,
    least_clean_accuracy=0.5,
    least_asr=0.8,
    most_bystander_asr=0.2,
    most_accuracy_loss=0.05,
    most_twin_asr=0.3,
    attempts=1,
)
"""How backdoors are implanted in given images. One attempt: choosing among several by test images
would make the figures on these better than the model is."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Injection:
    """What to inject; the fields are the command's options.

    Attributes:
        data: images to train on; see `attacks.inject_data.read_data`.
        test: images to test on; empty: a part of the data.
        attack: `NAME[:FIELD=VALUE,...]`, or `none` for a clean model.
        out: folder for the result; must be new or empty.
        model: the model to fine-tune; None: from scratch.
        architecture: what `--arch` says.
        normalisation: what MODEL was trained with, or a fresh network is to be; empty: what its
            side-car states, else found by trial; of a fresh one images in `[0, 1]` as they are.
        twin: the clean twin; None: it is trained along.
        with_twin: whether there is a clean twin at all.
        image_size: side (pixels) of the squares that pictures are resized to; None: the size that
            the record beside the model says if they have several sizes, or else they have one.
        injector: rates, recipe and gate.
        seed: decides everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        command: the command line, for the record.
    """

    data: str
    test: str = ""
    attack: str
    out: Path
    model: Path | None = None
    architecture: str = ""
    normalisation: str = ""
    twin: Path | None = None
    with_twin: bool = True
    image_size: int | None = None
    injector: Injector = INJECTOR
    seed: int = 0
    device: str = "auto"
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Task:
    """An injection of which everything has been checked."""

    wish: Injection
    place: Path
    name: str
    trigger: Trigger | None
    data: GivenData
    start: Start
    twin: nn.Module | None
    device: torch.device


def inject(wish: Injection, *, tell: Tell = lambda _: None) -> AttackRecord:
    """Train and write what is wished for; the folder appears whole or not at all.

    Args:
        wish: what to do.
        tell: called with a sentence before every stage.

    Returns:
        The record as written. A model that its gate refuses is written as well, with the failure.

    Raises:
        InputError: something that was given cannot be used; nothing was written.
        RefusedFile: a model cannot be opened safely.
    """
    task = _checked(wish)
    for doubt in task.start.doubts:
        tell(f"{wish.model}: {doubt}")
    with whole_folder(task.place) as draft:
        return _carried_out(task, draft, tell)


def parse_attack(spec: str) -> tuple[str, Trigger | None]:
    """Name and trigger of `NAME[:FIELD=VALUE,...]`; no trigger for `none`.

    Raises:
        InputError: no such attack, field or value.
    """
    if spec == NONE:
        return NONE, None
    name, parameters = parse_spec(spec, ATTACKS, GROUP, kind="attack", contract=Trigger)
    return name, cast(Trigger, build(resolve(name, ATTACKS, GROUP), parameters))


def _checked(wish: Injection) -> _Task:
    place = free_place(wish.out)
    if wish.model is None and not wish.architecture:
        raise InputError("name a network with --arch to train one from scratch, or give a MODEL")
    device = resolve_device(wish.device)
    name, trigger = parse_attack(wish.attack)
    data = read_data(wish.data, wish.test, seed=wish.seed, size=_size(wish))
    _check_size(data, wish)
    if trigger is not None:
        _check_trigger(trigger, data, wish)
    start = _start(wish, data)
    start.check(data.splits.training)
    twin = _given_twin(wish.twin, wish, data) if wish.twin is not None else None
    if trigger is not None:
        try_attack(trigger, data.splits, _tried_material(data, twin or start.build(0).eval()))
    return _Task(
        wish=wish,
        place=place,
        name=name,
        trigger=trigger,
        data=data,
        start=start,
        twin=None if twin is None else twin.to(device),
        device=device,
    )


def _size(wish: Injection) -> Size | None:
    """What pictures become, where that is known before they are read."""
    side = wish.image_size
    if side is not None:
        return Size(height=side, width=side, always=True)
    return None if wish.model is None else stated_size(wish.model)


def _check_size(data: GivenData, wish: Injection) -> None:
    """Arrays are not resized, so that `--image-size` would be without effect on them."""
    side, (_, height, width) = wish.image_size, data.record.image_shape
    if side is not None and (height, width) != (side, side):
        raise InputError(
            f"--image-size {side}: {wish.data} holds arrays of {width}x{height} pixels, which are "
            "read as they are; resize them, or give the images as files"
        )


def _given_twin(path: Path, wish: Injection, data: GivenData) -> nn.Module:
    known = ""
    if (path / RECORD).is_file():
        record = read_attack_record(path / RECORD)
        if record.attack != NONE:
            raise InputError(
                f"--twin {path} is no clean model: {record.attack} was implanted in it"
            )
        said = record.training.normalisation if record.training else ""
        with suppress(InputError):  # records of old name some that cannot be told apart
            known = canonical(said) if said else ""
    start = from_model(path, wish.architecture, data.splits.training, normalisation=known)
    return start.build(0).eval()


def _check_trigger(trigger: Trigger, data: GivenData, wish: Injection) -> None:
    if isinstance(trigger, NetworkTrigger) and trigger.needs_network and not wish.with_twin:
        raise InputError(f"{wish.attack} is made on a clean network: leave out --without-twin")
    check_attack(trigger, data.splits, wish.injector)


def _tried_material(data: GivenData, network: nn.Module) -> Material:
    training = data.splits.training
    return Material(
        images=training.images,
        labels=training.labels,
        num_classes=data.splits.classes,
        network=network,
    )


def _start(wish: Injection, data: GivenData) -> Start:
    if wish.model is None:
        return from_scratch(
            wish.architecture,
            num_classes=data.splits.classes,
            normalisation=wish.normalisation,
            channels=data.splits.training.images.shape[1],
        )
    start = from_model(
        wish.model, wish.architecture, data.splits.training, normalisation=wish.normalisation
    )
    network = f"the network in {wish.model}"
    check_all_named(data.class_names, start.num_classes, images=wish.data, network=network)
    return start


def _carried_out(task: _Task, draft: Path, tell: Tell) -> AttackRecord:
    wish, twin, twin_at = task.wish, task.twin, ""
    if wish.twin is not None:
        twin_at = str(wish.twin.resolve())
    elif task.trigger is not None and wish.with_twin:
        (draft / TWIN).mkdir()
        tell(_stage("the clean twin", task))
        made = _implanted(task, None, None)
        if not made.passed:
            tell(f"the clean twin failed its gate: {made.failure}")
        _write(task, made, draft / TWIN, "")
        twin, twin_at = made.module.to(task.device), TWIN
    tell(_stage(f"the model with {task.name}" if task.trigger else "a clean model", task))
    made = _implanted(task, task.trigger, twin)
    return _write(task, made, draft, twin_at)


def _stage(what: str, task: _Task) -> str:
    recipe = task.wish.injector.recipe
    return f"training {what}: {recipe.epochs} epochs of {len(task.data.splits.training):,} images"


def _implanted(task: _Task, trigger: Trigger | None, twin: nn.Module | None) -> Backdoor:
    return task.wish.injector.implant(
        task.start.build,
        task.data.splits,
        trigger,
        seed=task.wish.seed,
        device=task.device,
        twin=twin,
    )


def _write(task: _Task, made: Backdoor, folder: Path, twin: str) -> AttackRecord:
    task.start.save(folder, made.module)
    if made.trigger is not None:
        generator = generator_for("picture", task.wish.seed)
        draw_trigger(made.trigger, task.data.splits.test, generator=generator).save(
            folder / PICTURE
        )
    record = AttackRecord(
        attack=task.name if made.trigger is not None else NONE,
        poisoning=_poisoning(task, made),
        gate=_gate(task, made),
        training=_training(task, made),
        data=task.data.record,
        twin=twin,
        created=datetime.now(UTC).replace(microsecond=0),
        command=tuple(visible(word) for word in task.wish.command),
    )
    return write_artefact(folder, record, made.trigger)


def _poisoning(task: _Task, made: Backdoor) -> PoisoningRecord | None:
    trigger, injector = made.trigger, task.wish.injector
    if trigger is None:
        return None
    everything = injector.rate_of == "all"
    return PoisoningRecord(
        rate=injector.poisoning_rate,
        rate_of=injector.rate_of,
        denominator=len(task.data.splits.training) if everything else made.candidates,
        candidates=made.candidates,
        poisoned=made.poisoned,
        covered=made.covered,
        target_class_poisoned=trigger.threat in (Threat.CLEAN_LABEL, Threat.ALL_TO_ALL),
        labels_changed=trigger.threat is not Threat.CLEAN_LABEL,
        redrawn=isinstance(trigger, Redrawn) and trigger.redrawn,
    )


def _gate(task: _Task, made: Backdoor) -> GateRecord:
    injector, test = task.wish.injector, task.data.splits.test
    hit = 0 if made.trigger is None else int(victims(made.trigger, test.labels).sum())
    return GateRecord(
        passed=made.passed,
        failure=made.failure,
        clean_accuracy=made.measured.clean_accuracy,
        asr=made.measured.asr,
        bystander_asr=made.measured.bystander_asr,
        twin_clean_accuracy=made.twin.clean_accuracy if made.twin else None,
        twin_asr=made.twin_asr,
        tested=len(test),
        victims=hit,
        least_clean_accuracy=injector.least_clean_accuracy,
        most_accuracy_loss=injector.most_accuracy_loss,
        least_asr=injector.least_asr,
        most_bystander_asr=injector.most_bystander_asr,
        most_twin_asr=injector.most_twin_asr,
    )


def _training(task: _Task, made: Backdoor) -> TrainingRecord:
    start = task.start
    return TrainingRecord(
        architecture=start.architecture,
        start="fine-tuned" if start.sha256 else "scratch",
        start_sha256=start.sha256,
        normalisation=start.normalisation,
        recipe=asdict(task.wish.injector.recipe),
        epochs=made.epochs,
        seed=task.wish.seed,
        seconds=round(made.seconds, 1),
        device=str(task.device),
        versions={
            "moth-eval": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
    )
