"""Images and labels from an `.npz`, without trusting what its headers claim."""

from __future__ import annotations

import zipfile
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..npy_headers import Claim, array_of, claim_of
from ..pictures import in_gib

MAX_VALUES = 2**27
"""Pixels times channels of what lies with a model: 512 MiB as float32."""
MAX_SIDE = 4096
LARGEST_ITEM = 16
"""Bytes of a number."""
_ARCHIVE = b"PK\x03\x04"
_MEMBERS = ("images", "labels")
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_arrays(
    path: Path, *, most_bytes: int | None = None
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Images `(N, C, H, W)`, uint8 or float32 in `[0, 1]`, and labels int64 `(N,)`.

    The file holds `images`, uint8 or float in `[0, 1]`, as `(N, H, W, C)`, `(N, C, H, W)` or
    `(N, H, W)` with 1 or 3 channels, and `labels`, whole numbers `(N,)`. Pickled objects are
    refused, and nothing is allocated before the sizes have been checked.

    Args:
        path: the file.
        most_bytes: that one array may take; None: it lies with a model, and may hold as many
            values as are read of strangers.

    Raises:
        InputError: the file is not such an archive.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there or not a regular file; expected an .npz")
    try:
        with path.open("rb") as file:
            _require_archive(file.read(len(_ARCHIVE)), path)
            with zipfile.ZipFile(file) as archive:
                images, labels = (_member(archive, member, path, most_bytes) for member in _MEMBERS)
    except _UNREADABLE as error:
        raise InputError(f"{path} cannot be read as an .npz archive: {error}") from error
    return _images(images, path), _labels(labels, len(images), path)


def _require_archive(head: bytes, path: Path) -> None:
    # Whatever stands before an archive, other programs may read in its place.
    if head != _ARCHIVE:
        raise InputError(
            f"{path} cannot be read as an .npz archive: it does not begin as one; write it with "
            "numpy.savez(path, images=..., labels=...)"
        )


def require_room(what: str, values: int, size: int, most_bytes: int | None) -> None:
    """Make sure that images may be read, before any memory is taken for them.

    Args:
        what: of which file, how many and how large they are.
        values: pixels times channels.
        size: bytes that they take.
        most_bytes: see `read_arrays`.

    Raises:
        InputError: they are too many.
    """
    if most_bytes is None and values > MAX_VALUES:
        raise InputError(
            f"{what}: {values:,} values, but at most {MAX_VALUES:,} values are read of what lies "
            "with a model; give fewer, or name the images yourself with --examples"
        )
    if most_bytes is not None and size > most_bytes:
        raise InputError(
            f"{what}: {in_gib(size)}, but at most {in_gib(most_bytes)} are read, half of the "
            "memory that is free; give fewer or smaller images, or make memory free"
        )


def _member(
    archive: zipfile.ZipFile, member: str, path: Path, most_bytes: int | None
) -> NDArray[Any]:
    info = _info(archive, member, path)
    _require_plain(claim_of(archive, info), member, path, most_bytes)
    return array_of(archive, info)


def _info(archive: zipfile.ZipFile, member: str, path: Path) -> zipfile.ZipInfo:
    """Where a member lies in the archive."""
    try:
        info = archive.getinfo(f"{member}.npy")
    except KeyError:
        names = ", ".join(name.removesuffix(".npy") for name in archive.namelist()[:6])
        raise InputError(
            f"{path} has no array {member!r}; expected images and labels, found "
            f"{names or 'nothing'}"
        ) from None
    return info


def _require_plain(claim: Claim, member: str, path: Path, most_bytes: int | None) -> None:
    """Raises `InputError` unless a member is an array of numbers as large as it claims to be."""
    shape, dtype = claim.shape, claim.dtype
    if not dtype.hasobject and (dtype.kind not in "buif" or dtype.itemsize > LARGEST_ITEM):
        raise InputError(f"{path}: the array {member!r} holds {dtype}; expected plain numbers")
    if dtype.hasobject:
        raise InputError(
            f"{path}: the array {member!r} holds pickled objects, which are never loaded; save it "
            "as numbers"
        )
    if not claim.is_true:
        raise InputError(
            f"{path}: the array {member!r} claims the shape {shape} of {dtype}; it holds "
            f"{claim.held:,} bytes"
        )
    what = f"{path}: the array {member!r} has the shape {shape} of {dtype}"
    require_room(what, prod(shape), claim.held, most_bytes)


def _images(images: NDArray[Any], path: Path) -> NDArray[Any]:
    if images.ndim == 3:
        images = images[..., None]
    if max(images.shape[1:], default=0) > MAX_SIDE:
        raise InputError(
            f"{path}: images have the shape {images.shape}; sides of at most {MAX_SIDE} pixels are "
            "read; scale them down"
        )
    if images.ndim != 4 or not {1, 3} & {images.shape[1], images.shape[3]}:
        raise InputError(
            f"{path}: images have the shape {images.shape}; expected (N, H, W, C) or (N, C, H, W) "
            "with 1 or 3 channels"
        )
    last, second = images.shape[3] in (1, 3), images.shape[1] in (1, 3)
    if last and second:
        raise InputError(
            f"{path}: images have the shape {images.shape}, in which either end may be the "
            "channels; save larger images"
        )
    return _values(images.transpose(0, 3, 1, 2) if last else images, path)


def _values(images: NDArray[Any], path: Path) -> NDArray[Any]:
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise InputError(
            f"{path}: images are {images.dtype}; expected uint8, or floating point in [0, 1]"
        )
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"{path}: images run from {images.min():g} to {images.max():g}; floating-point images "
            "must lie in [0, 1]: divide by 255, and undo any standardisation"
        )
    return images.astype(np.float32, copy=False)


def _labels(labels: NDArray[Any], count: int, path: Path) -> NDArray[np.int64]:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: labels are {labels.dtype} of the shape {labels.shape}; expected whole "
            f"numbers of the shape ({count},), one per image"
        )
    return labels.astype(np.int64)
