"""The process that opens an untrusted model file, and the only one that does.

It is handed open files, gives up everything else, reads the one and writes to the others what it
found. It knows neither torch nor any other library that a file could be aimed at.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable
from typing import Any, BinaryIO

from ..errors import InputError, RefusedFile
from .containers import PART_BYTES, read_checkpoint
from .formats import identify
from .handover import encode
from .inert_tree import StorageRecord
from .kernel_guards import Ceilings, confine
from .naming import shown
from .safetensors_header import read_header, written_header

CPU_SECONDS = 300
MEMORY_BYTES = 4 << 30

#: What names, texts and messages may need; once confined there is no way to import it.
for _codec in ("utf-8", "latin-1", "ascii", "cp437", "unicode_escape"):
    "".encode(_codec)


def main() -> None:
    """Read the file that the first argument numbers; answer into the two others."""
    model, report, weights = (int(number) for number in sys.argv[1:4])
    with (
        os.fdopen(model, "rb") as source,
        os.fdopen(report, "wb") as answers,
        os.fdopen(weights, "wb") as target,
    ):
        room = 2 * os.fstat(model).st_size + (1 << 30)
        guards = confine(
            Ceilings(cpu_seconds=CPU_SECONDS, memory_bytes=MEMORY_BYTES, file_bytes=room)
        )
        answer = json.dumps({"guards": guards, **read(source, target)})
        answers.write(answer.encode("utf-8", "surrogatepass"))


def read(source: io.BufferedReader, target: BinaryIO) -> dict[str, Any]:
    """What is in an open model file: its hash, format, and tree, or why it is refused.

    Args:
        source: the file.
        target: takes all numbers that the tree refers to, as safetensors.
    """
    try:
        return {
            "sha256": hashlib.file_digest(source, "sha256").hexdigest(),
            **_read(source, target),
        }
    except RefusedFile as error:
        return {"refused": str(error)}
    except InputError as error:
        return {"unusable": str(error)}
    except (MemoryError, RecursionError, OSError) as error:
        return {"refused": f"reading it failed with {shown(repr(error))}"}


def _read(source: BinaryIO, target: BinaryIO) -> dict[str, Any]:
    found = identify(source)
    if found == "safetensors":
        _copy_safetensors(source, target)
        return {"format": found}
    checkpoint = read_checkpoint(source, found)
    nodes, root, storages = encode(checkpoint.tree)
    target.write(_header_of(storages))
    for record in storages:
        checkpoint.storages.copy(record, target)
    return {"format": found, "nodes": nodes, "root": root}


def _copy_safetensors(source: BinaryIO, target: BinaryIO) -> None:
    """The same tensors under a header of our own: nothing of the file's passes as it is."""
    header, start = read_header(source)
    target.write(written_header(header))
    source.seek(start)
    while part := source.read(PART_BYTES):
        target.write(part)


def _header_of(storages: Iterable[StorageRecord]) -> bytes:
    header, position = {}, 0
    for number, record in enumerate(storages):
        end = position + record.nbytes
        header[str(number)] = {
            "dtype": "U8", "shape": [record.nbytes], "data_offsets": [position, end],
        }  # fmt: skip
        position = end
    return written_header(header)


if __name__ == "__main__":
    main()
