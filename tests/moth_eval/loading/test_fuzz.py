"""Damaged files by the thousand: none runs code or takes the reader with it; each has an answer."""

from __future__ import annotations

import csv
import io
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from moth_eval.cli import main
from moth_eval.errors import MothError
from moth_eval.loading.files import load_network
from moth_eval.loading.handover import decode
from moth_eval.loading.loader_child import read
from tests.support.hostile_writers import CANARY
from tests.support.mutations import mutations, seeds


@pytest.fixture(autouse=True)
def _no_code_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(CANARY).unlink(missing_ok=True)


def answers(count: int, seed: int) -> Counter[str]:
    """What the reader says of so many damaged files; every tree that it finds is taken over."""
    found: Counter[str] = Counter()
    for name, content in mutations(count, seed):
        target = io.BytesIO()
        answer = read(io.BufferedReader(io.BytesIO(content)), target)  # type: ignore[arg-type]
        json.dumps(answer).encode("utf-8", "surrogatepass")
        if "format" in answer:
            found["read"] += 1
            if "nodes" in answer:
                decode(*json.loads(json.dumps([answer["nodes"], answer["root"]])))
        else:
            assert answer.get("refused") or answer.get("unusable"), name
            found["refused"] += 1
    return found


def test_the_files_that_are_damaged_were_sound() -> None:
    for name, content in seeds().items():
        answer = read(io.BufferedReader(io.BytesIO(content)), io.BytesIO())  # type: ignore[arg-type]
        assert ("refused" in answer) == ("payload" in name), name


def test_ten_thousand_damaged_files_each_have_an_answer() -> None:
    found = answers(10_000, seed=1)
    assert found.total() == 10_000
    assert min(found["read"], found["refused"]) > 100  # damage that is all fatal would show little
    assert not Path(CANARY).exists()


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files_each_have_an_answer() -> None:
    started = time.monotonic()
    found = answers(100_000, seed=2)
    assert found.total() == 100_000
    assert not Path(CANARY).exists()
    assert time.monotonic() - started < 500


@pytest.mark.slow
def test_a_thousand_damaged_files_pass_through_the_reader_that_is_confined(tmp_path: Path) -> None:
    for number, (_, content) in enumerate(mutations(1_000, seed=3)):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        try:
            load_network(path)
        except MothError as error:
            assert str(path) in str(error)
        path.unlink()
    assert not Path(CANARY).exists()


@pytest.mark.slow
def test_every_damaged_file_is_a_row_of_the_run(tmp_path: Path) -> None:
    models, count = tmp_path / "models", 300
    models.mkdir()
    for number, (_, content) in enumerate(mutations(count, seed=4)):
        (models / f"m{number:04d}.pt").write_bytes(content)
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "examples.npz", images=images, labels=np.arange(8) % 2)
    arguments = [
        "trojai", "--models", str(models), "--examples", str(tmp_path / "examples.npz"),
        "--device", "cpu", "--timeout", "60", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (1, 3), result.output[-2000:]
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == [f"m{number:04d}" for number in range(count)]
    counts = Counter(row["status"] for row in rows)
    assert not {"pending", "crashed", "timed-out", "out-of-memory"} & set(counts)
    assert counts["refused"] > count // 3
    assert not Path(CANARY).exists()
