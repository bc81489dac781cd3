"""Data sets of torchvision that lie on disk, as pictures."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..pictures import Pictures
from .sources import TorchvisionSet, require_source
from .stacking import Size, Stack

_TRAINING_PARTS = ("train", "trainval", "train-standard")
_TEST_PARTS = ("test", "val")
"""What the part that is not trained on is called, where it goes by a name."""

_NOT_READ = {
    "LSUN": "unpickles a file in its folder, which may hold code",
    "LSUNClass": "unpickles a file in its folder, which may hold code",
    "EMNIST": "is six data sets under one name",
}


def read_torchvision(
    source: TorchvisionSet,
    *,
    most_bytes: int | None,
    size: Size | None = None,
) -> Pictures:
    """The pictures of a part of a data set, read as RGB.

    Args:
        source: the data set.
        most_bytes: that they may take.
        size: what pictures of several sizes are resized to; None: they have one.

    Raises:
        InputError: there is no such data set, it is not whole, or it is too large.
    """
    with _whole(source) as data_set:
        stack = Stack(str(source), len(data_set), size=size, most_bytes=most_bytes)
        labels = []
        for number in range(len(data_set)):
            pixels, label = _item(source, data_set, number)
            stack.add(pixels, f"image {number} of {source}")
            labels.append(label)
    return Pictures(
        images=torch.from_numpy(stack.images),
        labels=torch.tensor(labels, dtype=torch.int64),
        resized=stack.resized,
    )


def hash_of_set(source: TorchvisionSet) -> str:
    """SHA-256 of all pictures of a part, their sizes and their labels, hexadecimal.

    Raises:
        InputError: see `read_torchvision`.
    """
    digest = hashlib.sha256(source.name.encode())
    with _whole(source) as data_set:
        for number in range(len(data_set)):
            pixels, label = _item(source, data_set, number)
            digest.update(f"{pixels.shape} {label}".encode())
            digest.update(pixels.tobytes())
    return digest.hexdigest()


def has_parts(source: TorchvisionSet) -> bool:
    """Whether a data set has a training and a test part.

    Raises:
        InputError: torchvision has no such data set.
    """
    return not {"train", "split"}.isdisjoint(inspect.signature(_kind(source)).parameters)


class _DataSet(Protocol):
    """What all data sets of torchvision are."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> tuple[Any, Any]: ...


@contextmanager
def _whole(source: TorchvisionSet) -> Iterator[_DataSet]:
    kind = _kind(source)
    require_source(source, "--data")
    try:
        yield _opened(kind, source)
    except InputError:
        raise
    except Exception as error:  # whatever its reader raises at files that are not its own
        raise InputError(
            f"{source}: torchvision does not find a whole {source.name} in {source.folder} "
            f"({error!r}): put its files there as torchvision unpacks them; nothing is downloaded"
        ) from error


def _opened(kind: Callable[..., Any], source: TorchvisionSet) -> _DataSet:
    """The part of a data set; whatever it offers, nothing is downloaded."""
    known = inspect.signature(kind).parameters
    options: dict[str, object] = {"download": False} if "download" in known else {}
    if "train" in known:
        options["train"] = source.training
    if "split" in known:
        return _part(kind, source, options)
    made: _DataSet = kind(str(source.folder), **options)
    return made


def _part(kind: Callable[..., Any], source: TorchvisionSet, options: dict[str, object]) -> _DataSet:
    """The part of a data set whose parts go by names that differ from set to set."""
    *others, last = _TRAINING_PARTS if source.training else _TEST_PARTS
    for name in others:
        with suppress(ValueError):  # there is no part of that name
            return cast("_DataSet", kind(str(source.folder), split=name, **options))
    return cast("_DataSet", kind(str(source.folder), split=last, **options))


def _kind(source: TorchvisionSet) -> Callable[..., Any]:
    from torchvision import datasets

    kind = getattr(datasets, source.name, None)
    if not (isinstance(kind, type) and issubclass(kind, datasets.VisionDataset)):
        raise InputError(
            f"torchvision has no data set {source.name!r}: expected one such as CIFAR10"
        )
    if source.name in _NOT_READ:
        raise InputError(
            f"torchvision's {source.name} {_NOT_READ[source.name]}: give its images as a folder or "
            "an .npz"
        )
    if "root" not in inspect.signature(kind).parameters:
        raise InputError(f"torchvision's {source.name} is made, not read: expected one on disk")
    made: Callable[..., Any] = kind
    return made


def _item(source: TorchvisionSet, data_set: _DataSet, number: int) -> tuple[NDArray[np.uint8], int]:
    """Pixels `(3, H, W)` and the class of one picture."""
    picture, label = data_set[number]
    if not isinstance(label, int | np.integer) and getattr(label, "shape", None) != ():
        raise InputError(
            f"{source}: image {number} has a {type(label).__name__} in the place of its class; "
            "expected a data set for classification"
        )
    pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), int(label)
