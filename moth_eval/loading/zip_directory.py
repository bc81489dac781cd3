"""Whether a zip archive has one reading: every byte of it belongs to one member or the directory.

Readers disagree on archives with gaps, two tables of contents or names that differ in case. What
torch's writer makes has none of these, so an archive that has them is refused.
"""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import RefusedFile

LARGEST_DIRECTORY = 8 << 20
END_RECORD = 22
LOCATOR_64 = 20
END_RECORD_64 = 56
LOCAL_HEADER = 30
#: Lengths of the sizes after the data of a member, for small and for 64-bit members.
DESCRIPTORS = (16, 24)
HAS_DESCRIPTOR = 0x0008


@dataclass(frozen=True, kw_only=True)
class Directory:
    """Where the table of contents lies, in bytes from the start, and how many members it lists."""

    start: int
    size: int
    count: int


def read_directory(file: BinaryIO) -> Directory:
    """The one table of contents of the archive, which its end records must agree upon.

    Raises:
        RefusedFile: there is no such table, it is too large, or readers could find another.
    """
    size = file.seek(0, io.SEEK_END)
    longest = END_RECORD + LOCATOR_64 + END_RECORD_64
    file.seek(max(0, size - longest))
    tail = file.read().rjust(longest, b"\0")
    end = tail[-END_RECORD:]
    if end[:4] != b"PK\x05\x06" or end[20:] != b"\0\0":
        raise RefusedFile(
            "the zip archive is cut short, or something follows it; copy or download it again"
        )
    disk, other, here, count, length, start = struct.unpack("<4H2I", end[4:20])
    found, end_at = Directory(start=start, size=length, count=count), size - END_RECORD
    if tail[END_RECORD_64:-END_RECORD].startswith(b"PK\x06\x07"):
        end_at = size - longest
        found = _from_64_bit(tail, end_at, found)
    if found.size > LARGEST_DIRECTORY:
        raise RefusedFile(f"the zip archive has a table of contents of {found.size:,} bytes")
    if disk or other or here != count or found.start + found.size != end_at:
        raise RefusedFile(_two_readings("its table of contents does not end where it says"))
    return found


def _from_64_bit(tail: bytes, position: int, small: Directory) -> Directory:
    """The table that the 64-bit end record at `position` names."""
    signature, disk, offset, disks = struct.unpack_from("<IIQI", tail, END_RECORD_64)
    mark, length, _, own, other, here, count, size, start = struct.unpack_from("<IQI2I4Q", tail)
    expected = (0x06064B50, END_RECORD_64 - 12, 0, 0, count)
    if offset != position or disk or disks > 1 or signature != 0x07064B50:
        raise RefusedFile(_two_readings("it names a second table of contents"))
    if (mark, length, own, other, here) != expected:
        raise RefusedFile(_two_readings("its 64-bit end record is not of the plain kind"))
    known = ((small.count, count, 1 << 16), (small.size, size, 1 << 32))
    for said, real, limit in (*known, (small.start, start, 1 << 32)):
        if said not in (real, limit - 1):
            raise RefusedFile(_two_readings("its two end records contradict each other"))
    return Directory(start=start, size=size, count=count)


def check_names(members: list[zipfile.ZipInfo]) -> None:
    """Refuses names that readers take for each other's, or that only some readers find.

    Raises:
        RefusedFile: a name below the archive's own is in upper case, which torch's reader takes
            for lower case, or is not read as it is written.
    """
    inner = [member.filename.partition("/")[2] for member in members]
    if any(name != name.lower() for name in inner):
        raise RefusedFile(_two_readings("a member's name is in upper case"))
    if any(member.orig_filename != member.filename for member in members):
        raise RefusedFile(_two_readings("a member's name goes on behind its end"))


def check_tiling(file: BinaryIO, members: list[zipfile.ZipInfo], directory: Directory) -> None:
    """Refuses an archive with bytes that belong to no member, or to two.

    Args:
        file: the archive; read at each member's own header.
        members: what the table of contents lists; all stored without compression.
        directory: where that table lies.

    Raises:
        RefusedFile: the members do not fill the file up to the table, one after the other.
    """
    if len(members) != directory.count:
        raise RefusedFile(_two_readings("its table of contents lists another number of members"))
    ordered = sorted(members, key=lambda member: member.header_offset)
    starts = [member.header_offset for member in ordered] + [directory.start]
    if starts[0] != 0:
        raise RefusedFile(_two_readings("something stands before its first member"))
    for member, start, following in zip(ordered, starts[:-1], starts[1:], strict=True):
        gap = following - start - _length(file, member)
        allowed = DESCRIPTORS if member.flag_bits & HAS_DESCRIPTOR else (0,)
        if gap not in allowed:
            raise RefusedFile(_two_readings("its members overlap or leave gaps"))


def _length(file: BinaryIO, member: zipfile.ZipInfo) -> int:
    """Bytes of the member's own header and data."""
    file.seek(member.header_offset)
    header = file.read(LOCAL_HEADER)
    if len(header) != LOCAL_HEADER or header[:4] != b"PK\x03\x04":
        raise RefusedFile(_two_readings("a member does not begin where it should"))
    flags, method = struct.unpack_from("<2H", header, 6)
    if flags != member.flag_bits or method != member.compress_type:
        raise RefusedFile(_two_readings("a member contradicts the table of contents"))
    if member.compress_size != member.file_size:
        raise RefusedFile(_two_readings("a member is stored in another number of bytes"))
    name, extra = struct.unpack_from("<2H", header, 26)
    return LOCAL_HEADER + int(name) + int(extra) + member.file_size


def _two_readings(what: str) -> str:
    return (
        f"two programs could read two different models from the zip archive ({what}); torch.save "
        "writes no such file; save the model anew"
    )
