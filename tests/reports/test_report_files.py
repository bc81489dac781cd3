from __future__ import annotations

from pathlib import Path

from reports.report_files import write_report


def test_a_file_without_content_is_removed_and_not_told(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("of an earlier report")
    written = write_report(tmp_path, {"b.csv": b"b\n", "old.csv": b"", "never.csv": b"", "a": b"a"})
    assert written == [tmp_path / "b.csv", tmp_path / "a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b.csv"]
    assert (tmp_path / "b.csv").read_bytes() == b"b\n"


def test_only_files_that_differ_are_written_again(tmp_path: Path) -> None:
    write_report(tmp_path, {"same": b"1", "other": b"1"})
    same, other = (tmp_path / name for name in ("same", "other"))
    before = same.stat().st_ino, other.stat().st_ino
    assert write_report(tmp_path, {"same": b"1", "other": b"2"}) == [same, other]
    assert same.stat().st_ino == before[0]
    assert other.stat().st_ino != before[1]
    assert other.read_bytes() == b"2"
