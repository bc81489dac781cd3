"""The size of the images that a network was trained on, as the record beside it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import RoundError
from ..hardening_records import CARD, WEIGHTS
from .bounded import read_json
from .ground_truth import ATTACK
from .image_arrays import MAX_SIDE
from .stacking import Size

_PLACES = ((CARD, "run"), (ATTACK, "data"))
"""Records of ours that say it, and the part of each that does."""


def stated_size(model: Path) -> Size | None:
    """Height and width from what `harden` or `inject` wrote; None if nothing is said.

    Args:
        model: `model.safetensors`, of which such a record speaks, or its folder.
    """
    folder = model if model.is_dir() else model.parent
    if model != folder and model.name != WEIGHTS:
        return None
    for name, part in _PLACES:
        found = _size_in(folder / name, part)
        if found is not None:
            return found
    return None


def _size_in(path: Path, part: str) -> Size | None:
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except RoundError:  # whoever needs the record itself says what is wrong with it
        return None
    inner = content.get(part) if isinstance(content, Mapping) else None
    shape = inner.get("image_shape") if isinstance(inner, Mapping) else None
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    _, height, width = shape
    if not all(type(side) is int and 0 < side <= MAX_SIDE for side in (height, width)):
        return None
    return Size(height=height, width=width)
