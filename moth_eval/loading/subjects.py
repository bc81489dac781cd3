"""From a model of a round to a subject that can be scanned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, MothError, RefusedFile
from ..pictures import Pictures, check_room, memory_for_images
from ..splits import check_all_named
from ..subject import Subject
from .architectures import ArchitectureSource
from .doubts import (
    doubts_of_batches,
    doubts_of_choice,
    doubts_of_classes,
    doubts_of_input,
    doubts_of_labels,
    doubts_of_outputs,
    doubts_of_repetition,
)
from .files import LoadedNetwork, load_network
from .forward import CannotRun, Measured, measure_forward
from .images import read_pictures
from .preprocessing import Choice, choose_preprocessing, forward, looked_at
from .rounds import RoundModel
from .stacking import Size

LOG = logging.getLogger(__name__)

_REPEATED = 8
"""Images of the second pass that shows whether a network is random."""


Select = Callable[[Pictures], Pictures]
"""Which of all images that were read are used."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A subject and how it was read.

    Attributes:
        subject: with the normalisation chosen, and doubts.
        pictures: all images that were read, of which the subject may have a part.
        normalisation: the one that was chosen, as `normalisations.canonical` writes it.
        tried: name of every normalisation -> accuracy under it, on the examples looked at.
        format: format of the model file.
        guards: what the kernel held the process to that opened the file.
        notes: sentences on what was seen on the way.
    """

    subject: Subject
    pictures: Pictures
    normalisation: str
    tried: Mapping[str, float]
    format: str
    guards: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_member(
    model: RoundModel,
    architecture: ArchitectureSource | None,
    *,
    require_sandbox: bool = False,
) -> LoadedNetwork:
    """The network in a model's file, of which what its files state helps to find the kind.

    Args:
        model: what `read_round` found; its examples are not looked at.
        architecture: where to take the network from, if the file does not say.
        require_sandbox: see `open_subject`.

    Raises:
        RefusedFile: the file cannot be read safely.
    """
    return load_network(
        model.file,
        architecture=architecture,
        architecture_name=model.architecture or None,
        num_classes=model.num_classes,
        require_sandbox=require_sandbox,
    )


def open_subject(
    model: RoundModel,
    *,
    architecture: ArchitectureSource | None = None,
    device: torch.device,
    max_examples_per_class: int | None = None,
    require_sandbox: bool = False,
    select: Select | None = None,
    size: Size | None = None,
) -> Opened:
    """Reads a model file and its clean examples, and finds out the normalisation.

    What the model's side-car states of that counts, and is doubted where the examples speak against
    it; the model's own `normalisation` alone counts where it is set.

    All images decide on the normalisation, and only those that are selected become float32. The
    state of the global random number generators is left as it was.

    Args:
        model: what `read_round` found.
        architecture: where to take the network from, if the file does not say.
        device: where network and examples end up.
        max_examples_per_class: only so many clean examples of each class.
        require_sandbox: whether to refuse where the kernel does not offer every guard for the
            process that opens the file.
        select: which images are the subject's examples; None: all of them.
        size: what pictures of several sizes are resized to; None: they have one. A record beside
            a model of unknown origin must not decide on it.

    Raises:
        RefusedFile: the model file cannot be read safely, or does not work as a classifier of
            images of the examples' size.
        InputError: there is no model file or no examples, or they do not fit.
    """
    if model.examples is None or not model.usable:
        raise InputError(f"{model.name} cannot be opened: {'; '.join(model.problems)}")
    seen = _identity(model.file)
    loaded = load_member(model, architecture, require_sandbox=require_sandbox)
    if _identity(model.file) != seen:
        raise RefusedFile(f"{model.file} was changed while it was read; let it rest and try again")
    pictures = read_pictures(
        model.examples,
        layout=model.layout,
        crop=model.crop,
        num_classes=loaded.num_classes,
        limit_per_class=max_examples_per_class,
        most_bytes=memory_for_images() if model.examples_named else None,
        size=size,
    )
    if pictures.resized:
        LOG.warning(pictures.resized)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        pictures, measured = _fitted_to(loaded.module, pictures, model)
        num_classes = measured.num_classes
        _require_labels(pictures.labels, num_classes, model)
        images = f"{model.name}: {model.examples}"
        check_all_named(pictures.classes, num_classes, images=images, network="the network")
        module = loaded.module.to(device).eval()
        seen_by = pictures.take(looked_at(len(pictures))).examples().to(device)
        choice = choose_preprocessing(
            module,
            seen_by,
            layout=model.layout,
            batch_size=measured.batch_size,
            only=model.normalisation,
            stated=model.stated_normalisation,
        )
        few = pictures.first(min(_REPEATED, measured.batch_size)).examples().images.to(device)
        doubts_of_passes = _repeated(module, choice, few)
    chosen = pictures if select is None else select(pictures)
    if model.examples_named:
        check_room(chosen)
    subject = Subject(
        name=model.name,
        module=module,
        preprocessing=choice.preprocessing,
        num_classes=num_classes,
        image_shape=pictures.image_shape,
        examples=chosen.examples().to(device),
        architecture=loaded.architecture or model.architecture,
        sha256=loaded.sha256,
        doubts=(
            *doubts_of_choice(choice),
            *filter(None, [pictures.resized]),
            *doubts_of_labels(pictures.labels, num_classes),
            *doubts_of_outputs(choice.logits),
            *doubts_of_passes,
            *doubts_of_classes(model.num_classes, num_classes),
        ),
    )
    return Opened(
        subject=subject,
        pictures=pictures,
        normalisation=choice.name,
        tried=choice.tried,
        format=loaded.format,
        guards=loaded.guards,
        notes=(*loaded.notes, *model.problems),
    )


def _identity(path: Path) -> tuple[int, ...]:
    """What changes when a file is replaced or written to; empty if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _fitted_to(
    module: nn.Module, pictures: Pictures, model: RoundModel
) -> tuple[Pictures, Measured]:
    """As `_fitted`; images that the caller named and that do not fit are no fault of the file.

    Raises:
        InputError: the network does not take them.
    """
    try:
        return _fitted(module, pictures)
    except CannotRun as error:
        if not model.examples_named:
            raise
        channels, height, width = pictures.image_shape
        raise InputError(
            f"{model.name} does not take the images in {model.examples}, {width} x {height} pixels "
            f"with {channels} {'channel' if channels == 1 else 'channels'}: give images of the "
            f"size and kind that it was trained on ({error.__cause__!r:.200})"
        ) from error


