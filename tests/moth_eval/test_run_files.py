from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from moth_eval.errors import RunError
from moth_eval.hardening_study_records import StudyModel
from moth_eval.removal_records import VariantFile, VariantRecord
from moth_eval.run_files import (
    copy_file,
    open_file,
    read_file,
    read_json,
    require_no_links,
    write_changed,
    write_whole,
)


def test_an_ordinary_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(b"[1]")
    assert read_file(tmp_path / "run.json") == b"[1]"
    assert read_json(tmp_path / "run.json") == [1]
    assert read_file(tmp_path / "run.json", largest=3) == b"[1]"
    with pytest.raises(RunError, match="larger than the 2 bytes"):
        read_file(tmp_path / "run.json", largest=2)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "absent")


def test_nothing_but_an_ordinary_file_is_read_or_waited_for(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("link", "symbolic link"), ("pipe", "a folder, pipe or device")):
        with pytest.raises(RunError, match=message):
            read_file(tmp_path / name)
    with pytest.raises(RunError, match="a folder, pipe or device"):
        read_file(tmp_path)
    with pytest.raises(RunError, match="cannot be read: Not a directory"):
        read_file(tmp_path / "secret" / "inner")


@pytest.mark.parametrize(
    ("text", "message"), [("[" * 100_000, "nested too deeply"), ("{", "it is no JSON")]
)
def test_text_that_is_no_json_is_an_error_of_the_run(
    text: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=message):
        read_json(tmp_path / "run.json")


def test_links_that_wait_for_a_temporary_name_are_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("mine")
    for name in (f".results.csv.{os.getpid()}.tmp", ".00.tmp"):
        (run / name).symlink_to(victim)
    write_whole(run / "results.csv", b"theirs")
    assert (run / "results.csv").read_bytes() == b"theirs"
    monkeypatch.setattr("secrets.token_hex", lambda _: "00")
    with pytest.raises((RunError, FileExistsError)):
        write_whole(run / "results.csv", b"theirs")
    assert victim.read_text() == "mine"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "file").symlink_to("victim")
    write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert not (tmp_path / "file").is_symlink()


def test_a_file_has_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(8)]
    threads = [threading.Thread(target=write_whole, args=(tmp_path / "file", c)) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_there_already_is_not_written_again(tmp_path: Path) -> None:
    write_changed(tmp_path / "file", b"x")
    os.utime(tmp_path / "file", (1, 1))
    write_changed(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mtime == 1
    write_changed(tmp_path / "file", b"y")
    assert (tmp_path / "file").read_bytes() == b"y"
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    write_changed(tmp_path / "file", b"z")
    assert (tmp_path / "file").read_bytes() == b"z"


@pytest.mark.parametrize("place", ["triggers", "ledger/1.jsonl", "cells/one/inner", "scratch/task"])
def test_links_in_a_run_are_found_wherever_they_are(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / place).parent.mkdir(parents=True)
    (run / "file").touch()
    require_no_links(run)
    (run / place).symlink_to(tmp_path)
    with pytest.raises(RunError, match=f"run/{place} is a symbolic link"):
        require_no_links(run)


@pytest.mark.parametrize("name", ["log.jsonl", "cells/one/log"])
def test_a_pipe_in_a_run_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match=f"{name} is a folder, pipe or device"):
        require_no_links(tmp_path)
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT, os.O_RDWR):
        with pytest.raises(RunError, match="pipe or device, expected an ordinary file"):
            open_file(tmp_path / name, flags)


def test_copies_are_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from").write_bytes(bytes(range(256)) * 5000)
    copy_file(tmp_path / "from", tmp_path / "new" / "to")
    assert (tmp_path / "new" / "to").read_bytes() == (tmp_path / "from").read_bytes()
    (tmp_path / "link").symlink_to("from")
    with pytest.raises(RunError, match="symbolic link"):
        copy_file(tmp_path / "link", tmp_path / "other")

    def broken_off(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", broken_off)
    with pytest.raises(KeyboardInterrupt):
        copy_file(tmp_path / "from", tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "link", "new"]


def test_the_run_itself_may_be_a_link_and_need_not_be_there(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    require_no_links(tmp_path / "run")
    require_no_links(tmp_path / "absent")


def test_what_programs_of_others_leave_in_their_scratch_is_theirs(tmp_path: Path) -> None:
    work = tmp_path / "scratch" / "task"
    work.mkdir(parents=True)
    (work / "python").symlink_to("/usr/bin/python3")
    require_no_links(tmp_path)


def test_a_link_is_not_opened_for_writing(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "log").symlink_to("victim")
    with pytest.raises(RunError, match="symbolic link"):
        open_file(tmp_path / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", "a\0"])
def test_names_in_records_lead_nowhere_else(name: str) -> None:
    with pytest.raises(ValueError, match="file or folder in its place"):
        VariantFile(kind="candidate", name="x", file=name, sha256="0")
    with pytest.raises(ValueError, match="file or folder in its place"):
        StudyModel(name="x", file="x", sha256="0", folders={"moth": {0: name}})
    if name != "a/b":
        with pytest.raises(ValueError, match="file or folder in its place"):
            VariantRecord.model_validate({"name": "x", "file": name, "sha256": "0"})
