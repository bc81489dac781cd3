"""Which class each example image belongs to, in every spelling that the rounds use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, RoundError
from .bounded import leads_outside, read_json
from .layouts import FILES, IMAGE_SUFFIXES

LOOKUP = "test_example_data_lookup.json"
_NAMED = re.compile(r"class_(\d{1,6})_example_(\d{1,9})")
_CLASS_FOLDER = re.compile(r"(?:class[_-]?)?(\d{1,6})", re.IGNORECASE)
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, kw_only=True)
class LabelledFile:
    """One example image that has not been opened yet, and its class.

    Attributes:
        path: of the image.
        label: number of its class.
        class_name: of the class, where the folder has names in the place of numbers.
    """

    path: Path
    label: int
    class_name: str = ""


Spelling = Callable[[Path], Iterator[LabelledFile] | None]
"""The labelled files of a folder, or None if the folder is not written in this spelling."""


def labelled_files(folder: Path, *, layout: str) -> list[LabelledFile]:
    """Every clean image of a folder with its class, sorted by class, then by name.

    Spellings: `class_{c}_example_{n}.png`; `{id}.jpg` beside `{id}.json`, which holds the class;
    a lookup table beside the folder (mitigation rounds), of whose images only the clean ones
    count; one sub-folder per class, all of them numbers (`0/`, `class_3/`) or all of them names
    (`airplane/`, `bird/`), whose sorted order is 0, 1, ... as in torchvision's `ImageFolder`. The
    layout says which is tried first.

    Raises:
        InputError: no spelling fits, or an image among the others has no class.
    """
    try:
        for spelling in _spellings(layout):
            found = spelling(folder)
            if found is not None:
                files = sorted(found, key=lambda file: (file.label, *_natural(file.path.name)))
                _require_inside(files, folder)
                return files
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    raise InputError(
        f"no labelled images in {folder}: expected class_<class>_example_<number>.png, <id>.jpg "
        "beside <id>.json with the class in it, or one sub-folder per class (0/, 1/ ... or "
        f"class_0/ ..., or names) with images ({', '.join(IMAGE_SUFFIXES)}); found {_seen(folder)}"
    )


def _spellings(layout: str) -> tuple[Spelling, ...]:
    usual = (_by_name, _by_sidecar, _by_lookup, _by_class_folder, _by_class_name)
    first: Mapping[str, Spelling] = {
        "trojai-11": _by_sidecar,
        "trojai-mitigation": _by_lookup,
        FILES: _by_class_folder,
    }
    return (first[layout], *usual) if layout in first else usual


def _images(folder: Path) -> list[Path]:
    return [
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
    ]


def _by_name(folder: Path) -> Iterator[LabelledFile] | None:
    images = _images(folder)
    if not any(_NAMED.fullmatch(image.stem) for image in images):
        return None
    return (LabelledFile(path=image, label=_label_in_name(image)) for image in images)


def _label_in_name(image: Path) -> int:
    match = _NAMED.fullmatch(image.stem)
    if match is None:
        raise InputError(
            f"{image} is not named class_<class>_example_<number> like the images beside it; "
            "rename or remove it (stamped images do not belong among the clean ones)"
        )
    return int(match[1])


def _by_sidecar(folder: Path) -> Iterator[LabelledFile] | None:
    images = _images(folder)
    if not any(image.with_suffix(".json").exists() for image in images):
        return None
    return (LabelledFile(path=image, label=_label_in_sidecar(image)) for image in images)


def _label_in_sidecar(image: Path) -> int:
    sidecar = image.with_suffix(".json")
    if leads_outside(sidecar, image.parent.resolve()):
        raise InputError(f"{sidecar} is a link that leads out of its folder; copy the file instead")
    try:
        content = read_json(sidecar)
    except RoundError as error:
        raise InputError(f"{image} has no readable class beside it: {error}") from error
    return _whole(content.get("clean_label") if isinstance(content, dict) else content, sidecar)


def _by_lookup(folder: Path) -> Iterator[LabelledFile] | None:
    table = folder.parent / LOOKUP
    if not table.exists() or folder.name != "test-example-data":
        return None
    if leads_outside(table, folder.parent.resolve()):
        raise InputError(f"{table} is a link that leads out of its folder; copy the file instead")
    entries = read_json(table)
    if not isinstance(entries, dict):
        raise InputError(f"{table} holds a {type(entries).__name__}, expected an object")
    return (
        LabelledFile(path=folder / name, label=_whole(entry.get("clean_label"), table))
        for name, entry in entries.items()
        if isinstance(entry, dict) and entry.get("poisoned_label") is None and _is_plain(name)
    )


def _is_plain(name: str) -> bool:
    return Path(name).name == name and Path(name).suffix.lower() in IMAGE_SUFFIXES


def _by_class_folder(folder: Path) -> Iterator[LabelledFile] | None:
    folders = [entry for entry in folder.iterdir() if entry.is_dir()]
    numbered = {entry: _CLASS_FOLDER.fullmatch(entry.name) for entry in folders}
    if not any(numbered.values()):
        return None
    stray = [entry for entry, match in numbered.items() if match is None]
    _require_nothing_stray([*stray, *_images(folder)], folder)
    return (
        LabelledFile(path=image, label=int(match[1]))
        for entry, match in numbered.items()
        if match is not None
        for image in _images(entry)
    )


def _by_class_name(folder: Path) -> Iterator[LabelledFile] | None:
    folders = (e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    images = {entry: _images(entry) for entry in sorted(folders, key=lambda entry: entry.name)}
    if not any(images.values()):
        return None
    _require_nothing_stray(_images(folder), folder)
    empty = [entry.name for entry, inside in images.items() if not inside]
    if empty:
        raise InputError(
            f"{folder} holds one sub-folder per class, but none of {', '.join(empty[:3])} has an "
            f"image ({', '.join(IMAGE_SUFFIXES)}) in it, and classes are numbered by their place "
            "among the folders; put images there, or move it elsewhere"
        )
    return (
        LabelledFile(path=image, label=number, class_name=entry.name)
        for number, (entry, inside) in enumerate(images.items())
        for image in inside
    )


def _require_nothing_stray(entries: list[Path], folder: Path) -> None:
    names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise InputError(
            f"{folder} holds one sub-folder per class, but beside them {', '.join(names[:3])}"
            f"{more}, of no class; give all folders numbers or all of them names, or move it "
            "elsewhere"
        )


def _whole(value: object, place: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(
            f"{place} gives {str(value)[:40]!r} as the class of an image; expected a whole number "
            "(images of object detection rounds cannot be read)"
        )
    return value


def _natural(name: str) -> tuple[list[str | int], ...]:
    """Sort key under which `example_2` comes before `example_10`."""
    return ([int(part) if part.isdecimal() else part for part in _DIGITS.split(name)],)


def _require_inside(files: list[LabelledFile], folder: Path) -> None:
    root = folder.resolve()
    for file in files:
        if leads_outside(file.path, root):
            raise InputError(
                f"{file.path} is a link that leads out of {folder}; copy the image instead"
            )


def _seen(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or (
        "nothing"
    )
