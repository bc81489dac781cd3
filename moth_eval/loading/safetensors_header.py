"""The table at the head of a safetensors file, read without believing it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

from ..errors import RefusedFile
from .formats import LARGEST_HEADER
from .naming import shown

MOST_DIMENSIONS = 64
LARGEST_NUMBER = 1 << 48

DAMAGED = "the safetensors file is damaged or cut short; copy or download it again"

#: Bytes per element of every dtype that torch can make of a safetensors file.
ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip

Header = Mapping[str, Mapping[str, Any]]
"""Name of a tensor -> its `dtype`, `shape` and `data_offsets`."""


def read_header(file: BinaryIO) -> tuple[Header, int]:
    """The table of an open file, and where the numbers begin.

    Raises:
        RefusedFile: the table does not describe exactly the bytes that follow it.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER:
        raise RefusedFile(f"{DAMAGED} (its header has {length:,} bytes)")
    try:
        content = json.loads(file.read(length))
        header = {name: _entry(entry) for name, entry in content.items() if name[:2] != "__"}
        position = 0
        for start, end in sorted(entry["data_offsets"] for entry in header.values()):
            if start != position or end < start:
                raise RefusedFile(f"{DAMAGED}: its tensors overlap or leave gaps")
            position = end
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RefusedFile(
            f"{DAMAGED} (its header is not readable: {shown(repr(error))})"
        ) from error
    if 8 + length + position != size:
        raise RefusedFile(
            f"{DAMAGED}: its header describes {8 + length + position:,} bytes of {size:,}"
        )
    return header, 8 + length


def written_header(header: Header) -> bytes:
    """The table as it stands at the head of a file."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # numbers begin where any of them may be read in place
    return len(text).to_bytes(8, "little") + text


def _entry(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets]
    if dtype not in ITEM_SIZES:
        raise ValueError(f"dtype {dtype!r}")
    if len(offsets) != 2 or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"shape {shape!r}, offsets {offsets!r}")
    if len(shape) > MOST_DIMENSIONS or max(numbers, default=0) > LARGEST_NUMBER:
        raise ValueError(f"a tensor of {len(shape)} dimensions, or with numbers past all sizes")
    if offsets[1] - offsets[0] != math.prod(shape) * ITEM_SIZES[dtype]:
        raise ValueError(f"{offsets[1] - offsets[0]} bytes for shape {shape!r} of {dtype}")
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}