def _fitted(module: nn.Module, pictures: Pictures) -> tuple[Pictures, Measured]:
    """Pictures with the channels that the network takes, and what its first run tells.

    Image files are always read as RGB; a network that takes one channel gets one, if the images
    are grey. One that takes three gets grey arrays three times.
    """
    try:
        return pictures, measure_forward(module, pictures.image_shape)
    except MothError:
        other = pictures.coloured() or pictures.grey()
        if other is None:
            raise
        # If that fails too, the first error is the one that tells of the images as they are.
        with suppress(MothError):
            return other, measure_forward(module, other.image_shape)
        raise


def _require_labels(labels: Tensor, num_classes: int, model: RoundModel) -> None:
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= num_classes:
        raise InputError(
            f"{model.name}: example labels run from {lowest} to {highest}, but the network has the "
            f"classes 0 to {num_classes - 1}; mend the labels in {model.examples}, or give the "
            "examples of this model"
        )


@torch.no_grad()
def _repeated(module: nn.Module, choice: Choice, images: Tensor) -> tuple[str, ...]:
    """Doubts from further passes over a few images `(N, C, H, W)` in image space."""
    given = choice.preprocessing(images)
    eaten = given.clone()
    first = module(eaten)
    second = forward(module, choice.preprocessing, images, batch_size=len(images))
    chance = tuple(doubts_of_repetition(first, second))
    # A random network differs from itself in any batch.
    batches = () if chance else tuple(doubts_of_batches(first, _singly(module, choice, images)))
    return (*chance, *batches, *doubts_of_input(given, eaten))


def _singly(module: nn.Module, choice: Choice, images: Tensor) -> Tensor | None:
    try:
        return forward(module, choice.preprocessing, images, batch_size=1)
    except Exception:  # whatever a network raises that takes more than one image at a time
        return None
