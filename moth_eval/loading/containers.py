"""The two containers of torch.save, opened without torch: a zip archive, and the older stream.

Both give the same thing: a tree of records and a way to read the bytes of one storage. Nothing
is decompressed, and nothing is read that the file does not really hold.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

from ..errors import RefusedFile
from .formats import LEGACY_MAGIC, LEGACY_MAGIC_WITHIN
from .inert_pickle import parse
from .inert_tree import StorageRecord
from .naming import shown
from .zip_directory import Directory, check_names, check_tiling, read_directory

LARGEST_PICKLE = 32 << 20
MOST_MEMBERS = 20_000
PART_BYTES = 1 << 20
#: Flags that torch's writer sets: sizes after the data, and UTF-8 names.
ALLOWED_FLAGS = 0x0808

_DAMAGE = (ValueError, IndexError, KeyError, OverflowError, struct.error)


class StorageBytes(Protocol):
    """Where the bytes of storages are."""

    def copy(self, record: StorageRecord, target: BinaryIO) -> None:
        """Write the bytes of one storage, exactly as many as its record says."""
        ...


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened file of torch.save.

    Attributes:
        tree: what its pickle describes.
        storages: where the numbers are; usable while the file is open.
        container: which of torch's two containers it came in.
    """

    tree: object
    storages: StorageBytes
    container: Literal["zip", "legacy"]


def read_checkpoint(file: BinaryIO, container: Literal["zip", "legacy"]) -> Checkpoint:
    """What an open file of torch.save holds.

    Raises:
        RefusedFile: the container is damaged, compressed, or not what torch writes.
    """
    file.seek(0)
    if container == "legacy":
        return _legacy(file)
    directory = read_directory(file)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, *_DAMAGE) as error:
        raise RefusedFile(
            f"the zip archive is damaged or cut short ({shown(error)}); copy or download it again"
        ) from error
    return _zip(archive, file, directory)


def _zip(archive: zipfile.ZipFile, file: BinaryIO, directory: Directory) -> Checkpoint:
    members = archive.infolist()
    size = file.seek(0, io.SEEK_END)
    root = _check_members(members, size)
    check_tiling(file, members, directory)
    storages = _ZipStorages(archive, root)
    order = storages.member("byteorder", 16)
    if order not in (None, b"little"):
        raise RefusedFile("the file was written on a big-endian machine, which is not read")
    pickle = storages.member("data.pkl", LARGEST_PICKLE)
    if pickle is None:
        raise RefusedFile("the zip archive is not one of torch.save: it holds no data.pkl")
    tree, end = parse(pickle, storages={})
    if end != len(pickle):
        raise RefusedFile(
            f"{len(pickle) - end} bytes follow the end of the pickle inside, where a second pickle "
            "may hide; save the model anew"
        )
    return Checkpoint(tree=tree, storages=storages, container="zip")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> str:
    names = [member.filename for member in members]
    if len(names) > MOST_MEMBERS or len(set(names)) != len(names):
        raise RefusedFile(
            f"the zip archive holds {len(names)} members, {len(names) - len(set(names))} of them "
            f"doubled; at most {MOST_MEMBERS} different ones are read"
        )
    _name_other_archives(names)
    check_names(members)
    packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
    if packed or any(m.flag_bits & ~ALLOWED_FLAGS for m in members):
        raise RefusedFile(
            "the zip archive holds compressed or encrypted members, which torch.save never writes "
            "(a few kilobytes could swell to terabytes); save the model anew"
        )
    if sum(m.file_size for m in members) > size:
        raise RefusedFile("the members of the zip archive claim more bytes than the file has")
    return _root(names)


def _root(names: list[str]) -> str:
    roots = {name.split("/")[0] for name in names}
    if len(roots) != 1 or any(".." in name.split("/") or "\\" in name for name in names):
        raise RefusedFile(
            "the zip archive is not one of torch.save: its members do not lie in one folder"
        )
    return roots.pop()


