"""An assembler for pickles that no pickler would write, and containers to put them in."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

LEGACY_HEADER = (
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    b"\x80\x02M\xe9\x03."
    b"\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
)


def name(module: str, attribute: str) -> bytes:
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def mapping(items: Mapping[str, bytes]) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def instance(module: str, attribute: str, state: bytes) -> bytes:
    return name(module, attribute) + b")\x81" + state + b"b"


def storage(key: str, numel: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + name("torch", kind)
        + text(key)
        + text("cpu")
        + number(numel)
        + b"tQ"
    )


def tensor(
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *,
    key: str = "0",
    numel: int | None = None,
    offset: int = 0,
) -> bytes:
    count = size[0] if numel is None else numel
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage(key, count),
        number(offset),
        numbers(*size),
        numbers(*stride),
        b"\x89",
        name("collections", "OrderedDict") + b")R",
    )


def module_state(**extra: bytes) -> dict[str, bytes]:
    """The attributes of an empty `nn.Module`, with some replaced or added."""
    return {"training": b"\x89", "_parameters": b"}", "_buffers": b"}", "_modules": b"}", **extra}


def sequential(**extra: bytes) -> bytes:
    return instance("torch.nn.modules.container", "Sequential", mapping(module_state(**extra)))


def program(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def write_zip(
    path: Path,
    pickle: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """A file as torch.save would write it, around any pickle."""
    members = {
        "archive/data.pkl": pickle,
        "archive/byteorder": b"little",
        "archive/version": b"3\n",
        **{f"archive/data/{key}": data for key, data in (storages or {}).items()},
        **(extra or {}),
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in members.items():
            archive.writestr(zipfile.ZipInfo(member), data, compress_type=compression)


def write_legacy(
    path: Path, pickle: bytes, keys: bytes = b"\x80\x02].", storages: bytes = b""
) -> None:
    """A file as torch.save wrote it before 1.6, around any pickle."""
    path.write_bytes(LEGACY_HEADER + pickle + keys + storages)
