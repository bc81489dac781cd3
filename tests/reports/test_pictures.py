from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moth_eval.errors import RunError
from moth_eval.records import ScanRecord
from reports.pictures import TILE, pictures
from reports.rows import Row
from reports.stored_arrays import arrays_in
from tests.support.runs import build_reports, entry, make_run, record, with_triggers


def row_of(one: ScanRecord) -> Row:
    return Row(entry=entry(one.model), scanner=one.scanner, record=one)


def rewritten(path: Path, one: ScanRecord, **arrays: object) -> ScanRecord:
    """The record of a `.npz` in which some arrays are replaced or, if None, left out."""
    file = path / one.triggers_file
    with np.load(file) as held:
        content = {**held, **arrays}
    np.savez(file, **{name: array for name, array in content.items() if array is not None})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return one.model_copy(update={"triggers_sha256": digest})


def test_sheet_shows_the_suspected_class_first_and_six_at_most(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0, target=7), classes=9)
    drawn = pictures(tmp_path, row_of(one))
    assert drawn is not None
    classes = [int(c) for c in drawn.caption.rpartition("class ")[2].split(", ")]
    assert classes[0] == 7
    assert len(classes) == 6
    sizes = {t.target: t.size for t in one.triggers}
    assert [sizes[c] for c in classes[1:]] == sorted(sizes[c] for c in classes[1:])


def test_an_invalid_trigger_comes_after_every_valid_one(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0), classes=4)
    drawn = pictures(tmp_path, row_of(one))
    assert drawn is not None
    assert drawn.caption.endswith(", 3")


def test_pixels_of_the_mask_are_the_pixels_of_the_array(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0, target=0), classes=2, side=32)
    with np.load(tmp_path / one.triggers_file) as held:
        mask = held["masks"][0, 0]
    drawn = pictures(tmp_path, row_of(one))
    assert drawn is not None
    sheet = np.asarray(Image.open(io.BytesIO(drawn.sheet)).convert("L"))
    left, top, scale = 74, 40, TILE // 32
    tile = sheet[top : top + TILE, left : left + TILE][scale // 2 :: scale, scale // 2 :: scale]
    assert np.abs(tile[1:-1, 1:-1] - np.rint(mask[1:-1, 1:-1] * 255)).max() == 0


def test_grey_patterns_are_drawn(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0), classes=2)
    grey = np.random.default_rng(0).uniform(size=(2, 1, 32, 32)).astype(np.float32)
    drawn = pictures(tmp_path, row_of(rewritten(tmp_path, one, patterns=grey)))
    assert drawn is not None
    assert Image.open(io.BytesIO(drawn.sheet)).width > 2 * TILE


def test_picture_lies_beside_its_arrays(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m.1", 3.0))
    written = build_reports(make_run(tmp_path, [entry("m.1")], [one]))
    assert tmp_path / "triggers" / "m.1--nc.png" in written


def test_altered_arrays_are_not_drawn(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0))
    with (tmp_path / one.triggers_file).open("ab") as file:
        file.write(b"x")
    with pytest.raises(RunError, match="hashes differ"):
        pictures(tmp_path, row_of(one))


@pytest.mark.parametrize("name", ["../m.npz", "/etc/passwd", "triggers/../../m.npz", "m.npz"])
def test_arrays_outside_their_folder_are_not_opened(tmp_path: Path, name: str) -> None:
    one = with_triggers(tmp_path / "run", record("m", 3.0))
    moved = one.model_copy(update={"triggers_file": name})
    with pytest.raises(RunError, match="it is not opened"):
        pictures(tmp_path / "run", row_of(moved))


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    one = with_triggers(tmp_path, record("m", 3.0))
    evil = rewritten(tmp_path, one, sizes=np.array([{"a": 1}] * 5, dtype=object))
    with pytest.raises(RunError, match=r"is malformed: the array .* of object"):
        pictures(tmp_path, row_of(evil))


@pytest.mark.parametrize(
    "arrays",
    [
        {"masks": None},
        {"masks": np.zeros((5, 1, 8, 8), np.float32)},
        {"sizes": np.zeros(4, np.float32)},
        {"patterns": np.zeros((5, 3), np.float32)},
        {"masks": np.zeros((5, 1, 0, 0), np.float32), "patterns": np.zeros((5, 3, 0, 0))},
        {"masks": np.zeros((5, 1, 4, 4), np.float32), "patterns": np.zeros((5, 0, 4, 4))},
    ],
)
def test_arrays_that_do_not_fit_are_not_drawn(tmp_path: Path, arrays: dict[str, object]) -> None:
    one = with_triggers(tmp_path, record("m", 3.0))
    with pytest.raises(RunError, match="is malformed"):
        pictures(tmp_path, row_of(rewritten(tmp_path, one, **arrays)))


def test_pictures_take_no_more_memory_than_there_is_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = with_triggers(tmp_path, record("m", 3.0))
    with np.load(tmp_path / one.triggers_file) as held:
        values = held["patterns"].size
    monkeypatch.setattr("reports.pictures.MOST_VALUES", values)
    assert pictures(tmp_path, row_of(one)) is not None
    monkeypatch.setattr("reports.pictures.MOST_VALUES", values - 1)
    with pytest.raises(RunError, match=f"at most {values - 1:,} values"):
        pictures(tmp_path, row_of(one))


def claiming(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """An array of which there is no more than its header."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return head.getvalue()


def made_up(header: bytes) -> bytes:
    """An array whose header is these bytes."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


MALFORMED = [
    claiming((10**12,)), claiming((2**61, 8)), claiming((1,), "|O"), claiming((0, 10**30)),
    b"\x93NUMPY\x03\x00", b"", made_up(b"{[]:1}\n"), made_up(b"-" * 9000 + b"1\n"),
    made_up(b"(" * 9000 + b"\n"),
]  # fmt: skip


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("member", MALFORMED)
def test_arrays_that_are_not_there_are_not_made_room_for(
    member: bytes, method: int, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("masks.npy", member)
    with pytest.raises(ValueError, match=r"array 'masks|magic string|Cannot parse header"):
        arrays_in(buffer.getvalue())
    one = with_triggers(tmp_path, record("m", 3.0))
    (tmp_path / one.triggers_file).write_bytes(buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    evil = one.model_copy(update={"triggers_sha256": digest})
    with pytest.raises(RunError, match="is malformed"):
        pictures(tmp_path, row_of(evil))


def test_many_arrays_may_not_be_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{str(n): np.zeros(1000, np.float32) for n in range(4)})
    assert len(arrays_in(buffer.getvalue())) == 4
    monkeypatch.setattr("reports.stored_arrays.MOST_BYTES", 15_999)
    with pytest.raises(ValueError, match="take more than 15,999 bytes"):
        arrays_in(buffer.getvalue())


def test_a_lost_file_costs_its_picture_only_and_is_mentioned(tmp_path: Path) -> None:
    lost, kept = (with_triggers(tmp_path, record(name, 3.0)) for name in ("lost", "kept"))
    (tmp_path / lost.triggers_file).unlink()
    build_reports(make_run(tmp_path, [entry("lost"), entry("kept")], [lost, kept]))
    assert [p.name for p in (tmp_path / "triggers").glob("*.png")] == ["kept--nc.png"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Triggers of 1 scan cannot be drawn" in page


def test_a_scan_without_triggers_has_no_picture(tmp_path: Path) -> None:
    assert pictures(tmp_path, row_of(record("m", 1.0))) is None
