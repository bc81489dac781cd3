"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moth_eval.errors import InputError


def free_place(out: Path) -> Path:
    """Where a new folder `out` can be put, links followed.

    Raises:
        InputError: something is there, or an empty folder that no other can be put in place of.
    """
    place = out.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{out} is there already: name a new or empty folder as --out")
    if place == Path.cwd() or os.path.ismount(place):
        what = "the current folder" if place == Path.cwd() else "where a file system is mounted"
        raise InputError(f"{out} is {what}, which cannot be replaced: name a new folder as --out")
    return place


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A draft beside `place`, which takes its name when the block ends, and is gone if it fails.

    Args:
        place: what `free_place` gave.

    Raises:
        InputError: no draft can be made, or it cannot get that name; it is then kept.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}.partial-"))
    except OSError as error:
        raise InputError(
            f"{place} cannot be made ({error.strerror}): name another folder as --out"
        ) from error
    try:
        # As any new folder, not for the owner alone.
        draft.chmod(0o755)
        yield draft
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    try:
        draft.replace(place)
    except OSError as error:
        raise InputError(
            f"{place} cannot be written any more ({error.strerror}): what was to lie there is "
            f"whole, in {draft}; move it to where it should be"
        ) from error
