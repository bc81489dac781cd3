"""Images that a backdoor is trained on: an `.npz`, a folder, or a data set of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moth_eval.errors import InputError
from moth_eval.loading.image_arrays import require_room
from moth_eval.loading.images import read_pictures
from moth_eval.loading.layouts import FILES
from moth_eval.pictures import memory_for_images, to_bytes
from moth_eval.splits import HELD_OUT, hash_of, hold_out, in_both

from .attack_records import DataRecord
from .injector import Splits
from .scenes import Scenes

TORCHVISION = "torchvision:"


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
        trained, held = hold_out(training.labels, seed)
        training, tested = training.take(trained), training.take(held)
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
    read = read_pictures(
        path, layout=FILES, crop=None, num_classes=None, most_bytes=memory_for_images()
    )
    images = to_bytes(read.images).expand(-1, 3, -1, -1).contiguous()
    return Scenes(images=images, labels=read.labels)


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
        in_both=in_both(splits.training, splits.test),
    )


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
        if not images:
            size = len(data_set) * pixels.size
            what = f"{source} holds {len(data_set)} images of shape {pixels.shape}"
            require_room(what, size, size, memory_for_images())
        images.append(pixels)
        labels.append(int(label))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Scenes(images=stacked, labels=torch.tensor(labels, dtype=torch.int64))
