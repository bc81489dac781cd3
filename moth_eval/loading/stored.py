"""Tensors in safetensors files: read after a look at the header, written with a side-car."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import RefusedFile
from .naming import shown

DAMAGED = "the safetensors file is damaged or cut short; copy or download it again"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        RefusedFile: the header does not describe exactly the bytes that follow it.
    """
    _check_header(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, KeyError, AttributeError, OSError) as error:
        raise RefusedFile(f"{DAMAGED} ({shown(error)})") from error
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes copies of `tensors`; the file appears whole or not at all."""
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        save_file(plain, draft, metadata={"format": "pt"})
        Path(draft).replace(path)
    finally:
        Path(draft).unlink(missing_ok=True)


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length)
    try:
        header = json.loads(text)
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        spans = sorted(tuple(entry["data_offsets"]) for entry in entries.values())
        position = 0
        for start, end in spans:
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
