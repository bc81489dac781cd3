from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moth_eval.cli import main
from moth_eval.removal_records import RemovalFolder
from tests.support.attacked import ARCH, PATCH_RECORD, write_attacked, write_model

PLAIN = "fine-tuning:epochs=2,recipe.shift=0"
ADVERSARIAL = "adversarial:rounds=2,images=10"


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "removal", "--models", str(folder / "models"), "--data", str(folder / "data.npz"),
        "--test", str(folder / "test.npz"), "--method", PLAIN, "--method", ADVERSARIAL,
        "--clean-share", "0.5", "--seeds", "0,", "--arch", ARCH, "--device", "cpu",
        "--threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def removal(folder: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(folder, out, *more))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backdoored model, a clean one, and one whose attack did not take."""
    made = write_attacked(tmp_path_factory.mktemp("removal"))
    write_model(made / "models" / "weak", target=None, record=PATCH_RECORD)
    return made


@pytest.fixture(scope="session")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, removal(folder, out)


def test_every_cell_has_an_answer_and_a_row(undisturbed: tuple[Path, Result]) -> None:
    run, result = undisturbed
    assert result.exit_code == 0, result.output
    rows = table(run / "results.csv")
    assert [(r["model"], r["attack"], r["method"], r["status"]) for r in rows] == [
        ("bad", "patch", PLAIN, "hardened"),
        ("bad", "patch", ADVERSARIAL, "hardened"),
        ("clean", "none", PLAIN, "hardened"),
        ("clean", "none", ADVERSARIAL, "hardened"),
        ("weak", "patch", PLAIN, "not-implanted"),
        ("weak", "patch", ADVERSARIAL, "not-implanted"),
    ]
    assert float(rows[0]["asr_before"]) > 0.95
    assert float(rows[0]["asr_floor"]) < 0.1
    assert {r["ra_before"] for r in rows[:2]} == {rows[0]["ra_before"]}
    assert {r["asr_after"] for r in rows[2:]} == {""}
    assert "1 attacked model, 1 clean control, 1 not implanted; 2 methods" in result.output


def test_a_repaired_model_is_where_its_card_says(undisturbed: tuple[Path, Result]) -> None:
    run, _ = undisturbed
    for card in run.glob("cells/*/removal.json"):
        [row] = json.loads(card.read_bytes())["variants"]
        assert (card.parent / row["file"]).is_file()
    result = CliRunner().invoke(main, ["runs", "validate", str(run)])
    assert (result.exit_code, result.output) == (
        0, f"{run} is sound: removal  {_created(run)}  6 of 6: 4 hardened, 2 not-implanted\n",
    )  # fmt: skip


def _created(run: Path) -> str:
    return str(RemovalFolder(run).manifest().created)[:10]


def test_the_same_command_again_does_nothing_and_gives_the_same_bytes(
    folder: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    again = removal(folder, run)
    assert again.exit_code == 0
    assert "6 of 6 cells are done" in again.output
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_merged_shards_are_the_run_that_was_not_split(
    folder: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    whole, _ = undisturbed
    for number in ("1", "2"):
        assert removal(folder, tmp_path / number, "--shard", f"{number}/2").exit_code == 0
    merged = tmp_path / "merged"
    parts = [str(tmp_path / number) for number in ("1", "2")]
    result = CliRunner().invoke(main, ["runs", "merge", *parts, "--out", str(merged)])
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "controls.csv"):
        ours, theirs = table(merged / name), table(whole / name)
        assert [_untimed(row) for row in ours] == [_untimed(row) for row in theirs], name


def _untimed(row: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in row.items() if not name.startswith("seconds")}


def test_a_cell_comes_out_as_the_first_time(undisturbed: tuple[Path, Result]) -> None:
    run, _ = undisturbed
    result = CliRunner().invoke(main, ["reproduce", str(run), f"bad/{PLAIN}/0", "--trust-run"])
    assert result.exit_code == 0, result.output
    assert "  ASR after" in result.output


def test_the_study_file_of_a_run_is_the_call(undisturbed: tuple[Path, Result]) -> None:
    run, _ = undisturbed
    result = CliRunner().invoke(main, ["runs", "toml", str(run)])
    assert result.output.startswith("[removal]\n")
    assert 'seeds = "0,"\n' in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--clean-share", "0.25"), "a run with clean_share 0.5, this one has 0.25"),
        (("--reactivation", "5"), "a run with reactivation "),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    more: tuple[str, str], message: str, folder: Path, undisturbed: tuple[Path, Result]
) -> None:
    result = removal(folder, undisturbed[0], *more)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "moss"), "unknown name 'moss'"),
        (("--method", "adversarial:speed=3"), "method 'adversarial' has no parameter 'speed'"),
        (("--seeds", "1,b"), "--seeds: expected whole numbers such as 1,2,3, got 'b'"),
        (("--seeds", "0"), "expected at least one seed, got none"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--test", "nowhere"), "nowhere does not exist"),
        (("--models", "nowhere"), "nowhere does not exist"),
        (("--only", "bat"), "--only: there is no model 'bat'; did you mean 'bad'?"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: tuple[str, str], message: str, folder: Path, tmp_path: Path
) -> None:
    result = removal(folder, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_cells_without_an_answer_are_rows_with_a_reason_and_exit_code_3(
    folder: Path, tmp_path: Path
) -> None:
    diverging = "adversarial:rounds=2,images=10,recipe.learning_rate=1e30"
    more = ("--only", "bad", "--method", diverging)
    result = removal(folder, tmp_path / "run", *more)
    assert result.exit_code == 3
    rows = {r["method"]: r for r in table(tmp_path / "run" / "results.csv")}
    assert rows[diverging]["status"] == "failed"
    assert "diverged" in rows[diverging]["reason"]
    assert "without a result, in no mean: 1 cell" in result.output
    # It worked nowhere, so the others are still compared.
    assert rows[PLAIN]["compared"] == "True"


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_goes_on_where_it_was(
    sign: signal.Signals,
    code: int,
    folder: Path,
    undisturbed: tuple[Path, Result],
    tmp_path: Path,
    repository: Path,
) -> None:
    run = tmp_path / "run"
    line = arguments(folder, run, "--only", "bad")
    with subprocess.Popen(
        [sys.executable, "-m", "moth_eval.cli", *line],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if list(run.glob("cells/*/removal.json")):
                break
            time.sleep(0.01)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    [done] = run.glob("cells/*/removal.json")
    before = done.read_bytes()
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert "1 of 2 cells are done" in result.output
    assert done.read_bytes() == before
    whole = [_untimed(row) for row in table(undisturbed[0] / "results.csv")][:2]
    assert [_untimed(row) for row in table(run / "results.csv")] == whole
