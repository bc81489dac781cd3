"""Arrays that a run left, read without believing what their headers claim."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

MOST_BYTES = 1 << 30
"""Of all arrays of a file together; triggers for 1,000 classes at 224 pixels take 0.8 GB."""

UNREADABLE = (
    ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a file of arrays may raise."""

Arrays = Mapping[str, NDArray[Any]]

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def arrays_in(content: bytes) -> Arrays:
    """Name -> array of numbers, of what `numpy.savez` wrote; nothing is unpickled.

    Raises:
        ValueError: an array is none of numbers, or not as large as it claims, or all are too large.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(_bytes_of(archive, info) for info in members) > MOST_BYTES:
            raise ValueError(f"its arrays take more than {MOST_BYTES:,} bytes")
        return {info.filename.removesuffix(".npy"): _array(archive, info) for info in members}


def _bytes_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes of an array, by its header and by the archive, before anything is allocated."""
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"the array {info.filename!r} is written in version {version}")
        shape, _, dtype = _HEADERS[version](file)
        held = info.file_size - file.tell()
    size = prod(shape) * dtype.itemsize
    if dtype.hasobject or dtype.kind not in "buif" or size != held:
        raise ValueError(
            f"the array {info.filename!r} claims the shape {shape} of {dtype}, and {held:,} bytes "
            "are there"
        )
    return size


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
    return array
