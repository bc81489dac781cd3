from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from moth_eval.errors import RunError
from moth_eval.records import (
    LEDGER,
    LedgerLine,
    RunFolder,
    ScanRecord,
    decode,
    encode,
    write_whole,
)

RECORD = ScanRecord(
    key="k", model="m", scanner="nc", sha256="ab", status="scored", score=1.5, target=3
)
LINE = LedgerLine(event="end", key="k", model="m", scanner="nc", record=RECORD)


def ledger(run: Path, content: bytes, name: str = "1.jsonl") -> RunFolder:
    (run / LEDGER).mkdir(exist_ok=True)
    (run / LEDGER / name).write_bytes(content)
    return RunFolder(run)


def test_a_line_comes_back_as_it_was_written() -> None:
    assert decode(encode(LINE)) == LINE


def test_every_way_of_cutting_the_last_line_leaves_the_others_readable(tmp_path: Path) -> None:
    whole, last = encode(LINE), encode(LINE.model_copy(update={"key": "later"}))
    for length in range(len(last)):
        lines = list(ledger(tmp_path, whole + last[:length]).lines())
        complete = length == len(last) - 1
        assert [line.key for line in lines] == (["k", "later"] if complete else ["k"])


@pytest.mark.parametrize("position", [0, 9, 40, -2])
def test_a_changed_byte_is_noticed(position: int) -> None:
    content = bytearray(encode(LINE))
    content[position] ^= 1
    with pytest.raises(ValueError, match=r"checksum|invalid literal"):
        decode(bytes(content))


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    folder = ledger(tmp_path, b"garbage\n" + encode(LINE))
    with pytest.raises(RunError, match="line 1 is damaged"):
        list(folder.lines())


def test_the_last_record_of_a_task_counts(tmp_path: Path) -> None:
    newer = LINE.model_copy(update={"record": RECORD.model_copy(update={"score": 9.0})})
    ledger(tmp_path, encode(LINE), "1.jsonl")
    assert ledger(tmp_path, encode(newer), "2.jsonl").records()["k"].score == 9.0


@pytest.mark.parametrize(
    ("statuses", "counts"),
    [
        (("scored", "timed-out"), 0),
        (("refused", "inconclusive"), 0),
        (("inconclusive", "failed"), 0),
        (("timed-out", "scored", "crashed"), 1),
        (("timed-out", "failed"), 1),
        (("scored", "refused"), 1),
    ],
)
def test_an_answer_counts_before_none_and_a_later_one_before_an_earlier(
    statuses: tuple[str, ...], counts: int, tmp_path: Path
) -> None:
    for number, status in enumerate(statuses):
        one = RECORD.model_copy(update={"status": status, "reason": str(number)})
        ledger(tmp_path, encode(LINE.model_copy(update={"record": one})), f"{number}.jsonl")
    assert RunFolder(tmp_path).records()["k"].reason == str(counts)


def test_a_task_that_was_only_started_has_no_record(tmp_path: Path) -> None:
    started = LedgerLine(event="start", key="s", model="m", scanner="nc")
    assert ledger(tmp_path, encode(started)).records() == {}


def test_unknown_fields_and_missing_numbers_are_refused() -> None:
    for change in ({"score": float("nan")}, {"verdict": "safe"}, {"status": "fine"}):
        with pytest.raises(ValidationError):
            ScanRecord.model_validate({**RECORD.model_dump(), **change})


def test_a_folder_without_manifest_is_not_a_run(tmp_path: Path) -> None:
    assert not RunFolder(tmp_path).exists
    with pytest.raises(RunError, match=r"expected a file run\.json in it"):
        RunFolder(tmp_path).manifest()


def test_a_damaged_manifest_is_explained(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match="cannot be read as the manifest of a run, schema version 1"):
        RunFolder(tmp_path).manifest()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    write_whole(target, b"one")
    write_whole(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(target.parent.iterdir()) == [target]
