"""Files of run folders, which may come from anybody: no link is followed, no pipe waited for."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from .errors import RunError

LARGEST_RECORD = 1 << 26
"""Bytes of a manifest or card; that of 10,000 models has about 10 MB."""
LARGEST_LEDGER = 1 << 29
"""Bytes of one file of a ledger, and of one of arrays."""

DEEPEST = 32
"""Folders within each other in a run folder, whose own parts need a few."""

SCRATCH = "scratch"
"""Folder of a run where programs of others work; what they leave is theirs, and removed."""

_AS_IT_IS = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""No link is followed, no other end of a pipe waited for."""


def read_file(path: Path, *, largest: int = LARGEST_RECORD) -> bytes:
    """The content of an ordinary file of at most so many bytes.

    Raises:
        FileNotFoundError: nothing is there.
        RunError: it is a link, folder, pipe or device, is too large, or cannot be read.
    """
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > largest:
        raise RunError(f"{path} is larger than the {largest:,} bytes that such a file may have")
    return content


def read_json(path: Path) -> object:
    """The JSON value in a file of a run.

    Raises:
        FileNotFoundError: nothing is there.
        RunError: it cannot be read, or holds no JSON.
    """
    try:
        return json.loads(read_file(path))
    except RecursionError as error:
        raise RunError(f"{path} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        raise RunError(f"{path} cannot be read: it is no JSON ({error})") from error


def open_file(path: Path, flags: int) -> int:
    """`os.open` of an ordinary file itself, never of one that a link in its place leads to.

    Raises:
        RunError: there is a link, folder, pipe or device.
        OSError: it cannot be opened.
    """
    try:
        number = os.open(path, flags | _AS_IT_IS, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _linked(path) from error
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a pipe that nobody reads
            raise _not_ordinary(path) from error
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _not_ordinary(path)
    return number


def require_no_links(run: Path) -> None:
    """Makes sure that what is written into a run folder, or removed from it, lies in it.

    The folder itself may be a link: that is its user's. Links and pipes inside came with it.

    Raises:
        RunError: there is a link, pipe or device in it, or it is nested too deeply.
    """
    for entry in entries_in(run):
        if entry.is_symlink():
            raise _linked(Path(entry.path))
        if not (entry.is_file() or entry.is_dir()) and os.path.lexists(entry.path):
            raise _not_ordinary(Path(entry.path))


def entries_in(run: Path) -> Iterator[os.DirEntry[str]]:
    """Everything in a run folder and in its folders, but in those of programs of others.

    Raises:
        RunError: it is nested too deeply to be a run.
    """
    pending = [(run, 0)]
    while pending:
        folder, depth = pending.pop()
        if depth > DEEPEST:
            raise RunError(
                f"{run} is nested deeper than the {DEEPEST} folders that a run may have within "
                f"another; remove {folder.relative_to(run).parts[0]} from it if it is not the run's"
            )
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False) and folder.name != SCRATCH:
                    pending.append((Path(entry.path), depth + 1))


def _not_ordinary(path: Path) -> RunError:
    return RunError(f"{path} is a folder, pipe or device, expected an ordinary file")


def _linked(path: Path) -> RunError:
    return RunError(
        f"{path} is a symbolic link: what is written there would land elsewhere, and run folders "
        "hold files of their own only. Put in its place what it leads to, or remove it"
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy an ordinary file of any size, so that it is there whole or not at all.

    Raises:
        RunError: the source is a link, folder, pipe or device, or cannot be read.
    """
    try:
        with os.fdopen(open_file(source, os.O_RDONLY), "rb") as content:
            _write_from(content, target)
    except OSError as error:
        raise RunError(f"{source} cannot be copied to {target}: {error.strerror}") from error


def write_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless this is what is in it: one that stays keeps its date."""
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return
    write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut."""
    _write_from(io.BytesIO(content), path)


def _write_from(content: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody can have laid a link in the place of a name that is drawn now.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    number = open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with os.fdopen(number, "wb") as file:
            shutil.copyfileobj(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
