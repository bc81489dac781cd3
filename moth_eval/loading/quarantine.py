"""Has a model file opened by a process that can do nothing else, and takes what that found."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir
from typing import Any, BinaryIO

from ..errors import InputError, RefusedFile
from .formats import Format, opened, require_room
from .handover import decode
from .inert_tree import StorageRecord
from .kernel_guards import ALL_GUARDS
from .naming import shown
from .safetensors_header import read_header

ARCHITECTURE = "arch.json"
WEIGHTS = "weights.safetensors"
IN_USE = "in-use"
PREFIX = "moth-eval-load-"

LONGEST_SECONDS = 600.0
LARGEST_REPORT = 1 << 28
MOST_WORDS = 4096

_ROOT = Path(__file__).resolve().parents[2]

# Isolated from the environment and the present folder; our own package comes after Python's own.
_PROGRAM = (
    "import sys; sys.path.append({root!r}); from moth_eval.loading.loader_child import main; main()"
)


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """What the loader process found in a model file.

    Attributes:
        format: of the file.
        sha256: of the bytes that were read.
        guards: names of what the kernel held that process to.
        tree: what the pickle describes; None for safetensors.
        storages: where the numbers of the tree are; None for safetensors.
        weights: the safetensors file with all numbers; there until the context is left.
    """

    format: Format
    sha256: str
    guards: tuple[str, ...]
    tree: object
    storages: HandedStorages | None
    weights: Path


class HandedStorages:
    """The storages of a tree, in the file that the loader process wrote."""

    def __init__(self, file: BinaryIO, records: Sequence[StorageRecord]) -> None:
        """Find out where each storage lies.

        Raises:
            RefusedFile: the file is not what goes with these records.
        """
        self._file = file
        header, start = read_header(file)
        if len(header) != len(records):
            raise RefusedFile("what was read of the file is malformed")
        self._spans = {}
        for number, record in enumerate(records):
            begin, end = header[str(number)]["data_offsets"]
            if end - begin != record.nbytes:
                raise RefusedFile("what was read of the file is malformed")
            self._spans[id(record)] = start + begin

    def read(self, record: StorageRecord) -> bytearray:
        """The bytes of one storage."""
        content = bytearray(record.nbytes)
        self._file.seek(self._spans[id(record)])
        self._file.readinto(content)  # type: ignore[attr-defined]
        return content


@contextmanager
def handed_over(path: Path, *, insist: bool = False) -> Iterator[HandedOver]:
    """What is in an untrusted model file, read by a process of its own.

    That process is given the open file and two others to write to. Before it reads a byte it gives
    up all access to files by name, to the network, to other processes and to new programs, as far
    as the kernel offers that, and it is held to limits of time and memory. This process never reads
    the file.

    Args:
        path: the file.
        insist: whether to refuse if a guard cannot be had.

    Raises:
        RefusedFile: the file cannot be read safely.
        InputError: there is no such file, or it is empty; or a guard was insisted on that this
            system does not offer.
    """
    with _folder() as folder:
        report, weights = folder / ARCHITECTURE, folder / WEIGHTS
        with opened(path) as model, report.open("wb") as answers, weights.open("wb") as numbers:
            require_room(folder, os.fstat(model.fileno()).st_size)
            _read_elsewhere([model.fileno(), answers.fileno(), numbers.fileno()])
        answer = _answer(report)
        _insist(answer["guards"], ALL_GUARDS if insist else ())
        if "unusable" in answer:
            raise InputError(answer["unusable"])
        if "refused" in answer:
            raise RefusedFile(answer["refused"])
        with weights.open("rb") as file:
            tree, storages = None, None
            if answer["format"] != "safetensors":
                tree, records = decode(answer["nodes"], answer["root"])
                storages = HandedStorages(file, records)
            yield HandedOver(
                format=answer["format"],
                sha256=answer["sha256"],
                guards=tuple(answer["guards"]),
                tree=tree,
                storages=storages,
                weights=weights,
            )


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for what is handed over; those of processes that were killed are removed before."""
    _remove_left_behind()
    with TemporaryDirectory(prefix=PREFIX) as name:
        folder = Path(name)
        with (folder / IN_USE).open("w") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            yield folder


def _remove_left_behind() -> None:
    for folder in Path(gettempdir()).glob(f"{PREFIX}*"):
        # One that is just being made is young, one that is in use is locked.
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > LONGEST_SECONDS:
                with (folder / IN_USE).open("r+") as mark:
                    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)


def _read_elsewhere(files: Sequence[int]) -> None:
    program = _PROGRAM.format(root=str(_ROOT))
    call = [sys.executable, "-I", "-S", "-c", program, *map(str, files)]
    with TemporaryFile() as words:
        try:
            done = subprocess.run(  # noqa: S603 - Python itself, with a program of ours
                call,
                check=False,
                pass_fds=files,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                timeout=LONGEST_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise RefusedFile(f"reading it took more than {LONGEST_SECONDS:g} s") from error
        if done.returncode:
            raise RefusedFile(f"the process that read it {_end(done.returncode)}{_last(words)}")


def _end(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    return f"was ended by {Signals(-code).name}"


def _last(words: BinaryIO) -> str:
    """The last line that was written; what it wrote may be a file's, and endless."""
    end = words.seek(0, os.SEEK_END)
    words.seek(max(0, end - MOST_WORDS))
    lines = words.read().decode(errors="replace").strip().splitlines()
    return f": {shown(lines[-1])}" if lines else ""


def _answer(report: Path) -> dict[str, Any]:
    size = report.stat().st_size
    if size > LARGEST_REPORT:
        raise RefusedFile(f"what its pickle describes takes {size:,} bytes to write down")
    answer: dict[str, Any] = json.loads(report.read_bytes())
    return answer


def _insist(held: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in held]
    if missing:
        raise InputError(
            f"--require-sandbox: this system does not offer {' and '.join(missing)} for the "
            "process that opens model files; run on a Linux kernel that does (5.13 or newer, with "
            "Landlock enabled), or leave the option out"
        )
