"""Copies of models and of what lies with them, which may claim any size."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moth_eval.errors import InputError
from moth_eval.loading.bounded import leads_outside
from moth_eval.loading.formats import opened, require_room

LARGEST_COPY = 1 << 28
"""Bytes of an image or of a file beside it."""

LARGEST_EXAMPLES = 1 << 30
"""Bytes of all images that lie with a model; more have more values than are read."""


def copy_model(path: Path, target: Path) -> None:
    """Copy a model file, while there is room for it.

    Raises:
        RefusedFile: it is no ordinary file, or one that is mostly not there.
        InputError: it would fill the disk.
    """
    with opened(path) as source, target.open("wb") as copy:
        require_room(target.parent, os.fstat(source.fileno()).st_size)
        shutil.copyfileobj(source, copy)


def copy_small(path: Path, target: Path, root: Path) -> None:
    """Copy one file that lies below `root` (resolved) and is not large, while there is room for it.

    Raises:
        InputError: it lies elsewhere, is no ordinary file, is too large, or would fill the disk.
    """
    if leads_outside(path, root) or not path.is_file():
        raise InputError(
            f"{path} is a link that leads out of {root}, a pipe or a device; copy the file instead"
        )
    if path.stat().st_size > LARGEST_COPY:
        raise InputError(f"{path} is larger than the {LARGEST_COPY:,} bytes that are copied")
    require_room(target.parent, path.stat().st_size)
    shutil.copyfile(path, target)
