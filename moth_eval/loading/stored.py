"""Tensors in safetensors files: read after a look at the header, written with a side-car."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import RefusedFile
from .naming import shown
from .safetensors_header import DAMAGED


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        RefusedFile: it cannot be read.
    """
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
