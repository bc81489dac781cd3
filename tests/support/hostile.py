"""Model files that attack, mislead or break whoever opens them, each with the refusal it earns.

Nothing here needs torch: every file is put together from bytes. Files that try to run something
would create `CANARY` in their folder.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.hostile_pickles import PICKLES
from tests.support.hostile_writers import (
    CANARY as CANARY,
)
from tests.support.hostile_writers import (
    archive,
    content,
    double_member,
    encrypted,
    entry,
    huge_directory,
    legacy,
    legacy_before_zip,
    lying_sizes,
    pickle_before_zip,
    pickled,
    safetensors,
    safetensors_before_zip,
    state,
    tar,
    truncated_zip,
    wrong_checksum,
    zip_bomb_pickle,
    zip_bomb_storage,
    zip_with_tail,
)
from tests.support.pickles import (
    mapping,
    program,
    sequential,
    tensor,
    write_legacy,
    write_zip,
)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One hostile file: its name, what the refusal must say, and how to write it."""

    file: str
    reason: str
    write: Callable[[Path], None]


def write_hostile_files(folder: Path) -> list[Path]:
    """Writes every hostile file into `folder`; all of them must be refused."""
    folder.mkdir(parents=True, exist_ok=True)
    for attack in ATTACKS:
        attack.write(folder / attack.file)
    return [folder / attack.file for attack in ATTACKS]


_ONE = state(tensor((2,), (1,)))
_TWO_FLOATS = struct.pack("<q", 2) + bytes(8)
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"

#: file -> what the refusal says, how to write it.
_FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    # checkpoints
    "no_weights.pt": (r"no weights found", pickled(mapping({"epoch": b"K\x05"}))),
    "a_number.pt": (r"no weights found .* a single int", pickled(b"K\x05")),
    "two_networks.pt": (
        r"several sets of weights",
        pickled(mapping({"generator": sequential(), "critic": sequential()})),
    ),
    # containers
    "zip_bomb_pickle.pt": (r"compressed or encrypted", zip_bomb_pickle),
    "zip_bomb_storage.pt": (r"compressed or encrypted", zip_bomb_storage),
    "lying_sizes.pt": (r"claim more bytes than the file has", lying_sizes),
    "encrypted.pt": (r"compressed or encrypted", encrypted),
    "wrong_checksum.pt": (r"damaged at archive/data/0", wrong_checksum),
    "double_member.pt": (r"1 of them doubled", double_member),
    "huge_directory.pt": (r"table of contents", huge_directory),
    "truncated_zip.pt": (r"cut short", truncated_zip),
    "zip_with_tail.pt": (r"something follows it", zip_with_tail),
    "pickle_before_zip.pt": (r"polyglot", pickle_before_zip),
    "legacy_before_zip.pt": (r"polyglot", legacy_before_zip),
    "safetensors_before_zip.safetensors": (r"polyglot", safetensors_before_zip),
    "outside_path.pt": (
        r"do not lie in one folder",
        archive("archive/data.pkl", "archive/../../evil.txt"),
    ),
    "two_roots.pt": (r"do not lie in one folder", archive("a/data.pkl", "b/data.pkl")),
    "no_pickle.pt": (r"holds no data\.pkl", archive("archive/version")),
    "big_endian.pt": (
        r"big-endian",
        lambda path: write_zip(path, _ONE, extra={"archive/byteorder": b"big"}),
    ),
    "torchscript.pt": (
        r"TorchScript",
        archive("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"),
    ),
    "export.pt2": (
        r"torch\.export",
        archive("m/archive_format", "m/models/model.json", "m/data/sample_inputs/model.pt"),
    ),
    "arrays.npz": (r"numpy archive", archive("weight.npy")),
    "tar.pt": (r"tar archive", tar),
    # the older container
    "legacy_cut.pt": (r"cut short", legacy(_ONE, ("0",), _TWO_FLOATS[:-3])),
    "legacy_tail.pt": (
        r"5 bytes follow the last storage",
        legacy(_ONE, ("0",), _TWO_FLOATS + b"12345"),
    ),
    "legacy_other_keys.pt": (r"not those that it refers to", legacy(_ONE, ("1",), _TWO_FLOATS)),
    "legacy_twice.pt": (r"not those that it refers to", legacy(_ONE, ("0", "0"), _TWO_FLOATS * 2)),
    "legacy_length.pt": (
        r"another length",
        legacy(_ONE, ("0",), struct.pack("<q", 3) + bytes(12)),
    ),
    "legacy_keys.pt": (
        r"does not list its storages",
        lambda path: write_legacy(path, _ONE, program(b"}"), _TWO_FLOATS),
    ),
    # other formats
    "model.onnx": (r"ONNX", content(b"\x08\x08\x12\x07pytorch\x1a\x051.9.0:\x20" + bytes(64))),
    "keras.pt": (r"HDF5", content(b"\x89HDF\r\n\x1a\n" + bytes(64))),
    "gzip.pt": (r"gzip", content(b"\x1f\x8b\x08" + bytes(64))),
    "pointer.pt": (r"git lfs pull", content(_LFS)),
    "page.pt": (r"web page", content(b"<!DOCTYPE html><html><body>404</body></html>")),
    "text.pt": (r"text file", content(b"these are not the weights\n" * 9)),
    "random.pt": (
        r"no known model format",
        content(
            b"\xf3" + random.Random(1).randbytes(5_000)  # noqa: S311
        ),
    ),
    "zeros.pt": (r"no known model format", content(bytes(5_000))),
    # safetensors
    "header_size.safetensors": (
        r"header claims",
        content(struct.pack("<Q", 10**15) + b'{"a":1}' + bytes(90)),
    ),
    "header_text.safetensors": (r"not readable", content(safetensors(None, raw=b"{nonsense}"))),
    "header_deep.safetensors": (
        r"not readable",
        content(safetensors(None, raw=b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")),
    ),
    "header_list.safetensors": (r"not readable", content(safetensors({"a": [1]}, bytes(8)))),
    "overlap.safetensors": (
        r"overlap or leave gaps",
        content(safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12))),
    ),
    "gap.safetensors": (
        r"overlap or leave gaps",
        content(safetensors({"a": entry(8, 16)}, bytes(16))),
    ),
    "cut.safetensors": (r"cut short", content(safetensors({"a": entry(0, 4000)}, bytes(100)))),
    "tail.safetensors": (r"describes", content(safetensors({"a": entry(0, 4)}, bytes(100)))),
    "dtype.safetensors": (
        r"damaged",
        content(
            safetensors({"a": {"dtype": "NO", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
        ),
    ),
    "shape.safetensors": (
        r"damaged",
        content(
            safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, bytes(4))
        ),
    ),
}

ATTACKS = tuple(
    Attack(file=file, reason=reason, write=write)
    for file, (reason, write) in {**PICKLES, **_FILES}.items()
)
