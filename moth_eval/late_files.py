"""Files that are written when all work is done: whether they can be is seen before it begins."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from .errors import InputError


def require_writable(path: Path, option: str) -> None:
    """Make the folder of a file, and see that the file can be written; it is left as it is.

    Args:
        path: of the file.
        option: that named it.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with tempfile.TemporaryFile(dir=path.parent):
                return
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{option}: {path} cannot be written: {error.strerror}; give another place"
        ) from error
