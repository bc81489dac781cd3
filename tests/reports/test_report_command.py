from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from moth_eval.cli import main
from reports.summary import summary_lines
from tests.support.runs import clean, entry, make_run, poisoned, record


def small_run(path: Path) -> Path:
    entries = [entry("a", clean()), entry("b", clean()), entry("c", poisoned())]
    entries += [entry("d", poisoned()), entry("e")]
    records = [record("a", 0.5), record("b", 2.25), record("c", 1.75), record("d", 4.0)]
    return make_run(path, entries, records)


SUMMARY = """\
5 models under 1 scanner: 4 scored, 1 pending

scanner  trigger  scored  above cut  ROC AUC (95 %)        cross-entropy  TPR at FPR 5 % (95 %)
nc       all      4/5     2/4        0.750 (0.23 to 0.97)  0.719 ± 0.044  50 % (9.5 % to 91 %)

nc, most suspicious: d (4), b (2.25)

3 serious doubts:
  - The run is not complete: 1 of 5 scans are missing
  - The ROC area of nc rests on 2 clean and 2 backdoored models
  - The cut of nc flags about 33 % of clean models
"""


def test_summary_is_exact(tmp_path: Path) -> None:
    assert "\n".join(summary_lines(small_run(tmp_path))) + "\n" == SUMMARY


def test_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 0
    names = (
        "results.csv", "metrics.csv", "costs.csv", "confusion.csv", "roc.csv", "roc-bands.csv",
        "roc.png", "roc.svg",
    )  # fmt: skip
    wrote = "".join(f"wrote {run / name}\n" for name in (*names, "report.html"))
    assert result.output == f"{SUMMARY}\n{wrote}"


@pytest.mark.parametrize("pair", [(), ("--pair", "a", "b")])
def test_links_in_a_run_of_others_let_nothing_be_written_or_removed_elsewhere(
    pair: tuple[str, ...], tmp_path: Path
) -> None:
    run, victim = small_run(tmp_path / "run"), tmp_path / "victim"
    victim.mkdir()
    (victim / "photo.png").write_text("mine")
    (run / "triggers").symlink_to("../victim")
    result = CliRunner().invoke(main, ["report", str(run), *pair])
    assert result.exit_code == 2
    assert f"{run}/triggers is a symbolic link: what is written there would land" in result.output
    assert [path.name for path in victim.iterdir()] == ["photo.png"]


@pytest.mark.parametrize("kind", ["pipe", "deep", "list", "large"])
def test_a_manifest_of_any_other_kind_is_an_input_error(kind: str, tmp_path: Path) -> None:
    manifest = small_run(tmp_path / "run") / "run.json"
    manifest.unlink()
    if kind == "pipe":
        os.mkfifo(manifest)
    elif kind == "large":
        with manifest.open("wb") as file:
            file.truncate(1 << 40)
    else:
        manifest.write_text("[" * 100_000 if kind == "deep" else "[]")
    result = CliRunner().invoke(main, ["report", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert f"{manifest} " in result.output


def test_json_holds_metrics_doubts_and_paths(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    result = CliRunner().invoke(main, ["report", str(run), "--json"])
    assert result.exit_code == 0
    data = json.loads(result.output)
    assert data["complete"] is False
    assert data["metrics"][0]["roc_auc"] == 0.75
    assert data["metrics"][0]["n_unlabelled"] == 1
    assert data["doubts"][0]["models"] == ["e"]
    assert str(run / "report.html") in data["written"]


def test_a_folder_that_is_no_run_is_an_input_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not a run folder: expected a file run.json" in result.output


def test_summary_cannot_be_used_to_steer_the_terminal(tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07model"
    lines = summary_lines(make_run(tmp_path, [entry(name)], [record(name, 9.0)]))
    assert "\x1b" not in "".join(lines)
    assert any(r"\x1b]0;owned\x07model" in line for line in lines)


def test_summary_of_scores_below_the_cut_says_no_evidence_found(tmp_path: Path) -> None:
    lines = summary_lines(make_run(tmp_path, [entry("a")], [record("a", 0.1)]))
    assert "nc: no evidence found in any scored model" in lines
