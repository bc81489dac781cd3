from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks import merging
from benchmarks.shards import Shard
from benchmarks.sittings import LOCK, waiting_for
from benchmarks.variants import drop_variants
from moth_eval.cli import main
from moth_eval.errors import InputError, RunError
from moth_eval.hardening_cells import CellOutcome
from moth_eval.records import LEDGER, AttemptRecord, RunFolder
from moth_eval.removal_records import VARIANT_LIST, VARIANTS
from moth_eval.run_files import copy_file
from tests.support.hardening_runs import card, make_hardening_run
from tests.support.runs import (
    build_reports,
    clean,
    entry,
    large_run,
    make_run,
    poisoned,
    record,
    with_triggers,
)


def runs(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


def small(path: Path) -> Path:
    """A run of three models: one scored at the second attempt, one refused, one pending."""
    crash = AttemptRecord(status="crashed", reason="it died", seconds=1.0)
    one = with_triggers(path, record("a", 1.0, attempts=(crash,)))
    other = record("b", status="refused", reason="a pickle\x1b[2J")
    return make_run(path, [entry("a", clean()), entry("b", poisoned()), entry("c")], [one, other])


def test_the_list_tells_how_far_every_run_is(tmp_path: Path) -> None:
    small(tmp_path / "all" / "scan")
    make_hardening_run(
        tmp_path / "all" / "deep" / "study",
        {("m", "moth", 0): card("m", "moth", 0)},
        models=["m"], methods=["moth"], seeds=[0],
    )  # fmt: skip
    (tmp_path / "all" / "odd").mkdir()
    (tmp_path / "all" / "odd" / "run.json").write_text("{")
    result = runs("ls", tmp_path / "all")
    assert result.exit_code == 0
    lines = [line.replace(str(tmp_path), "...") for line in result.output.splitlines()]
    assert [line.split("  ", 1)[0].strip() for line in lines] == [
        ".../all/deep/study", ".../all/odd", ".../all/scan",
    ]  # fmt: skip
    assert lines[0].endswith("1 of 1: 1 hardened")
    assert "damaged: .../all/odd/run.json cannot be read" in lines[1]
    assert lines[2].endswith("trojai  2026-03-04  2 of 3: 1 scored, 1 refused, 1 pending")
    data = json.loads(runs("ls", tmp_path / "all", "--json").output)
    assert [one["complete"] for one in data] == [True, False, False]
    assert data[2]["counts"] == {"scored": 1, "refused": 1, "pending": 1}


def hostile_runs(folder: Path) -> Path:
    """Run folders that are none, each of which would stop a listing in its own way."""
    for name, text in {
        "deep": "[" * 100_000,
        "list": "[]",
        "odd": '{"kind": ["hardening"]}',
        "half": '{"kind": "hardening"}',
        "numbers": '{"kind": "hardening", "created": 1, "command": [1], "versions": {"a": 2}}',
        "words": '{"kind": "hardening", "created": 1, "command": 1, "versions": 2}',
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "run.json").write_text(text)
    (folder / "pipe").mkdir()
    os.mkfifo(folder / "pipe" / "run.json")
    (folder / "round").mkdir()
    (folder / "round" / "again").symlink_to(folder)
    (folder / "round" / "twice").symlink_to(folder)
    return folder


def test_one_bad_folder_does_not_hide_the_others(tmp_path: Path) -> None:
    small(hostile_runs(tmp_path / "all") / "scan")
    result = runs("ls", tmp_path / "all")
    assert result.exit_code == 0, result.output
    lines = [line.removeprefix(f"{tmp_path}/all/") for line in result.output.splitlines()]
    names = ["deep", "half", "list", "numbers", "odd", "pipe", "scan", "words"]
    assert [line.split()[0] for line in lines] == names
    assert [line.split()[0] for line in lines if "damaged: " not in line] == ["numbers", "scan"]
    assert "nested too deeply" in lines[0]
    assert "pipe or device" in lines[5]
    for name in names:
        assert runs("show", tmp_path / "all" / name).exit_code in (2, 3)


def test_a_link_may_stand_for_a_run_folder(tmp_path: Path) -> None:
    small(tmp_path / "disk")
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "scan").symlink_to(tmp_path / "disk")
    assert runs("ls", tmp_path / "all").output.startswith(f"{tmp_path}/all/scan  trojai")


