from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import RefusedFile
from moth_eval.loading.files import load_network
from moth_eval.loading.quarantine import handed_over

Members = list[tuple[str, bytes]]


def network(value: float) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False))
    nn.init.constant_(model[1].weight, value)
    return model


def members_of(value: float) -> Members:
    buffer = io.BytesIO()
    torch.save(network(value), buffer)
    with zipfile.ZipFile(buffer) as archive:
        return [
            (f"archive/{i.filename.partition('/')[2]}", archive.read(i)) for i in archive.infolist()
        ]


def split(members: Members) -> tuple[bytes, bytes, int]:
    """The members, the table of contents and the number of entries of a plain archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    data = buffer.getvalue()
    count, size, start = struct.unpack("<HII", data[-12:-2])
    return data[:start], data[start : start + size], count


def moved(table: bytes, distance: int) -> bytes:
    shifted, place = bytearray(table), 0
    while place < len(shifted):
        (offset,) = struct.unpack_from("<I", shifted, place + 42)
        struct.pack_into("<I", shifted, place + 42, offset + distance)
        place += 46 + sum(struct.unpack_from("<3H", shifted, place + 28))
    return bytes(shifted)


def end(count: int, size: int, start: int) -> bytes:
    return b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, count, count, size, start, 0)


def end_64(count: int, size: int, start: int) -> bytes:
    return b"PK\x06\x06" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, count, count, size, start)


def locator(offset: int) -> bytes:
    return b"PK\x06\x07" + struct.pack("<IQI", 0, offset, 1)


ALL_ONES = end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def two_tables() -> bytes:
    shown, table, count = split(members_of(1.0))
    real, other, _ = split(members_of(7.0))
    data = shown + real
    other = moved(other, len(shown))
    first = len(data) + len(other)
    data += other + end_64(count, len(other), len(data))
    data += table + end_64(count, len(table), len(data))
    return data + locator(first) + ALL_ONES


def gap_before_table() -> bytes:
    data, table, count = split(members_of(1.0))
    return data + b"hidden" + table + end(count, len(table), len(data) + 6)


def gap_between_members() -> bytes:
    (first, table, count), (second, _, _) = split(members_of(1.0)), split(members_of(7.0))
    middle = len(split(members_of(1.0)[:1])[0])
    data = first[:middle] + second[:middle] + first[middle:]
    shifted, place, seen = bytearray(table), 0, 0
    while place < len(shifted):
        (offset,) = struct.unpack_from("<I", shifted, place + 42)
        struct.pack_into("<I", shifted, place + 42, offset + (middle if seen else 0))
        place, seen = place + 46 + sum(struct.unpack_from("<3H", shifted, place + 28)), 1
    return data + bytes(shifted) + end(count, len(shifted), len(data))


def wrong_count() -> bytes:
    data, table, count = split(members_of(1.0))
    return data + table + end(count - 1, len(table), len(data))


def contradicting_ends() -> bytes:
    data, table, count = split(members_of(1.0))
    place = len(data) + len(table)
    big = end_64(count, len(table), len(data))
    return data + table + big + locator(place) + end(count, len(table), len(data) - 46)


def name_with_an_end_inside() -> bytes:
    data, table, count = split([*members_of(1.0), ("archive/data.pkl_x", b"other")])
    data = data.replace(b"data.pkl_x", b"data.pkl\0x")
    table = table.replace(b"data.pkl_x", b"data.pkl\0x")
    return data + table + end(count, len(table), len(data))


def names_that_differ_in_case() -> bytes:
    data, table, count = split([("archive/DATA.PKL", b"other"), *members_of(1.0)])
    return data + table + end(count, len(table), len(data))


def hidden_byte_order() -> bytes:
    data, table, count = split([*members_of(1.0)[:1], ("archive/BYTEORDER", b"big")])
    return data + table + end(count, len(table), len(data))


def other_flags_at_the_member() -> bytes:
    data, table, count = split(members_of(1.0))
    return data[:6] + b"\x08\x00" + data[8:] + table + end(count, len(table), len(data))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (two_tables, "second table of contents"),
        (gap_before_table, "overlap or leave gaps"),
        (gap_between_members, "overlap or leave gaps"),
        (wrong_count, "another number of members"),
        (contradicting_ends, "contradict each other"),
        (name_with_an_end_inside, "1 of them doubled|goes on behind its end"),
        (names_that_differ_in_case, "name is in upper case"),
        (hidden_byte_order, "name is in upper case"),
        (other_flags_at_the_member, "contradicts the table of contents"),
    ],
)
def test_archive_that_two_programs_read_differently_is_refused(
    make: Callable[[], bytes], reason: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(make())
    with pytest.raises(RefusedFile, match=reason):
        load_network(tmp_path / "model.pt")


def test_the_same_archive_without_the_trick_is_read(tmp_path: Path) -> None:
    data, table, count = split(members_of(7.0))
    large = end_64(count, len(table), len(data)) + locator(len(data) + len(table))
    for tail in (end(count, len(table), len(data)), large + ALL_ONES):
        (tmp_path / "model.pt").write_bytes(data + table + tail)
        weights = load_network(tmp_path / "model.pt").module.state_dict()["1.weight"]
        assert torch.equal(weights, torch.full((3, 12), 7.0))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("numbers", [1, 63, 64, 300_001])
def test_files_of_torch_save_pass_whatever_their_padding(
    protocol: int, numbers: int, tmp_path: Path
) -> None:
    state = {f"layer{i}": torch.zeros(numbers + i, 1) for i in range(5)}
    torch.save(state, tmp_path / "model.pt", pickle_protocol=protocol)
    with handed_over(tmp_path / "model.pt") as checkpoint:
        assert isinstance(checkpoint.tree, dict)
        assert list(checkpoint.tree) == list(state)
        last = checkpoint.tree["layer4"]
        assert checkpoint.storages is not None
        assert len(checkpoint.storages.read(last.storage)) == 4 * (numbers + 4)


def test_sizes_of_64_bits_after_the_data_of_a_member_are_accepted(tmp_path: Path) -> None:
    """As torch writes them behind members beyond 4 GiB."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(4)}, buffer)
    data = buffer.getvalue()
    place = data.rindex(b"PK\x07\x08")
    with zipfile.ZipFile(buffer) as archive:
        table, count = archive.start_dir, len(archive.infolist())
    (size,) = struct.unpack_from("<I", data, place + 8)
    large = data[: place + 8] + struct.pack("<QQ", size, size)
    listed = data[table : data.index(b"PK\x06\x06", table)]
    tail = end(count, len(listed), len(large))
    (tmp_path / "model.pt").write_bytes(large + listed + tail)
    with handed_over(tmp_path / "model.pt") as checkpoint:
        assert isinstance(checkpoint.tree, dict)
        assert list(checkpoint.tree) == ["weight"]
