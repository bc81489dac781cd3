"""Images that a backdoor is trained on: an `.npz`, a folder, or a data set of torchvision."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.loading.image_arrays import MAX_VALUES, read_arrays
from moth_eval.loading.images import read_examples
from moth_eval.loading.layouts import FILES
from moth_eval.seeds import generator_for

from .attack_records import DataRecord
from .injector import Splits
from .poisoning import to_bytes
from .scenes import Scenes

HELD_OUT = 0.2
"""Fraction of each class that is held out for testing where no test images are given."""

TORCHVISION = "torchvision:"

MOST_VALUES = 8 * MAX_VALUES
"""Pixels times channels of the training images: 1 GiB of bytes."""


@dataclass(frozen=True, kw_only=True)
class GivenData:
    """The task of an injection.

    Attributes:
        splits: training and test images; there is no validation, since nothing is decided by it.
        record: what `attack.json` says of them.
    """

    splits: Splits
    record: DataRecord


def read_data(data: str, test: str, *, seed: int) -> GivenData:
    """Training and test images.

    Args:
        data: `.npz` with `images` and `labels`, folder of labelled images, or
            `torchvision:NAME:FOLDER`.
        test: the same; empty: the test part of a torchvision data set, or else a fifth of each
            class of the data, held out.
        seed: decides what is held out.

    Raises:
        InputError: they cannot be read, do not fit together, or leave nothing to test on.
    """
    training = read_scenes(data, training=True)
    if not test and data.startswith(TORCHVISION):
        test = data
    held_out = None if test else HELD_OUT
    if test:
        tested = read_scenes(test, training=False)
    else:
        training, tested = _divided(training, seed)
    _check_fit(training, tested, data, test)
    classes = int(torch.cat([training.labels, tested.labels]).max()) + 1
    nothing = training.take(torch.zeros(0, dtype=torch.int64))
    splits = Splits(training=training, validation=nothing, test=tested, num_classes=classes)
    return GivenData(splits=splits, record=_record(splits, data, test, held_out))


def read_scenes(source: str, *, training: bool) -> Scenes:
    """Labelled images, always with three channels; grey ones are repeated.

    Args:
        source: see `read_data`.
        training: which part of a torchvision data set.

    Raises:
        InputError: they cannot be read.
    """
    if source.startswith(TORCHVISION):
        return _torchvision(source, training=training)
    path = Path(source)
    if not path.exists():
        raise InputError(
            f"{source} does not exist: expected an .npz, a folder of labelled images, or "
            "torchvision:NAME:FOLDER, such as torchvision:CIFAR10:/data"
        )
    if path.suffix.lower() == ".npz":
        arrays, classes = read_arrays(path, most=MOST_VALUES)
        images, labels = torch.from_numpy(arrays), torch.from_numpy(classes)
        images = images if images.dtype == torch.uint8 else to_bytes(images)
        if not len(labels) or int(labels.min()) < 0:
            raise InputError(f"{source}: expected images, labelled with classes from 0 on")
    else:
        examples = read_examples(path, layout=FILES, crop=None, num_classes=None)
        images, labels = to_bytes(examples.images), examples.labels
    return Scenes(images=images.expand(-1, 3, -1, -1).contiguous(), labels=labels)


def hash_of(scenes: Scenes) -> str:
    """SHA-256 of the images as bytes `(N, 3, H, W)` and the labels as int64, hexadecimal."""
    digest = hashlib.sha256(scenes.images.contiguous().numpy().tobytes())
    digest.update(scenes.labels.numpy().tobytes())
    return digest.hexdigest()


def _divided(scenes: Scenes, seed: int) -> tuple[Scenes, Scenes]:
    """A share of each class held out, never its last image; what is drawn depends on the class."""
    held = torch.zeros(len(scenes), dtype=torch.bool)
    for label in sorted(set(scenes.labels.tolist())):
        members = (scenes.labels == label).nonzero().flatten()
        count = min(max(1, round(HELD_OUT * len(members))), len(members) - 1)
        order = torch.randperm(len(members), generator=generator_for(seed, "held out", label))
        held[members[order[:count]]] = True
    if not held.any():
        raise InputError(
            "no class of --data has two images, so none can be held out for testing: give more "
            "images, or others with --test"
        )
    return scenes.take(~held), scenes.take(held)


def _check_fit(training: Scenes, tested: Scenes, data: str, test: str) -> None:
    if training.images.shape[1:] != tested.images.shape[1:]:
        raise InputError(
            f"--test: {test} holds images of shape {tuple(tested.images.shape[1:])}, those of "
            f"{data} have {tuple(training.images.shape[1:])}: resize them"
        )
    if len(set(training.labels.tolist())) < 2:
        raise InputError(f"{data} holds images of one class: expected two or more")


def _record(splits: Splits, data: str, test: str, held_out: float | None) -> DataRecord:
    channels, height, width = splits.training.images.shape[1:]
    return DataRecord(
        data=data,
        test=test,
        held_out=held_out,
        num_classes=splits.classes,
        image_shape=(channels, height, width),
        training=len(splits.training),
        training_sha256=hash_of(splits.training),
        tested=len(splits.test),
        test_sha256=hash_of(splits.test),
        in_both=_in_both(splits.training.images, splits.test.images),
    )


def _in_both(training: Tensor, tested: Tensor) -> int:
    known = {image.tobytes() for image in training.numpy()}
    return sum(image.tobytes() in known for image in tested.numpy())


def _torchvision(source: str, *, training: bool) -> Scenes:
    name, _, root = source.removeprefix(TORCHVISION).partition(":")
    kind = _data_set(name)
    if not root or not Path(root).is_dir():
        raise InputError(
            f"{source}: {root or 'no folder'} is not there: expected torchvision:{name}:FOLDER "
            f"with the files of {name} in FOLDER; nothing is downloaded"
        )
    try:
        data_set = kind(root, **_part(kind, training))
        return _stacked(source, data_set)
    except (RuntimeError, OSError, ImportError, ValueError) as error:
        raise InputError(
            f"{source}: torchvision does not find a whole {name} in {root} ({error}): put its "
            "files there as torchvision unpacks them; nothing is downloaded"
        ) from error


def _data_set(name: str) -> Callable[..., Any]:
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)):
        raise InputError(f"torchvision has no data set {name!r}: expected one such as CIFAR10")
    if not _part(kind, True):
        raise InputError(
            f"torchvision's {name} has no training and test part: give its images as a folder"
        )
    made: Callable[..., Any] = kind
    return made


def _part(kind: Callable[..., Any], training: bool) -> dict[str, object]:
    """The options that choose the training or the test part, and forbid any download."""
    known = inspect.signature(kind).parameters
    options: dict[str, object] = {"download": False} if "download" in known else {}
    if "train" in known:
        return {"train": training, **options}
    if "split" in known:
        return {"split": "train" if training else "test", **options}
    return {}


def _stacked(source: str, data_set: Any) -> Scenes:
    images: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] = []
    labels = []
    for picture, label in data_set:
        pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
        if images and pixels.shape != images[0].shape:
            raise InputError(
                f"{source}: images have the shapes {images[0].shape} and {pixels.shape}; expected "
                "images of one size: give them resized, as a folder or an .npz"
            )
        if len(data_set) * pixels.size > MOST_VALUES:
            raise InputError(f"{source} is larger than can be held in memory at once")
        images.append(pixels)
        labels.append(int(label))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Scenes(images=stacked, labels=torch.tensor(labels, dtype=torch.int64))
