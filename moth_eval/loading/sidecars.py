"""The small JSON file beside a model file that says which network it holds, and what that eats."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .bounded import is_there
from .naming import LONGEST_SHOWN, shown
from .normalisations import stated, to_json

LARGEST = 1 << 20
MOST_CLASSES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class SideCar:
    """What the file says; it only names a network, and never causes code to be imported.

    Attributes:
        path: where it was read.
        architecture: a torchvision name, or the name of a factory that the user gave.
        num_classes: number of logits, or None if it does not say.
        normalisation: what the network was trained with, as `normalisations.canonical` writes it;
            empty if it does not say.
    """

    path: Path
    architecture: str
    num_classes: int | None
    normalisation: str = ""


def sidecar_path(model: Path) -> Path:
    """Where the side-car of the weights file `model` is written."""
    return model.with_name(f"{model.stem}.arch.json")


def read_sidecar(model: Path) -> SideCar | None:
    """The side-car of `model`: `<stem>.arch.json`, else `arch.json` in its folder, else None.

    Raises:
        InputError: it is there but is not what a side-car must be.
    """
    for path in (sidecar_path(model), model.with_name("arch.json")):
        if is_there(path) and path.is_file():
            return _read(path)
    return None


def write_sidecar(
    model: Path, *, architecture: str, num_classes: int, normalisation: str = ""
) -> None:
    """Writes the side-car of `model`; `normalisation` is canonical, or empty: not stated."""
    content: dict[str, object] = {"architecture": architecture, "num_classes": num_classes}
    if normalisation:
        content["normalisation"] = to_json(normalisation)
    sidecar_path(model).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def stated_normalisation(content: Mapping[str, object]) -> str:
    """What the content of a side-car says of the normalisation; empty if nothing.

    Raises:
        InputError: it says something that is none.
    """
    value = content.get("normalisation")
    return "" if value is None else stated(value)


def name_in_sidecar(option: str, architecture: str) -> str:
    """What a side-car has to call a network so that the same `--arch` opens it again.

    Folders of models take what stands before a colon for the model's task, so a factory's full
    name needs a task; and `--arch package.module` looks for the factory's own name.

    Args:
        option: what `--arch` said; empty if nothing.
        architecture: the network's full name, as loading gave it.
    """
    if ":" not in architecture:
        return architecture
    if not option or ":" in option:  # without an option it is one of our own networks
        return f"classification:{architecture}"
    return architecture.rpartition(":")[2]


def _read(path: Path) -> SideCar:
    expected = 'expected {"architecture": "resnet18", "num_classes": 10}'
    try:
        # The size that a file states may be zero where its content never ends.
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path}: {expected}, got nothing readable: {error.strerror}") from error
    if len(text) > LARGEST:
        raise InputError(f"{path}: {expected}, got a file of more than {LARGEST:,} bytes")
    try:
        content = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {expected}, got no valid JSON ({error})") from error
    architecture = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(architecture, str) or not architecture:
        raise InputError(f"{path}: {expected}, got no architecture")
    if len(architecture) > LONGEST_SHOWN:
        raise InputError(f"{path}: {expected}, got a name of {len(architecture):,} characters")
    classes = content.get("num_classes")
    if classes is not None and not (type(classes) is int and 0 < classes <= MOST_CLASSES):
        raise InputError(f"{path}: {expected}, got {shown(repr(classes))} classes")
    try:
        normalisation = stated_normalisation(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return SideCar(
        path=path, architecture=architecture, num_classes=classes, normalisation=normalisation
    )
