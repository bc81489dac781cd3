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
from moth_eval.hardening_study_records import HardeningStudyFolder
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
MOTH = (
    "moth:rounds=4,warm_up_rounds=1,warm_up_steps=20,fresh_steps=20,inversion_images=8,"
    "inversion_batch=8,pairs_per_round=2,stamped=2,clean=10,recipe.shift=0"
)
ADVERSARIAL = "adversarial:rounds=2,images=10"


def arguments(models: Path, out: Path, *more: str, method: str = MOTH) -> list[str]:
    return [
        "hardening", "--models", str(models), "--data", str(models / "model-0.npz"),
        "--method", method, "--share", "0.5", "--distance-pairs", "2", "--arch", ARCH,
        "--device", "cpu", "--threads", "1", "--out", str(out), *more,
    ]  # fmt: skip


def hardening(models: Path, out: Path, *more: str, method: str = MOTH) -> Result:
    return CliRunner().invoke(main, arguments(models, out, *more, method=method))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hardening") / "models"
    write_prototype_round(folder, models=1)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return out, hardening(models, out, "--method", ADVERSARIAL)


def cells_of(run: Path) -> dict[str, Path]:
    [entry] = HardeningStudyFolder(run).manifest().entries
    return {
        method: run / "cells" / folder
        for method, seeds in entry.folders.items()
        for folder in seeds.values()
    }


def test_every_cell_leaves_a_model_a_card_and_a_row(undisturbed: tuple[Path, Result]) -> None:
    run, result = undisturbed
    assert result.exit_code == 0, result.output
    assert [row["status"] for row in table(run / "hardening.csv")] == [
        "original", "hardened", "hardened",
    ]  # fmt: skip
    for folder in cells_of(run).values():
        assert (folder / "model.safetensors").is_file()
        assert not (folder / "unfinished").exists()
    assert "2 of 2 cells have a new model" in result.output
    assert "2/2  model-0 under adversarial:rounds=2,images=10, seed 0: accuracy" in result.output


def test_all_methods_are_held_against_one_measurement_of_the_original(
    undisturbed: tuple[Path, Result],
) -> None:
    run, _ = undisturbed
    original, *rows = table(run / "hardening.csv")
    for row in rows:
        assert row["accuracy_before"] == original["accuracy_before"] != ""
        assert row["distance_before"] == original["distance_before"] != ""
    [file] = (run / "originals").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 3  # one accuracy, two distances


def test_a_cell_is_what_the_command_harden_leaves(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    line = [
        "harden", str(models / "model-0.safetensors"), "--data", str(models / "model-0.npz"),
        "--method", MOTH, "--share", "0.5", "--distance-pairs", "2", "--arch", ARCH,
        "--device", "cpu", "--threads", "1", "--out", str(tmp_path / "one"),
    ]  # fmt: skip
    assert CliRunner().invoke(main, line).exit_code == 0
    folder = cells_of(undisturbed[0])[MOTH]
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (tmp_path / "one" / weights).read_bytes()
    one, other = (json.loads((f / "card.json").read_text()) for f in (folder, tmp_path / "one"))
    assert one["accuracy"] == other["accuracy"]
    assert one["distance"] == other["distance"]


def test_without_data_every_model_is_hardened_with_its_own_examples(
    models: Path, tmp_path: Path
) -> None:
    """Models of a round tell different things apart, so no data are right for all of them."""
    two = tmp_path / "models"
    write_prototype_round(two, models=2)
    line = [
        "hardening", "--models", str(two), "--method", ADVERSARIAL, "--distance-pairs", "0",
        "--arch", ARCH, "--device", "cpu", "--threads", "1", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    manifest = HardeningStudyFolder(tmp_path / "run").manifest()
    assert (manifest.data, manifest.data_sha256, manifest.share) == ("", "", 1.0)
    cards = sorted((tmp_path / "run" / "cells").glob("*/card.json"))
    used = [json.loads(card.read_text())["run"]["data"] for card in cards]
    assert [Path(data["data"]).name for data in used] == ["model-0.npz", "model-1.npz"]
    assert used[0]["training"] + used[0]["tested"] == used[0]["given"]


def test_the_same_command_again_does_nothing_and_gives_the_same_bytes(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    run, _ = undisturbed
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    again = hardening(models, run, "--method", ADVERSARIAL)
    assert again.exit_code == 0
    assert "2 of 2 cells are done" in again.output
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--share", "0.25"), "a run with share 0.5, this one has 0.25"),
        (("--distance-pairs", "3"), "a run with distance_pairs 2, this one has 3"),
        (("--distance-pairs", "all"), "a run with distance_pairs 2, this one has None"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    more: tuple[str, str], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    result = hardening(models, undisturbed[0], *more)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "moss"), "unknown name 'moss'"),
        (("--methods", "moth,"), "unknown name ''"),
        (("--method", "moth:speed=3"), "method 'moth' has no parameter 'speed'"),
        (("--seeds", "1,b"), "--seeds: expected whole numbers such as 1,2,3, got 'b'"),
        (("--distance-pairs", "some"), "--distance-pairs: expected whole numbers"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--test", "nowhere"), "nowhere does not exist"),
        (("--device", "cuda:99"), "cannot be used here"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: tuple[str, str], message: str, models: Path, tmp_path: Path
) -> None:
    result = hardening(models, tmp_path / "run", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


def test_bad_models_and_methods_that_leave_none_are_rows_with_a_reason_and_exit_code_3(
    models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"no weights")
    (folder / "model-0.npz").write_bytes((models / "model-0.npz").read_bytes())
    raw = (models / "model-0.safetensors").read_bytes()
    (folder / "model-0.safetensors").write_bytes(raw)
    diverging = "adversarial:rounds=2,images=10,recipe.learning_rate=1e30"
    result = hardening(folder, tmp_path / "run", method=diverging)
    assert result.exit_code == 3
    rows = {(r["model"], r["method"]): r for r in table(tmp_path / "run" / "hardening.csv")}
    assert rows["broken", diverging]["status"] in ("failed", "refused")
    assert rows["broken", diverging]["reason"]
    assert rows["model-0", diverging]["status"] == "failed"
    assert "diverged" in rows["model-0", diverging]["reason"]
    [line] = table(tmp_path / "run" / "summary.csv")
    assert (line["hardened"], line["degradation"]) == ("0", "")


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_run_that_is_stopped_or_killed_goes_on_where_it_was(
    sign: signal.Signals,
    code: int,
    models: Path,
    undisturbed: tuple[Path, Result],
    tmp_path: Path,
    repository: Path,
) -> None:
    run = tmp_path / "run"
    line = arguments(models, run, "--method", ADVERSARIAL)
    with subprocess.Popen(
        [sys.executable, "-m", "moth_eval.cli", *line],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if list(run.glob("cells/*/card.json")):
                break
            time.sleep(0.01)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    [done] = run.glob("cells/*/card.json")
    before = done.read_bytes()
    result = CliRunner().invoke(main, line)
    assert result.exit_code == 0, result.output
    assert "1 of 2 cells are done" in result.output
    assert done.read_bytes() == before
    for method, folder in cells_of(run).items():
        whole = cells_of(undisturbed[0])[method]
        name = "model.safetensors"
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
