"""Text and JSON of small side files, read without trusting their size, kind or place."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

from ..errors import RoundError

MEGABYTE = 1_000_000
MAX_JSON_BYTES = 8 * MEGABYTE
"""A config.json of round 11 has 5 kB; one of 1,000 classes would have about 100 kB."""


def leads_outside(path: Path, root: Path) -> bool:
    """Whether symbolic links on the way make `path` anything that is not inside `root` (resolved).

    A link that leads round in a circle leads nowhere, and counts as outside.
    """
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return True
    return not Path(os.path.realpath(path)).is_relative_to(root)


def is_there(path: Path) -> bool:
    """Whether the path exists; one whose name is longer than any can be does not."""
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def read_text(path: Path, *, limit: int) -> str:
    """The text of a regular file of at most `limit` bytes; a byte order mark is dropped.

    Raises:
        RoundError: the file is missing, not a regular file, too big or not UTF-8.
    """
    try:
        # A named pipe would block the reader for ever, a device would never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise RoundError(f"{path} is not a regular file; replace it by one, or remove it")
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except OSError as error:
        raise RoundError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > limit:
        raise RoundError(
            f"{path} is larger than the {limit / MEGABYTE:g} MB that such a file may have; "
            "remove it if it does not belong there"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RoundError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_json(path: Path) -> object:
    """The JSON value in a file of at most 8 MB; plain values only, nothing is instantiated.

    Raises:
        RoundError: the file cannot be read (see `read_text`), or is not JSON.
    """
    text = read_text(path, limit=MAX_JSON_BYTES)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise RoundError(f"{path} is nested too deeply to be read as JSON") from error
    except ValueError as error:
        raise RoundError(f"{path} is not JSON: {error}") from error