def test_runs_of_scan_are_told_from_studies(tmp_path: Path) -> None:
    small(tmp_path / "gate")
    (tmp_path / "gate" / "policy.json").write_text("{}")
    assert runs("ls", tmp_path).output.startswith(f"{tmp_path}/gate  scan  2026-03-04")


@pytest.mark.parametrize("place", ["logs/net.log", "ledger/9.jsonl", "triggers"])
def test_links_in_a_run_of_others_are_not_merged(place: str, tmp_path: Path) -> None:
    run, secret = small(tmp_path / "run"), tmp_path / "secret"
    secret.write_text("mine")
    shutil.rmtree(run / "triggers")
    (run / place).parent.mkdir(exist_ok=True)
    (run / place).symlink_to(secret)
    result = runs("merge", run, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{run}/{place} is a symbolic link" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [LOCK, "ledger"])
def test_links_in_the_folder_that_is_worked_on_are_not_followed(name: str, tmp_path: Path) -> None:
    run, out, victim = small(tmp_path / "run"), tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    (out / name).symlink_to(victim)
    result = runs("merge", run, "--out", out)
    assert result.exit_code == 2
    assert f"{out}/{name} is a symbolic link" in result.output
    assert victim.read_text() == "mine"


def test_a_lock_is_not_emptied_and_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "lock").symlink_to("victim")
    with pytest.raises(RunError, match="symbolic link"), waiting_for(tmp_path / "lock"):
        pass
    with waiting_for(tmp_path / "victim"):
        pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_hidden_holes_in_files_of_a_run_are_not_read_through(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    [triggers] = (run / "triggers").iterdir()
    with triggers.open("r+b") as file:
        file.truncate(1 << 40)
    result = runs("validate", run)
    assert result.exit_code == 1
    assert "claims 1,099,511,627,776 bytes" in result.output


def test_variants_that_lie_elsewhere_are_not_removed(tmp_path: Path) -> None:
    victim = tmp_path / "victim" / "thesis"
    victim.parent.mkdir()
    victim.write_text("mine")
    variants = tmp_path / "run" / VARIANTS
    variants.mkdir(parents=True)
    one = {"kind": "candidate", "name": "a", "file": "../../victim/thesis", "sha256": "0"}
    (variants / VARIANT_LIST).write_text(json.dumps({"variants": [one]}))
    with pytest.raises(RunError, match="file or folder in its place"):
        drop_variants(tmp_path / "run", set())
    assert victim.read_text() == "mine"


def test_a_folder_without_runs_says_so(tmp_path: Path) -> None:
    assert runs("ls", tmp_path).output == f"no run folders in {tmp_path}\n"
    result = runs("ls", tmp_path / "absent")
    assert result.exit_code == 2
    assert "absent does not exist; give the folder that run folders lie in" in result.output


def test_what_went_wrong_in_a_run_is_shown_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    result = runs("show", small(tmp_path / "run"))
    assert result.exit_code == 3
    assert result.output.splitlines() == [
        f"{tmp_path}/run  trojai  2026-03-04  2 of 3: 1 scored, 1 refused, 1 pending",
        "command: moth-eval trojai round",
        "moth-eval 0.1.0, torch 2.15.0, python 3.12.1",
        "  a under nc: scored",
        "    1 earlier attempt crashed",
        r"  b under nc: refused a pickle\x1b[2J",
    ]
    data = json.loads(runs("show", tmp_path / "run", "--json").output)
    assert [piece["status"] for piece in data["pieces"]] == ["scored", "refused", "pending"]


def test_no_field_of_a_manifest_steers_the_terminal(tmp_path: Path) -> None:
    odd = "\x1b]0;owned\x07\x1b[31m"
    manifest = {"kind": "hardening", "created": odd, "command": [odd], "versions": {odd: odd}}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    for word in ("ls", "show", "validate"):
        result = runs(word, tmp_path)
        assert "\\x1b]0;owned" in result.output
        assert not set(result.output) & {"\x1b", "\x07"}


def test_a_sound_run_is_called_sound(tmp_path: Path) -> None:
    result = runs("validate", small(tmp_path / "run"))
    assert result.exit_code == 3
    assert result.output.startswith(f"{tmp_path}/run is sound: trojai")
    one = record("a", 1.0)
    assert runs("validate", make_run(tmp_path / "whole", [entry("a")], [one])).exit_code == 0


def test_a_torn_last_line_is_no_damage(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "run", [entry("a")], [record("a", 1.0)], tail=b'0123abcd {"ev')
    assert runs("validate", whole).exit_code == 0


def test_a_line_that_was_emptied_is_one_that_was_deleted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [entry("a")], [record("a", 1.0)])
    ledger = run / LEDGER / "worker-0.jsonl"
    start, _, rest = ledger.read_bytes().split(b"\n")
    ledger.write_bytes(b"\n".join([start, b"", rest]))
    assert RunFolder(run).records() == {}
    result = runs("validate", run)
    assert (result.exit_code, "is sound" in result.output) == (3, True)


