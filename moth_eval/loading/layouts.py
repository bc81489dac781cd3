"""How the rounds lay out their files: where models and examples are, and which round it is.

Layouts, told apart by names of folders, columns and keys:

=================  ==============================================================================
trojai-0-1         `example_data/class_{c}_example_{n}.png`, already 224 pixels wide, no config.json
trojai-2           the same at 256 pixels; `foregrounds/`, config.json in upper case
trojai-3           `clean_example_data/`, config.json in lower case with adversarial training
trojai-4           as 3, with a list of triggers
trojai-11          `clean-example-data/{id}.jpg` and `{id}.json`; config.json with `py/state`
trojai-mitigation  as 11, with `mitigate-example-data/` or `test-example-data/`
files              model files without the images of a round, in one folder or in one each
=================  ==============================================================================
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import RoundError
from .bounded import leads_outside
from .truths import integer

FILES = "files"
MODEL_FILE = "model.pt"
# Names that model files go by. A file of a kind that is refused still counts as a model.
MODEL_SUFFIXES = (
    ".safetensors",
    ".pt",
    ".pth",
    ".th",
    ".ckpt",
    ".bin",
    ".pkl",
    ".pt2",
    ".onnx",
)
# What lies with a model and has the suffix of one: the tensors of a trigger.
NO_MODELS = ("attack.safetensors",)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
CLEAN_FOLDERS = (
    "clean-example-data",
    "clean_example_data",
    "example_data",
    "new-clean-example-data",
    "mitigate-example-data",
    "test-example-data",
)
"""Folders of clean examples, in the order in which they are looked for."""
_MITIGATION_FOLDERS = frozenset(CLEAN_FOLDERS[3:])
_CROPPED_LAYOUTS = frozenset({"trojai-2", "trojai-3", "trojai-4"})
_CROPPED_SIDE, _STORED_SIDE = 224, 256
_PNG_HEADER = struct.Struct(">8s4x4sII")


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where the models of a round are.

    Attributes:
        root: the folder that no link may lead out of; METADATA.csv is looked for here.
        base: the folder that holds the members.
        members: one folder per model, or the model files themselves.
        files: whether the members are model files.
        homes: whether each of these files lies in a folder of its own, which gives it its name.
        notes: what else was seen.
    """

    root: Path
    base: Path
    members: tuple[Path, ...]
    files: bool
    homes: bool = False
    notes: tuple[str, ...] = ()

    @cached_property
    def _names(self) -> dict[Path, str]:
        """Member -> its name without suffix; with it, if another one would have the same name."""
        counts = Counter(member.stem for member in self.members)
        names = {m: m.name if counts[m.stem] > 1 else m.stem for m in self.members}
        # Such as a.pt, a.pth and a.pt.bin, whose name without suffix is that of the first.
        clear = len(set(names.values())) == len(names)
        return names if clear else {member: member.name for member in self.members}

    def name_of(self, file: Path) -> str:
        """What a member is called that is a model file."""
        return file.parent.name if self.homes else self._names[file]


def find_models(path: Path) -> Found:
    """The models in a folder: `id-*` folders, the same under `models/`, or model files.

    Model files may lie in a sub-folder each. Also takes one model folder, or one model file.

    Raises:
        RoundError: there is nothing of the kind; the message lists what was looked for.
    """
    try:
        return _find(path.resolve())
    except OSError as error:
        raise RoundError(f"{path} cannot be read: {error.strerror or error}") from error
    except RuntimeError as error:
        raise RoundError(f"{path} is a link that leads round in a circle; mend it") from error


def _find(path: Path) -> Found:
    if not path.exists():
        raise RoundError(f"{path} does not exist; give a folder of models or a model file")
    if path.is_file():
        if path.name == MODEL_FILE and _is_model_folder(path.parent):
            return _one_folder(path.parent)
        return Found(root=path.parent, base=path.parent, members=(path,), files=True)
    inner = path / "models"
    for base in (path, inner):
        folders = _model_folders(base)
        if folders:
            _require_within(base, path)
            return Found(
                root=path,
                base=base,
                members=folders,
                files=False,
                notes=_unread(path, base, inner),
            )
    if _is_model_folder(path):
        return _one_folder(path)
    return _found_files(path)


def _found_files(path: Path) -> Found:
    inner = path / "models"
    for homes in (False, True):
        for base in (path, inner):
            files, notes = _files_with_homes(base) if homes else (_model_files(base), ())
            if files:
                _require_within(base, path)
                return Found(
                    root=path, base=base, members=files, files=True, homes=homes, notes=notes
                )
    raise RoundError(_nothing_found(path))


def _require_within(base: Path, path: Path) -> None:
    if leads_outside(base, path):
        raise RoundError(
            f"{base} is a link that leads out of {path}; give the folder that it leads to"
        )


def _one_folder(folder: Path) -> Found:
    parent = folder.parent
    root = parent.parent if parent.name == "models" else parent
    return Found(root=root, base=parent, members=(folder,), files=False)


