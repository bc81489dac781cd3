"""How each file of `tests.support.hostile` is put together."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.support.pickles import (
    call,
    instance,
    mapping,
    module_state,
    name,
    program,
    sequential,
    tensor,
    text,
    write_legacy,
    write_zip,
)

CANARY = "CANARY"


def touch(path: Path) -> str:
    return f"touch '{path.parent.resolve() / CANARY}'"


def state(tensor_bytes: bytes) -> bytes:
    return program(mapping({"fc.weight": tensor_bytes}))


def pickled(body: bytes, **storages: bytes) -> Callable[[Path], None]:
    return lambda path: write_zip(path, program(body), {k[1:]: v for k, v in storages.items()})


def content(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def os_system(path: Path) -> None:
    write_zip(path, program(call("os", "system", text(touch(path)))))


def posix_system(path: Path) -> None:
    body = text("posix") + text("system") + b"\x93" + text(touch(path)) + b"\x85R"
    write_zip(path, b"\x80\x04" + body + b".")


def exec(path: Path) -> None:
    write_zip(
        path, program(call("__builtin__", "exec", text(f"import os; os.system({touch(path)!r})")))
    )


def legacy_os_system(path: Path) -> None:
    write_legacy(path, program(call("os", "system", text(touch(path)))))


def second_pickle(path: Path) -> None:
    first = program(mapping({"a": b"N"}))
    write_zip(path, first + program(call("os", "system", text(touch(path)))))


def nested_pickle(path: Path) -> None:
    data = program(call("os", "system", text(touch(path))))
    body = call("torch.storage", "_load_from_bytes", b"C" + bytes([len(data) % 256]) + data[:255])
    write_zip(path, program(body))


def bare_pickle(path: Path) -> None:
    path.write_bytes(program(call("os", "system", text(touch(path)))))


def textual_pickle(path: Path) -> None:
    path.write_bytes(f'cos\nsystem\n(S"{touch(path)}"\ntR.'.encode())


def shared_parts(levels: int) -> bytes:
    """Networks that each hold the one before twice: `levels` pickled, 2 ** levels described."""
    items = {"level0": sequential() + b"q\x00"}
    for level in range(levels):
        twice = mapping({"a": b"h" + bytes([level]), "b": b"h" + bytes([level])})
        items[f"level{level + 1}"] = sequential(_modules=twice) + b"q" + bytes([level + 1])
    return mapping({**items, "model": b"h" + bytes([levels])})


def own_parent() -> bytes:
    """A network that is a part of itself."""
    empty = name("torch.nn.modules.container", "Sequential") + b")\x81q\x00"
    return empty + mapping(module_state(_modules=mapping({"self": b"h\x00"}))) + b"b"


def hash_bomb() -> bytes:
    return b"})" + b"q\x01h\x01\x86" * 45 + b"K\x01s"


def many_views(count: int) -> bytes:
    view = tensor((25_000,), (1,))
    return mapping({f"weight{index}": view for index in range(count)})


def copied_lists() -> bytes:
    long = b"](" + b"K\x01" * 100_000 + b"eq\x00"
    again = name("builtins", "set") + b"h\x00\x85R"
    return b"(" + long + again * 20 + b"t"


def linear(**extra: bytes) -> bytes:
    settings = {"in_features": b"K\x04", "out_features": b"K\x02"}
    return instance("torch.nn.modules.linear", "Linear", mapping(module_state(**settings, **extra)))


def zip_bomb_pickle(path: Path) -> None:
    body = program(b"(" + b"K\x01" * 20_000_000 + b"l")
    write_zip(path, body, compression=zipfile.ZIP_DEFLATED)


def zip_bomb_storage(path: Path) -> None:
    count = 1 << 24
    write_zip(path, state(tensor((count,), (1,))), compression=zipfile.ZIP_DEFLATED)
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as member,
    ):
        for _ in range(64):
            member.write(bytes(1 << 20))


def lying_sizes(path: Path) -> None:
    """The table of contents claims that a member of 16 bytes has a gigabyte."""
    write_zip(path, state(tensor((1 << 28,), (1,))), {"0": bytes(16)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    struct.pack_into("<II", data, entry + 20, 1 << 30, 1 << 30)
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    write_zip(path, state(tensor((1,), (1,))), {"0": bytes(4)})
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 8] |= 1
    path.write_bytes(data)


def wrong_checksum(path: Path) -> None:
    write_zip(path, state(tensor((4,), (1,))), {"0": b"\x11" * 16})
    path.write_bytes(path.read_bytes().replace(b"\x11" * 16, b"\x12" * 16))


def double_member(path: Path) -> None:
    write_zip(path, state(tensor((1,), (1,))), {"0": bytes(4), "1": bytes(4)})
    path.write_bytes(path.read_bytes().replace(b"archive/data/1", b"archive/data/0"))


def huge_directory(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"N.")
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    entry, end = data[start:-22], bytearray(data[-22:])
    table = entry * ((9 << 20) // len(entry))
    struct.pack_into("<I", end, 12, len(table))
    path.write_bytes(data[:start] + table + end)


def good_zip(path: Path) -> bytes:
    write_zip(path, state(tensor((4,), (1,))), {"0": bytes(16)})
    return path.read_bytes()


def truncated_zip(path: Path) -> None:
    data = good_zip(path)
    path.write_bytes(data[: len(data) // 2])


def zip_with_tail(path: Path) -> None:
    path.write_bytes(good_zip(path) + b"more")


def pickle_before_zip(path: Path) -> None:
    archive = good_zip(path)
    path.write_bytes(program(call("os", "system", text(touch(path)))) + archive)


def legacy_before_zip(path: Path) -> None:
    archive = good_zip(path)
    write_legacy(path, program(b"}"))
    path.write_bytes(path.read_bytes() + archive)


def safetensors(header: object, data: bytes = b"", *, raw: bytes | None = None) -> bytes:
    body = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(body)) + body + data


def safetensors_before_zip(path: Path) -> None:
    archive = good_zip(path)
    path.write_bytes(safetensors({"a": entry(0, 4)}, bytes(4)) + archive)


def entry(start: int, end: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


def tar(path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member in ("sys_info", "pickle", "tensors", "storages"):
            info = tarfile.TarInfo(member)
            info.size = 2
            archive.addfile(info, io.BytesIO(b"N."))
    path.write_bytes(buffer.getvalue())


def archive(*members: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(member, program(b"N"))

    return write


def legacy(body: bytes, keys: tuple[str, ...], storages: bytes) -> Callable[[Path], None]:
    listed = program(b"](" + b"".join(map(text, keys)) + b"e")
    return lambda path: write_legacy(path, body, listed, storages)