def _name_other_archives(names: list[str]) -> None:
    inner = {name.partition("/")[2] for name in names} | set(names)
    tops = {name.partition("/")[0] for name in inner}
    remedy = "save a state dict from it yourself: torch.save(model.state_dict(), path)"
    if inner & {"serialized_exported_program.json", "models/model.json", "archive_format"}:
        raise RefusedFile(
            "this is a program of torch.export (.pt2), and loading one can run code hidden in it; "
            + remedy
        )
    if "constants.pkl" in inner or "code" in tops:
        raise RefusedFile(
            "this is a TorchScript program, which can read and write files when it runs; " + remedy
        )
    if any(name.endswith(".npy") for name in names):
        raise RefusedFile("this is a numpy archive (.npz), not a model of torch; convert it first")


class _ZipStorages:
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive = archive
        self._root = root

    def member(self, name: str, limit: int) -> bytes | None:
        """The content of a small member, or None where there is none."""
        try:
            info = self._archive.getinfo(f"{self._root}/{name}")
        except KeyError:
            return None
        if info.file_size > limit:
            raise RefusedFile(f"{name} in the zip archive has {info.file_size:,} bytes")
        content = io.BytesIO()
        self._copy(info, content)
        return content.getvalue()

    def copy(self, record: StorageRecord, target: BinaryIO) -> None:
        """Write the bytes of one storage."""
        try:
            info = self._archive.getinfo(f"{self._root}/data/{record.key}")
        except KeyError as error:
            raise RefusedFile(
                f"the numbers of storage {shown(record.key)!r} are missing"
            ) from error
        if info.file_size != record.nbytes:
            raise RefusedFile(
                f"storage {shown(record.key)!r} holds {info.file_size:,} bytes, but the pickle "
                f"says {record.nbytes:,}"
            )
        self._copy(info, target)

    def _copy(self, info: zipfile.ZipInfo, target: BinaryIO) -> None:
        count = 0
        try:
            with self._archive.open(info) as member:
                # The read that finds nothing more makes zipfile compare the checksum.
                while part := member.read(PART_BYTES):
                    count += target.write(part)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, *_DAMAGE) as error:
            raise RefusedFile(
                f"the zip archive is damaged at {shown(info.filename)} ({shown(error)}); "
                "copy it again"
            ) from error
        if count != info.file_size:
            raise RefusedFile(f"the zip archive is cut short at {info.filename}; copy it again")


def _legacy(file: BinaryIO) -> Checkpoint:
    head = file.read(LARGEST_PICKLE)
    start = head.find(LEGACY_MAGIC, 0, LEGACY_MAGIC_WITHIN) + len(LEGACY_MAGIC)
    version, start = parse(head, start=start, storages={})
    system, start = parse(head, start=start, storages={})
    if version != 1001 or type(system) is not dict or system.get("little_endian") is not True:
        raise RefusedFile("the file's header is not that of torch.save on a little-endian machine")
    records: dict[str, StorageRecord] = {}
    tree, start = parse(head, start=start, storages=records)
    keys, start = parse(head, start=start, storages={})
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise RefusedFile("the file does not list its storages the way torch.save does")
    if len(keys) != len(records) or set(keys) != set(records):
        raise RefusedFile("the storages that follow the pickle are not those that it refers to")
    offsets = _legacy_offsets(file, start, [records[key] for key in keys])
    return Checkpoint(tree=tree, storages=_LegacyStorages(file, offsets), container="legacy")


def _legacy_offsets(file: BinaryIO, position: int, records: list[StorageRecord]) -> dict[str, int]:
    size = file.seek(0, io.SEEK_END)
    offsets = {}
    for record in records:
        file.seek(position)
        count = file.read(8)
        if len(count) < 8 or position + 8 + record.nbytes > size:
            raise RefusedFile("the file is cut short; copy or download it again")
        if int.from_bytes(count, "little", signed=True) != record.numel:
            raise RefusedFile(
                f"storage {shown(record.key)!r} has another length than the pickle says"
            )
        offsets[record.key] = position + 8
        position += 8 + record.nbytes
    if position != size:
        raise RefusedFile(f"{size - position} bytes follow the last storage; save the model anew")
    return offsets


class _LegacyStorages:
    def __init__(self, file: BinaryIO, offsets: dict[str, int]) -> None:
        self._file = file
        self._offsets = offsets

    def copy(self, record: StorageRecord, target: BinaryIO) -> None:
        """Write the bytes of one storage."""
        self._file.seek(self._offsets[record.key])
        left = record.nbytes
        while left:
            part = self._file.read(min(left, PART_BYTES))
            if not part:
                raise RefusedFile("the file shrank while it was read")
            left -= target.write(part)
