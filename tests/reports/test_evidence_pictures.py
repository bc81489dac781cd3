from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moth_eval.errors import RunError
from moth_eval.records import EvidenceRecord, ScanRecord
from reports.evidence_pictures import drawn
from reports.rows import Row
from tests.support.runs import build_reports, entry, make_run, record


def with_pictures(path: Path, *, evidence: int = 2, numbers: tuple[int, ...] = (1,)) -> ScanRecord:
    """A record without triggers whose evidence has pictures, and the file that holds them."""
    found = tuple(
        EvidenceRecord(what="filter", value=float(n), target=n, source=None)
        for n in range(evidence)
    )
    images = np.random.default_rng(0).uniform(0, 1, (len(numbers), 2, 3, 8, 8)).astype(np.float32)
    buffer = io.BytesIO()
    np.savez(buffer, evidence=np.array(numbers), pictures=images)
    name = "triggers/m--filters.npz"
    (path / "triggers").mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(buffer.getvalue())
    return record(
        "m", 2.0, scanner="filters", evidence=found, triggers_file=name,
        triggers_sha256=hashlib.sha256(buffer.getvalue()).hexdigest(),
    )  # fmt: skip


def row_of(one: ScanRecord) -> Row:
    return Row(entry=entry(one.model), scanner=one.scanner, record=one)


def test_images_before_and_after_are_drawn_with_the_figure_that_they_show(tmp_path: Path) -> None:
    found = drawn(tmp_path, row_of(with_pictures(tmp_path, evidence=3, numbers=(2, 0))))
    assert found is not None
    assert found.path == "triggers/m--filters.png"
    assert found.caption == "an image as it was and changed, for class 2, class 0"
    sheet = Image.open(io.BytesIO(found.sheet))
    assert sheet.width > sheet.height / 2
    assert Image.open(io.BytesIO(found.thumbnail)).size == (64, 64)


def test_the_report_shows_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, [entry("m")], [with_pictures(tmp_path)], scanners=("filters",))
    written = build_reports(run)
    assert run / "triggers" / "m--filters.png" in written
    assert "an image as it was and changed" in (run / "report.html").read_text()


def test_pictures_of_evidence_that_is_not_there_are_malformed(tmp_path: Path) -> None:
    one = with_pictures(tmp_path, evidence=1, numbers=(4,))
    with pytest.raises(RunError, match="malformed: pictures of evidence 4, of 1"):
        drawn(tmp_path, row_of(one))


def test_evidence_without_pictures_draws_nothing(tmp_path: Path) -> None:
    bare = record("m", 1.0, evidence=(
        EvidenceRecord(what="margin", value=1.0, target=0, source=None),
    ))  # fmt: skip
    assert drawn(tmp_path, row_of(bare)) is None
