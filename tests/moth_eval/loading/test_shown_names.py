from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import torch

from moth_eval.errors import ArchitectureError, InputError, MothError, RefusedFile
from moth_eval.loading.files import load_network
from moth_eval.loading.naming import shown
from moth_eval.loading.sidecars import LARGEST, read_sidecar
from tests.support.pickles import (
    LEGACY_HEADER,
    instance,
    mapping,
    module_state,
    name,
    program,
    text,
    write_zip,
)

ESCAPES = "\x1b]0;owned\x07\x1b[2J"


def test_shown_text_is_visible_and_short() -> None:
    assert shown("layer1.conv") == "layer1.conv"
    assert shown("\x1b[2J\nx") == r"\x1b[2J x"
    assert len(shown("a" * 10_000_000)) == len(shown("\x1b" * 10_000)) == 203


@pytest.mark.parametrize("odd", [ESCAPES + "X", "a\u202eb", "two\nlines", "X" * 200])
def test_class_names_that_would_write_on_the_terminal_are_refused(odd: str, tmp_path: Path) -> None:
    network = text("evil") + text(odd) + b"\x93)\x81" + mapping(module_state()) + b"b"
    write_zip(tmp_path / "model.pt", program(network))
    with pytest.raises(RefusedFile, match="something that is no name") as caught:
        load_network(tmp_path / "model.pt")
    assert not {"\x1b", "\x07", "\u202e"} & set(str(caught.value))
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_names_of_weights_are_shown_without_effect_and_cut(tmp_path: Path) -> None:
    torch.save({ESCAPES + "a" * 100_000: torch.zeros(2, 2)}, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match=r"not in the architecture: \\x1b") as caught:
        load_network(tmp_path / "model.pt", architecture_name="resnet18")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 800


@pytest.mark.parametrize(
    "body",
    [
        mapping({ESCAPES + "k" * 100_000: b"N", "a": b"N"}),
        b"(" + text("storage") + text(ESCAPES + "s" * 100_000) + b"NNNtQ",
        b"(" + text("storage") + name("torch", "FloatStorage") + text("k" * 100_000) + b"NK\x02tQ",
        instance("torch.nn.modules.linear", "Linear", mapping({"hook" + ESCAPES * 9999: b"\x88"})),
        b"X\xff\xff\x00\x00" + b"\xff" * 0xFFFF,
    ],
)
def test_no_refusal_carries_the_text_of_the_file_on(body: bytes, tmp_path: Path) -> None:
    write_zip(tmp_path / "model.pt", program(body))
    with pytest.raises(MothError, match=r"model\.pt: refused") as caught:
        load_network(tmp_path / "model.pt")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 1000


def tar_header(start: bytes) -> bytes:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    header[: len(start)] = start
    header[257:265] = bytes(8)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def test_stream_that_torch_takes_for_a_tar_archive_is_refused(tmp_path: Path) -> None:
    start = LEGACY_HEADER[:15]
    (tmp_path / "model.pt").write_bytes(tar_header(start) + bytes(512))
    assert tarfile.is_tarfile(tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=r"begins as a tar archive too \(a polyglot\)"):
        load_network(tmp_path / "model.pt")


def test_side_car_without_end_is_read_only_to_its_limit(tmp_path: Path) -> None:
    endless = Path("/proc/self/pagemap")
    if not endless.is_file():
        pytest.skip("this system has no file without an end")
    (tmp_path / "model.arch.json").symlink_to(endless)
    with pytest.raises(InputError, match=f"more than {LARGEST:,} bytes|nothing readable"):
        read_sidecar(tmp_path / "model.pt")


def test_side_car_with_an_overlong_architecture_is_an_error(tmp_path: Path) -> None:
    content = '{"architecture": "' + "a" * 5000 + '"}'
    (tmp_path / "model.arch.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="got a name of 5,000 characters"):
        read_sidecar(tmp_path / "model.pt")