def _is_model_folder(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    return MODEL_FILE in names and not names.isdisjoint(
        {*CLEAN_FOLDERS, "config.json", "reduced-config.json", "ground_truth.csv"}
    )


def _model_folders(base: Path) -> tuple[Path, ...]:
    if not base.is_dir():
        return ()
    folders = (entry for entry in base.iterdir() if entry.name.startswith("id-"))
    return tuple(sorted(entry for entry in folders if entry.is_dir() or entry.is_symlink()))


def _model_files(base: Path) -> tuple[Path, ...]:
    if not base.is_dir():
        return ()
    files = (entry for entry in base.iterdir() if _is_model_name(entry.name))
    return tuple(sorted(entry for entry in files if entry.is_file() or entry.is_symlink()))


def _files_with_homes(base: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The model files of the sub-folders that hold one each, and notes on those left out.

    Sub-folders with more are none. One that may not be read, such as lost+found, is noted.
    """
    if not base.is_dir():
        return (), ()
    found: list[Path] = []
    notes = []
    for folder in sorted(entry for entry in base.iterdir() if entry.is_dir()):
        try:
            files = () if folder.name.startswith(".") else _model_files(folder)
        except PermissionError as error:
            notes.append(f"{folder.name} cannot be read ({error.strerror}): no model of it is here")
            continue
        found += files if len(files) == 1 else ()
    return tuple(found), tuple(notes)


def _is_model_name(name: str) -> bool:
    return name.lower().endswith(MODEL_SUFFIXES) and name not in NO_MODELS


def _unread(path: Path, base: Path, inner: Path) -> tuple[str, ...]:
    if base == path and _model_folders(inner):
        return ("models/ holds id-* folders too; only those beside it are read",)
    return ()


def _nothing_found(path: Path) -> str:
    message = (
        f"no models in {path}: looked for folders id-*/, models/id-*/, a folder with {MODEL_FILE} "
        f"and examples, and files ending in {', '.join(MODEL_SUFFIXES)}, there or one per "
        "sub-folder"
    )
    rounds = [entry.name for entry in path.iterdir() if entry.is_dir() and _looks_like_round(entry)]
    return message + (f"; did you mean {path / min(rounds)}?" if rounds else "")


def _looks_like_round(folder: Path) -> bool:
    return any(_model_folders(base) for base in (folder, folder / "models"))


def find_model_file(folder: Path, names: Collection[str]) -> Path:
    """`model.pt`, or the only file with the suffix of a model; `model.pt` if neither is there."""
    if MODEL_FILE not in names:
        others = [name for name in names if _is_model_name(name)]
        if len(others) == 1:
            return folder / others[0]
    return folder / MODEL_FILE


def find_examples(folder: Path, names: Collection[str], root: Path) -> tuple[Path | None, str]:
    """The first folder of clean examples that holds an image, and a problem if there is none."""
    there = [name for name in CLEAN_FOLDERS if name in names]
    for name in there:
        candidate = folder / name
        if leads_outside(candidate, root):
            return None, f"{name} is a link that leads out of {root}; copy the images instead"
        if candidate.is_dir() and first_image(candidate) is not None:
            return candidate, ""
    if there:
        return None, f"no image in {', '.join(there)}; give clean examples with --examples"
    return None, (
        f"no folder of clean examples (looked for {', '.join(CLEAN_FOLDERS)}); give them with "
        "--examples"
    )


def first_image(folder: Path) -> Path | None:
    """The image whose name comes first, in the folder or else in one per class; None without."""
    for pattern in ("*", "*/*"):
        images = (e for e in folder.glob(pattern) if e.suffix.lower() in IMAGE_SUFFIXES)
        first = min((e for e in images if not e.name.startswith(".")), default=None)
        if first is not None:
            return first
    return None


def side_in(examples: object) -> int | None:
    """The shorter side in pixels of the first image in a folder; None for anything else."""
    if not isinstance(examples, Path) or not examples.is_dir():
        return None
    return png_side(first_image(examples))


def png_side(path: Path | None) -> int | None:
    """The shorter side of a PNG in pixels, from its first 24 bytes; None for anything else."""
    if path is None or path.suffix.lower() != ".png" or not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_PNG_HEADER.size)
    if len(head) < _PNG_HEADER.size:
        return None
    signature, chunk, width, height = _PNG_HEADER.unpack(head)
    if signature != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        return None
    return int(min(width, height))


def layout_of(names: Collection[str], facts: Collection[str], side: int | None) -> str:
    """The layout of a model folder.

    Args:
        names: what lies in the folder.
        facts: keys of its config in lower case and columns of its row in METADATA.csv.
        side: shorter side of an example in pixels, if known.
    """
    if not _MITIGATION_FOLDERS.isdisjoint(names):
        return "trojai-mitigation"
    if "clean-example-data" in names or not {"source_dataset", "task_type"}.isdisjoint(facts):
        return "trojai-11"
    if _has_trigger_list(names, facts):
        return "trojai-4"
    if "clean_example_data" in names or "adversarial_training_method" in facts:
        return "trojai-3"
    if "foregrounds" in names or "cnn_img_size_pixels" in facts:
        return "trojai-2"
    # The server of rounds 2 to 4 showed nothing but the images, which rounds 0 and 1 kept smaller.
    return "trojai-2" if side == _STORED_SIDE else "trojai-0-1"


def _has_trigger_list(names: Collection[str], facts: Collection[str]) -> bool:
    return (
        not {"triggers", "trigger_organization", "number_triggers"}.isdisjoint(facts)
        or "trigger_0.png" in names
        or any(fact.startswith("triggers_0_") for fact in facts)
    )


def crop_of(layout: str, facts: Mapping[str, object], side: int | None) -> int | None:
    """Side of the centre crop in pixels that rounds 2 to 4 take from a larger stored image."""
    if layout not in _CROPPED_LAYOUTS:
        return None
    stated = integer(facts.get("cnn_img_size_pixels"))
    stored = side or integer(facts.get("img_size_pixels"))
    if stated is None:
        return _CROPPED_SIDE if stored == _STORED_SIDE else None
    return stated if stored and stored > stated > 0 else None
