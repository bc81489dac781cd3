"""What kind of file a model file is, by its content; the name is never believed."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from ..errors import InputError, RefusedFile

Format = Literal["safetensors", "zip", "legacy"]

#: The long integer that opens every file of torch.save's oldest format, as pickled.
LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LEGACY_MAGIC_WITHIN = 32
HEAD_BYTES = 1024
LARGEST_HEADER = 16 << 20

_NO_FILE = "expected an ordinary file, this is a folder, pipe or device"
#: Larger files have to be there, apart from holes and what a file system compresses.
_GIANT = 1 << 30
_SOLID = 0.5
#: What stays free beside a copy of a model, in bytes.
SPARE_BYTES = 64 << 20
_RESAVE = "save a state dict instead, as safetensors or with torch.save(model.state_dict(), path)"

#: First bytes of formats that are recognised only to be named.
_FOREIGN = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a Windows program"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GGUF", "a GGUF language model"),
    (b"PK\x05\x06", "an empty zip archive"),
)


def identify(file: BinaryIO) -> Format:
    """The format of an open model file; only its first kilobyte and its end are read.

    Raises:
        RefusedFile: the file is of a kind that is not, or cannot safely be, read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(HEAD_BYTES)
    found = _readable(head, size)
    if found == "legacy" and _opens_a_tar(head):
        raise RefusedFile(
            "the file begins as a tar archive too (a polyglot), so two programs would read two "
            f"different models from it; {_RESAVE}"
        )
    if found != "zip" and _ends_as_zip(file):
        raise RefusedFile(
            "a zip archive is hidden at the end of the file (a polyglot), so two programs would "
            f"read two different models from it; {_RESAVE}"
        )
    if found is None:
        raise RefusedFile(_why_not(head, size))
    return found


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """An ordinary, non-empty file, open for reading; nothing else is ever waited for.

    Raises:
        InputError: nothing is there, or nothing is in it.
        RefusedFile: it is a folder, pipe or device, or a giant file with hardly anything in it.
    """
    with ordinary(path) as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
        yield file


@contextmanager
def ordinary(path: Path) -> Iterator[io.BufferedReader]:
    """An ordinary file, which may be empty, open for reading.

    Raises:
        InputError: nothing is there that can be read.
        RefusedFile: it is a folder, pipe or device, or a giant file with hardly anything in it.
    """
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise RefusedFile(_NO_FILE) from error
        raise InputError(f"{path}: no readable file: {error.strerror}; check the name") from error
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        os.close(number)
        raise RefusedFile(_NO_FILE)
    with os.fdopen(number, "rb") as file:
        _require_solid(status)
        yield file


def require_room(folder: Path, size: int) -> None:
    """Makes sure that a copy of so many bytes fits into a folder.

    Raises:
        InputError: it would fill the disk.
    """
    free = shutil.disk_usage(folder).free
    if size + SPARE_BYTES > free:
        raise InputError(
            f"a copy of {size:,} bytes is needed in {folder}, where {free:,} are free; make room, "
            "or set TMPDIR (or the folder for scratch) to a larger disk"
        )


def _require_solid(status: os.stat_result) -> None:
    held = 512 * getattr(status, "st_blocks", status.st_size)
    if status.st_size > _GIANT and held < status.st_size * _SOLID:
        raise RefusedFile(
            f"the file claims {status.st_size:,} bytes and holds {held:,}: what is not there would "
            "take hours to read; copy it to a disk that stores it whole"
        )


def _readable(head: bytes, size: int) -> Format | None:
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[:1] == b"\x80" and LEGACY_MAGIC in head[:LEGACY_MAGIC_WITHIN]:
        return "legacy"
    length = int.from_bytes(head[:8], "little")
    if len(head) > 8 and head[8:9] == b"{" and 2 <= length <= min(LARGEST_HEADER, size - 8):
        return "safetensors"
    return None


def _ends_as_zip(file: BinaryIO) -> bool:
    try:
        return zipfile.is_zipfile(file)
    except (zipfile.BadZipFile, struct.error):  # the end of one, if a damaged one
        return True


def _opens_a_tar(head: bytes) -> bool:
    """Whether torch's reader, which tries its oldest format first, would see a tar archive."""
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _why_not(head: bytes, size: int) -> str:
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            return f"this is {name}, not a model file of torch; convert it to safetensors"
    if head[257:262] == b"ustar":
        return f"this is a tar archive, torch's format before version 0.1.10; {_RESAVE}"
    if head[8:9] == b"{" and len(head) > 8:
        length = int.from_bytes(head[:8], "little")
        return (
            f"this looks like safetensors, but its header claims {length:,} bytes of a file of "
            f"{size:,}; the file is damaged or cut short"
        )
    if _looks_like_onnx(head):
        return f"this is an ONNX model, which is not read; {_RESAVE}"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return f"this is a bare Python pickle, whose purpose is to run code when opened; {_RESAVE}"
    return _why_not_text(head)


def _why_not_text(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "this is a git LFS pointer, not the model itself; fetch it with `git lfs pull`"
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "this is a web page, not a model: the download went wrong; fetch it again"
    if re.match(rb"\(?[ci][\w.]+\n[\w.]+\n", head):
        return f"this is a bare Python pickle, whose purpose is to run code when opened; {_RESAVE}"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "this is a text file, not a model; give the file that holds the weights"
    return (
        "the content is of no known model format (safetensors, or what torch.save writes); "
        f"the file is damaged or something else. If it is a model, {_RESAVE}"
    )


def _looks_like_onnx(head: bytes) -> bool:
    # A protobuf message whose first field is a small ir_version, followed by a text field that
    # names the program that wrote it.
    return head[:1] == b"\x08" and 0 < head[1] < 32 and head[2:3] in (b"\x12", b"\x1a", b":", b"B")
