"""What merging has to leave alone; that it merges is in the tests of its command."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moth_eval.cli import main
from reports.rows import read_run
from tests.support.deep_folders import deep_folder
from tests.support.runs import entry, make_run, record, with_triggers


def runs(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of a folder, with what is in it."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("fresh", [True, False])
def test_a_merge_that_is_refused_leaves_out_as_it_was(fresh: bool, tmp_path: Path) -> None:
    parts = []
    for number in range(2):
        part = tmp_path / f"part-{number}"
        one = with_triggers(part, record("a", 1.0), seed=number)
        parts.append(make_run(part, [entry("a")], [one], writer=f"w-{number}"))
    out = tmp_path / "out"
    if not fresh:
        runs("merge", parts.pop(0), "--out", out)
    before = contents(out)
    result = runs("merge", *parts, "--out", out)
    assert result.exit_code == 2
    assert "differ, though they are to be the same" in result.output
    assert contents(out) == before


def test_a_merged_run_without_an_answer_takes_no_score_away(tmp_path: Path) -> None:
    out = make_run(tmp_path / "out", [entry("a")], [record("a", 1.0)])
    late = record("a", status="timed-out", reason="no answer within 1 s")
    other = make_run(tmp_path / "other", [entry("a")], [late], writer="worker-1")
    assert runs("merge", other, "--out", out).exit_code == 0
    [row] = read_run(out).rows
    assert (row.status, row.score) == ("scored", 1.0)


@pytest.mark.parametrize("word", ["validate", "merge"])
def test_a_run_that_is_nested_too_deeply_is_an_input_error(word: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [entry("a")], [record("a", 1.0)])
    (run / "logs").mkdir(exist_ok=True)
    with deep_folder(run / "logs"):
        result = runs(word, run, *(["--out", tmp_path / "out"] if word == "merge" else []))
    assert result.exit_code == 2
    assert "is nested deeper than the 32 folders that a run may have" in result.output
