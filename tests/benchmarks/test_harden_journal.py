from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from benchmarks.harden_journal import LOG_LINES, STATE, DiskJournal, Lines, write_log
from moth_eval.errors import RunError
from moth_eval.hardening import LogEntry, Saved


def entry(round_: int, **more: Any) -> LogEntry:
    return LogEntry(phase="pairs", round=round_, steps=2 * round_, loss=0.5, accuracy=0.75, **more)


def saved(value: float) -> Saved:
    return Saved(
        tensors={"weight": torch.full((2, 3), value), "generator": torch.Generator().get_state()},
        values={"round": 3, "log": [{"loss": value}], "passes": [1, 2]},
    )


def test_a_fresh_folder_has_nothing_to_resume(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path / "new")
    assert journal.resumed() is None
    assert journal.entries == []


def test_state_and_log_come_back_as_they_were(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.note(entry(1, pairs=((0, 1), (-1, 2)), distance=12.5))
    journal.save(saved(1 / 3))
    again = DiskJournal(tmp_path)
    found = again.resumed()
    assert found is not None
    assert found.values == saved(1 / 3).values
    for name, tensor in saved(1 / 3).tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype
    assert again.entries == [entry(1, pairs=((0, 1), (-1, 2)), distance=12.5)]


def test_the_state_is_one_safetensors_file_that_is_replaced(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.save(saved(1.0))
    journal.save(saved(2.0))
    assert [path.name for path in tmp_path.iterdir()] == [STATE]
    with safe_open(tmp_path / STATE, "pt") as file:
        assert float(file.get_tensor("weight")[0, 0]) == 2


def test_channels_last_and_empty_tensors_can_be_kept(tmp_path: Path) -> None:
    weight = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    DiskJournal(tmp_path).save(Saved(tensors={"w": weight, "none": torch.empty(0)}, values={}))
    found = DiskJournal(tmp_path).resumed()
    assert found is not None
    assert torch.equal(found.tensors["w"], weight)
    assert found.tensors["none"].shape == (0,)


def test_rounds_noted_after_the_state_are_cut_off_because_they_come_again(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.note(entry(1))
    journal.save(saved(1.0))
    journal.note(entry(2))
    assert len((tmp_path / LOG_LINES).read_text().splitlines()) == 2
    again = DiskJournal(tmp_path)
    assert [e.round for e in again.entries] == [1]
    again.note(entry(2))
    assert len((tmp_path / LOG_LINES).read_text().splitlines()) == 2


def test_without_a_state_the_log_starts_over(tmp_path: Path) -> None:
    DiskJournal(tmp_path).note(entry(1))
    assert DiskJournal(tmp_path).entries == []
    assert (tmp_path / LOG_LINES).read_bytes() == b""


def test_a_torn_line_does_no_harm_and_nothing_is_glued_to_it(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'{"a":1}\n{"a":')
    lines = Lines(path)
    assert lines.content == [b'{"a":1}']
    lines.append(b'{"a":2}')
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n'


def test_a_journal_whose_last_line_is_torn_goes_on(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.note(entry(1))
    journal.save(saved(1.0))
    with (tmp_path / LOG_LINES).open("ab") as file:
        file.write(b'{"phase": "pa')
    again = DiskJournal(tmp_path)
    again.note(entry(2))
    again.save(saved(2.0))
    assert [e.round for e in DiskJournal(tmp_path).entries] == [1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"\x80\x04." + raw,
        lambda raw: raw.replace(b"moth-eval", b"moth-evil"),
        lambda raw: b"",
    ],
    ids=["cut", "pickle in front", "other key", "empty"],
)
def test_a_damaged_state_is_named_and_not_used(tmp_path: Path, damage: Any) -> None:
    DiskJournal(tmp_path).save(saved(1.0))
    path = tmp_path / STATE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match="delete it to start the training over"):
        DiskJournal(tmp_path)


def test_a_log_with_fewer_lines_than_the_state_says_is_named(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.note(entry(1))
    journal.save(saved(1.0))
    (tmp_path / LOG_LINES).write_bytes(b"")
    with pytest.raises(RunError, match="holds 0 whole lines, 1 were written"):
        DiskJournal(tmp_path)


def test_a_damaged_line_of_the_log_is_named(tmp_path: Path) -> None:
    journal = DiskJournal(tmp_path)
    journal.note(entry(1))
    journal.save(saved(1.0))
    path = tmp_path / LOG_LINES
    path.write_bytes(path.read_bytes().replace(b'"loss"', b'"lass"'))
    with pytest.raises(RunError, match="holds a damaged line"):
        DiskJournal(tmp_path)


def test_the_state_is_kept_every_so_many_rounds_or_seconds(tmp_path: Path) -> None:
    by_rounds = DiskJournal(tmp_path / "a", save_rounds=2, save_seconds=1e6)
    asked = []
    for number in range(1, 6):
        by_rounds.note(entry(number))
        asked.append(by_rounds.wants_save())
        if asked[-1]:
            by_rounds.save(saved(1.0))
    assert asked == [False, True, False, True, False]
    assert DiskJournal(tmp_path / "b", save_seconds=0.0).wants_save()
    assert not DiskJournal(tmp_path / "c", save_seconds=1e6).wants_save()


def test_everyone_is_told_of_a_line_after_it_is_on_disk(tmp_path: Path) -> None:
    seen = []

    def look(told: LogEntry) -> None:
        lines = (tmp_path / LOG_LINES).read_text().splitlines()
        seen.append((told.round, len(lines)))

    journal = DiskJournal(tmp_path, on_entry=look)
    journal.note(entry(1))
    journal.note(entry(2))
    assert seen == [(1, 1), (2, 2)]


def test_the_log_as_csv_has_a_row_per_round(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    write_log(path, [entry(1, pairs=((-1, 2),)), entry(2, pairs=((0, 1), (1, 0)), distance=3.0)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["pairs"] for row in rows] == ["any-2", "0-1 1-0"]
    assert [row["distance"] for row in rows] == ["", "3.0"]
    assert [row["steps"] for row in rows] == ["2", "4"]
