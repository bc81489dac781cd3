"""The example of a plug-in, built as a wheel, installed beside moth-eval, and used by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moth_eval.records import RunFolder
from tests.support.subjects import write_prototype_round
from tests.support.toy_task import write_toy_data

EXAMPLE = Path(__file__).resolve().parent.parent / "docs" / "example_plugin"
TOY = "tests.support.toy_task:toy_factory"
ARCH = "tests.support.subjects:prototype_network"


def pip(*words: str | Path) -> None:
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    if "BackendUnavailable" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip("pip and setuptools are needed to build a wheel without a network")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed plug-in."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")
    alone = ("--no-deps", "--no-index", "--quiet")
    pip("wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    [wheel] = folder.glob("*.whl")
    pip("install", *alone, "--target", folder / "site", wheel)
    return folder / "site"


def python(installed: Path, repository: Path, *words: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(repository), str(installed)])
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def moth_eval(installed: Path, repository: Path, *words: object) -> str:
    done = python(installed, repository, "-m", "moth_eval.cli", *words, "--device", "cpu")
    assert "unknown name" not in done.stderr
    assert done.returncode in (0, 1, 3), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_prototype_round(folder, models=2)
    return folder


def test_its_scanner_scans(installed: Path, models: Path, repository: Path, tmp_path: Path) -> None:
    words = ("trojai", "--models", models, "--arch", ARCH, "--out", tmp_path / "run")
    told = moth_eval(installed, repository, *words, "--scanner", "weight-norm:order=1", "--jobs", 1)
    records = RunFolder(tmp_path / "run").records().values()
    assert [(one.scanner, one.status) for one in records] == 2 * [
        ("weight-norm:order=1", "scored")
    ], told


@pytest.mark.slow
def test_its_hardener_hardens(
    installed: Path, models: Path, repository: Path, tmp_path: Path
) -> None:
    words = ("harden", models / "model-1.safetensors", "--data", models / "model-1.npz")
    more = ("--arch", ARCH, "--method", "shrunk:factor=0.5", "--out", tmp_path / "out")
    told = moth_eval(installed, repository, *words, *more, "--distance-pairs", 0)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert "shrunk" in json.dumps(card), told


@pytest.mark.slow
def test_its_attack_is_implanted(installed: Path, repository: Path, tmp_path: Path) -> None:
    for name, seed in (("train", 1), ("test", 3)):
        write_toy_data(tmp_path / f"{name}.npz", 40, seed=seed)
    words = ("inject", "--data", tmp_path / "train.npz", "--test", tmp_path / "test.npz")
    more = (
        "--attack",
        "darkened:target=1,left=0.2",
        "--arch",
        "tests.support.toy_task:toy_factory",
    )
    rest = ("--without-twin", "--epochs", 2, "--out", tmp_path / "out")
    told = moth_eval(installed, repository, *words, *more, *rest)
    made = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert made["attack"] == "darkened", told
    assert made["parameters"]["left"] == 0.2


def test_its_methods_keep_to_the_rules(installed: Path, repository: Path) -> None:
    code = (
        "from moth_eval.conformance import check_attack, check_hardener, check_scanner\n"
        "from moth_example.darkened import Darkened\n"
        "from moth_example.shrunk import Shrunk\n"
        "from moth_example.weight_norm import WeightNorm\n"
        "check_scanner(WeightNorm()); check_attack(Darkened()); check_hardener(Shrunk())\n"
    )
    done = python(installed, repository, "-c", code)
    assert done.returncode == 0, done.stderr
