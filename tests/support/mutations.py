"""Small files of every readable format, and what chance makes of them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import torch
from safetensors.torch import save
from torch import nn

from tests.support.hostile_writers import CANARY


class Payload:
    """Would leave a file behind, were it ever called."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"import pathlib; pathlib.Path({CANARY!r}).touch()",)


def seeds() -> dict[str, bytes]:
    """Sound files, and one that does harm when it is unpickled, by format."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    return {
        "safetensors": save(state),
        "zip": _saved(state),
        "zip-protocol-4": _saved(state, pickle_protocol=4),
        "legacy": _saved(state, _use_new_zipfile_serialization=False),
        "module": _saved(network),
        "legacy-module": _saved(network, _use_new_zipfile_serialization=False),
        "payload": _saved({"state_dict": state, "epoch": Payload()}),
        "legacy-payload": _saved({"epoch": Payload()}, _use_new_zipfile_serialization=False),
    }


def _saved(what: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(what, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def mutations(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """So many damaged files with the format that each was made from; equal seeds give the same."""
    chance = random.Random(seed)  # noqa: S311 - damage, not secrets
    sound = seeds()
    names = sorted(sound)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray(sound[name])
        for _ in range(chance.randint(1, 4)):
            _damage(content, chance, sound[chance.choice(names)])
        yield name, bytes(content)


def _damage(content: bytearray, chance: random.Random, other: bytes) -> None:
    """Change a file in one of the ways in which fuzzers change files."""
    if not content:
        content += other[:64]
        return
    place, size = chance.randrange(len(content)), chance.choice((1, 2, 4, 8, 64, 512))
    kind = chance.randrange(8)
    if kind == 0:
        content[place] ^= 1 << chance.randrange(8)
    elif kind == 1:
        content[place] = chance.randrange(256)
    elif kind == 2:
        del content[place:]
    elif kind == 3:
        del content[place : place + size]
    elif kind == 4:
        content[place:place] = content[place : place + size]
    elif kind == 5:
        start = chance.randrange(len(other))
        content[place : place + size] = other[start : start + size]
    elif kind == 6:
        number = chance.choice((0, 1, 127, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1))
        content[place : place + 8] = number.to_bytes(8, "little")
    else:
        content[place : place + size] = bytes([chance.choice((0, 255, 40, 46, 82, 99))]) * size