@pytest.mark.parametrize("counts", [0, 1])
def test_a_file_of_arrays_is_that_of_the_record_that_counts(counts: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # Two versions of a model file, in whose names of arrays there once was no key.
    made = [
        with_triggers(run, record("a", 1.0, sha256=str(n) * 64, key=f"k{n}"), seed=n)
        for n in range(2)
    ]
    now = entry("a", sha256=str(counts) * 64, keys={"nc": f"k{counts}"})
    result = runs("validate", make_run(run, [now], made))
    assert result.exit_code == (0 if counts == 1 else 1)
    assert ("its hash differs" in result.output) == (counts == 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("line", "worker-0.jsonl, line 1: the checksum does not fit"),
        ("missing", "triggers/a--nc.npz is missing"),
        ("changed", "triggers/a--nc.npz is not the file that was written: its hash differs"),
        ("manifest", "run.json cannot be read"),
    ],
)
def test_damage_is_found_wherever_it_is(damage: str, message: str, tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    triggers, ledger = run / "triggers" / "a--nc.npz", run / LEDGER / "worker-0.jsonl"
    if damage == "line":
        ledger.write_bytes(ledger.read_bytes().replace(b'"start"', b'"stbrt"', 1))
    elif damage == "missing":
        triggers.unlink()
    elif damage == "changed":
        triggers.write_bytes(triggers.read_bytes()[:-1] + b"x")
    else:
        (run / "run.json").write_bytes((run / "run.json").read_bytes()[:-20])
    result = runs("validate", run)
    assert result.exit_code == (2 if damage == "manifest" else 1)
    assert message in result.output


def test_a_folder_that_is_no_run_is_an_input_error(tmp_path: Path) -> None:
    for word in ("show", "validate"):
        result = runs(word, tmp_path)
        assert result.exit_code == 2
        assert "give the folder that --out named" in result.output


def in_order(run: Path) -> Path:
    """A run whose models stand in the order of their names, as in one that a command made."""
    folder = RunFolder(run)
    entries = sorted(folder.manifest().entries, key=lambda one: one.name)
    folder.write_manifest(folder.manifest().model_copy(update={"entries": tuple(entries)}))
    return run


def halves(whole: Path, tmp_path: Path) -> list[Path]:
    """The same results as two runs of every other model each."""
    folder = RunFolder(whole)
    manifest, records = folder.manifest(), folder.records()
    parts = []
    for number in (1, 2):
        entries = Shard(number=number, of=2).part(manifest.entries)
        names = {one.name for one in entries}
        part = tmp_path / f"part-{number}"
        make_run(
            part,
            entries,
            [one for one in records.values() if one.model in names],
            scanners=list(manifest.scanners),
            writer=f"worker-{number}",
        )
        for one in records.values():
            if one.model in names and one.triggers_file:
                (part / "triggers").mkdir(exist_ok=True)
                shutil.copy(whole / one.triggers_file, part / one.triggers_file)
        parts.append(part)
    return parts


def test_merged_shards_are_the_run_that_was_not_split(tmp_path: Path) -> None:
    whole = in_order(large_run(tmp_path / "whole", 8, scanners=("nc", "other")))
    build_reports(whole)
    result = runs("merge", *halves(whole, tmp_path), "--out", tmp_path / "merged")
    assert result.exit_code == 3, result.output  # one model is pending in the whole run too
    for name in ("results.csv", "metrics.csv", "roc.csv", "report.html", "run.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (whole / name).read_bytes(), name
    assert runs("validate", tmp_path / "merged").exit_code == 3


def test_merging_again_changes_nothing_and_a_later_part_is_added(tmp_path: Path) -> None:
    whole = in_order(large_run(tmp_path / "whole", 6))
    first, second = halves(whole, tmp_path)
    out = tmp_path / "merged"
    runs("merge", first, "--out", out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    runs("merge", first, "--out", out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    runs("merge", second, "--out", out)
    build_reports(whole)
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_merge_may_be_repeated_after_a_retry(tmp_path: Path) -> None:
    part = make_run(tmp_path / "part", [entry("a"), entry("b")], [record("a", 1.0), record("b")])
    (part / "logs").mkdir()
    (part / "logs" / "b--nc.log").write_text("it broke\n")
    out = tmp_path / "out"
    assert runs("merge", part, "--out", out).exit_code == 0
    [ledger] = (part / "ledger").iterdir()
    folder = RunFolder(tmp_path / "again")
    make_run(tmp_path / "again", [entry("b")], [record("b", 2.0)], writer="later")
    with ledger.open("ab") as file:
        file.write(next((folder.path / "ledger").iterdir()).read_bytes())
    with (part / "logs" / "b--nc.log").open("a") as log:
        log.write("it went well\n")
    again = runs("merge", part, "--out", out)
    assert again.exit_code == 0, again.output
    assert RunFolder(out).records()[record("b").key].score == 2.0
    assert "it went well" in (out / "logs" / "b--nc.log").read_text()


@pytest.mark.parametrize("known", [0, 1])
def test_truth_that_one_side_knows_survives_a_merge(known: int, tmp_path: Path) -> None:
    parts = [
        make_run(
            tmp_path / f"part-{n}", [entry("a", clean() if n == known else None)],
            [record("a", 1.0)], writer="same",
        )
        for n in (0, 1)
    ]  # fmt: skip
    assert runs("merge", *parts, "--out", tmp_path / "out").exit_code == 0
    [merged] = RunFolder(tmp_path / "out").manifest().entries
    assert merged.truth == clean()
    other = make_run(tmp_path / "other", [entry("a", poisoned())], [record("a", 1.0)], writer="w")
    refused = runs("merge", parts[known], other, "--out", tmp_path / "no")
    assert (refused.exit_code, "model a, of truth" in refused.output) == (2, True)


def test_runs_that_differ_in_what_must_be_the_same_are_not_merged(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", [entry("a")], [record("a", 1.0)])
    other = make_run(tmp_path / "other", [entry("b")], [record("b", 1.0)], seed=8, writer="w")
    result = runs("merge", one, other, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert f"{one} and {other} cannot be merged, seed is 7 there and 8 here" in result.output
    assert not (tmp_path / "out").exists()
    study = make_hardening_run(tmp_path / "study", {}, models=["m"], methods=["moth"], seeds=[0])
    result = runs("merge", one, study, "--out", tmp_path / "out")
    assert "expected runs of one kind, got hardening-study, trojai" in result.output
    assert runs("merge", "--out", tmp_path / "out").exit_code == 2
    assert runs("merge", tmp_path, "--out", tmp_path / "out").exit_code == 2


def test_the_same_model_with_another_file_is_not_merged(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", [entry("a")], [record("a", 1.0)])
    changed = entry("a", sha256="ff" * 32)
    other = make_run(tmp_path / "other", [changed], [record("a", 1.0)], writer="w")
    result = runs("merge", one, other, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "model a, of hash" in result.output


def test_studies_of_hardenings_are_merged_cell_by_cell(tmp_path: Path) -> None:
    failed = CellOutcome(status="failed", reason="no images", seconds=1.0)
    one = make_hardening_run(
        tmp_path / "one",
        {("a", "moth", 0): card("a", "moth", 0), ("a", "moth", 1): failed},
        models=["a"], methods=["moth"], seeds=[0, 1],
    )  # fmt: skip
    other = make_hardening_run(
        tmp_path / "other",
        {("b", "moth", 0): card("b", "moth", 0), ("b", "universal", 0): None},
        models=["b"], methods=["moth", "universal"], seeds=[0],
    )  # fmt: skip
    again = make_hardening_run(
        tmp_path / "again",
        {("a", "moth", 1): card("a", "moth", 1)},
        models=["a"], methods=["moth"], seeds=[1],
    )  # fmt: skip
    result = runs("merge", one, other, again, "--out", tmp_path / "out")
    assert result.exit_code == 3, result.output
    shown = json.loads(runs("show", tmp_path / "out", "--json").output)
    assert {piece["name"]: piece["status"] for piece in shown["pieces"]} == {
        "a under moth, seed 0": "hardened",
        "a under moth, seed 1": "hardened",
        "a under universal, seed 0": "pending",
        "a under universal, seed 1": "pending",
        "b under moth, seed 0": "hardened",
        "b under moth, seed 1": "pending",
        "b under universal, seed 0": "pending",
        "b under universal, seed 1": "pending",
    }
    assert (tmp_path / "out" / "hardening.csv").is_file()


def hardened(run: Path) -> tuple[Path, Path]:
    """A run of one hardening, and the folder of its cell, with weights."""
    make_hardening_run(
        run, {("a", "moth", 0): card("a", "moth", 0)}, models=["a"], methods=["moth"], seeds=[0]
    )
    [cell] = (run / "cells").iterdir()
    (cell / "model.safetensors").write_bytes(b"weights")
    return run, cell


def test_a_merge_that_is_broken_off_goes_on_with_whole_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, cell = hardened(tmp_path / "one")
    copies = list[Path]()

    def broken_off(source: Path, target: Path) -> None:
        if len(copies) == 1:
            raise KeyboardInterrupt
        copies.append(source)
        copy_file(source, target)

    monkeypatch.setattr(merging, "_files", lambda folder: sorted(folder.rglob("*.*")))
    monkeypatch.setattr(merging, "copy_file", broken_off)
    with pytest.raises(KeyboardInterrupt):
        merging.merge([one], tmp_path / "out")
    assert copies
    monkeypatch.undo()
    merging.merge([one], tmp_path / "out")
    there = tmp_path / "out" / "cells"
    assert [path.name for path in there.iterdir()] == [cell.name]
    assert (there / cell.name / "model.safetensors").read_bytes() == b"weights"


def test_weights_of_any_size_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, cell = hardened(tmp_path / "one")
    monkeypatch.setattr(merging, "LARGEST_LEDGER", 3)
    merging.merge([one], tmp_path / "out")
    assert (tmp_path / "out" / "cells" / cell.name / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("text", "items", "part"),
    [("1/1", "abc", "abc"), ("1/2", "abcde", "ace"), ("2/2", "abcde", "bd"), ("3/3", "ab", "")],
)
def test_every_item_is_in_one_shard(text: str, items: str, part: str) -> None:
    assert "".join(Shard.parse(text).part(items)) == part


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3", " 1/2"])
def test_a_shard_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)
