"""Arrays that a run left, read without believing what their headers claim."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from moth_eval.npy_headers import array_of, claim_of

MOST_BYTES = 1 << 30
"""Of all arrays of a file together; triggers for 1,000 classes at 224 pixels take 0.8 GB."""

UNREADABLE = (
    ValueError, KeyError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading a file of arrays may raise."""

Arrays = Mapping[str, NDArray[Any]]


def arrays_in(content: bytes) -> Arrays:
    """Name -> array of numbers, of what `numpy.savez` wrote; nothing is unpickled.

    Raises:
        ValueError: an array is none of numbers, or not as large as it claims, or all are too large.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sum(_bytes_of(archive, info) for info in members) > MOST_BYTES:
            raise ValueError(f"its arrays take more than {MOST_BYTES:,} bytes")
        return {info.filename.removesuffix(".npy"): array_of(archive, info) for info in members}


def _bytes_of(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Bytes of an array, by its header and by the archive, before anything is allocated."""
    claim = claim_of(archive, info)
    if claim.dtype.hasobject or claim.dtype.kind not in "buif" or not claim.is_true:
        raise ValueError(
            f"the array {info.filename!r} claims the shape {claim.shape} of {claim.dtype}, and "
            f"{claim.held:,} bytes are there"
        )
    return claim.held
