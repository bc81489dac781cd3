"""What an array in an `.npz` claims to be, told before anything is allocated. No torch here."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What numpy writes; the errors of other unpackers are theirs."""

_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The header of an array, and what is there.

    Attributes:
        shape: of the array.
        dtype: of its items.
        held: bytes behind the header, as the archive lists them.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    held: int

    @property
    def is_true(self) -> bool:
        """Whether as many bytes are there as such an array takes."""
        return prod(self.shape) * self.dtype.itemsize == self.held


def claim_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Claim:
    """The header of a member.

    Raises:
        ValueError: it is none that numpy writes of plain arrays.
    """
    name = info.filename.removesuffix(".npy")
    if info.compress_type not in _PACKINGS:
        raise ValueError(f"the array {name!r} is compressed in a way that numpy does not write")
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in _READERS:
            raise ValueError(f"the array {name!r} is written in version {version}")
        try:
            shape, _, dtype = _READERS[version](file)
        except Exception as error:  # numpy parses it as Python, which may raise anything
            raise ValueError(f"the array {name!r} has a header that is none: {error!r}") from error
        return Claim(shape=shape, dtype=dtype, held=info.file_size - file.tell())


def array_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """The array itself, once its claim is known to be true; nothing is unpickled.

    Raises:
        ValueError: numpy cannot make an array of that shape.
    """
    with archive.open(info) as file:
        try:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        except (OverflowError, TypeError) as error:
            raise ValueError(f"the array {info.filename!r} cannot be made: {error}") from error
    return array
