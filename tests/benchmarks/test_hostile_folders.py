"""What lies with one model of a stranger's neither ends nor bloats the run of all the others."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.loading.sources import content_hash
from moth_eval.records import RunFolder
from tests.support.deep_folders import deep_folder
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
MEGABYTE = 1_000_000


def call(*words: object) -> Result:
    fixed = ["--device", "cpu", "--scanner", "weights", "--jobs", "1", "--threads", "1"]
    return CliRunner().invoke(main, [*map(str, words), "--arch", ARCH, *fixed])


def statuses(run: Path) -> dict[str, str]:
    with (run / "results.csv").open(newline="") as file:
        return {row["model"]: row["status"] for row in csv.DictReader(file)}


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Two models, each in a folder of its own with its images."""
    write_prototype_round(tmp_path / "flat", models=2)
    for number in range(2):
        home = tmp_path / "zoo" / f"id-{number:08d}"
        home.mkdir(parents=True)
        shutil.copy(tmp_path / "flat" / f"model-{number}.safetensors", home / "model.pt")
        (home / "config.json").write_text('{"poisoned": false}')
        images = home / "clean-example-data"
        images.mkdir()
        _write_images(tmp_path / "flat" / f"model-{number}.npz", images)
    return tmp_path / "zoo"


def _write_images(archive: Path, folder: Path) -> None:
    with np.load(archive) as arrays:
        for number, (image, label) in enumerate(
            zip(arrays["images"], arrays["labels"], strict=True)
        ):
            Image.fromarray(image).save(folder / f"{number}.png")
            (folder / f"{number}.json").write_text(str(label))


@pytest.mark.parametrize(
    "config",
    [
        {"poisoned": True, "triggered_classes": [1] * 400_000},
        {"poisoned": True, "trigger_type": "a" * MEGABYTE},
        {"poisoned": False, "model_architecture": "a" * MEGABYTE, "task_type": "b" * MEGABYTE},
    ],
    ids=["classes", "kind", "facts"],
)
def test_facts_of_any_length_leave_records_short(
    config: dict[str, object], zoo: Path, tmp_path: Path
) -> None:
    (zoo / "id-00000001" / "config.json").write_text(json.dumps(config))
    result = call("trojai", "--models", zoo, "--out", tmp_path / "run")
    assert statuses(tmp_path / "run")["id-00000000"] == "scored", result.output
    written = [
        path for path in (tmp_path / "run").rglob("*") if path.suffix not in (".png", ".svg")
    ]
    assert sum(path.stat().st_size for path in written if path.is_file()) < MEGABYTE
    assert len(result.output) < 20_000


def test_too_many_classes_of_a_trigger_are_told(zoo: Path, tmp_path: Path) -> None:
    config = {"poisoned": True, "triggered_classes": [1] * 10_001}
    (zoo / "id-00000001" / "config.json").write_text(json.dumps(config))
    call("trojai", "--models", zoo, "--out", tmp_path / "run")
    truths = {e.name: e.truth for e in RunFolder(tmp_path / "run").manifest().entries}
    assert truths["id-00000001"] is None
    assert truths["id-00000000"] is not None


def test_a_name_that_is_not_utf8_is_judged_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    write_prototype_round(folder, models=1)
    odd = os.fsdecode(b"odd-\xff")
    (folder / "model-0.safetensors").rename(folder / f"{odd}.safetensors")
    result = call("scan", folder, "--examples", folder / "model-0.npz", "--out", tmp_path / "run")
    assert result.exit_code in (0, 1), result.output
    [judged] = json.loads((tmp_path / "run" / "verdicts.json").read_text())["models"]
    assert judged["model"] == "odd-\\udcff"


def test_a_deep_folder_among_the_images_is_not_gone_through(zoo: Path, tmp_path: Path) -> None:
    with deep_folder(zoo / "id-00000001" / "clean-example-data"):
        result = call("trojai", "--models", zoo, "--out", tmp_path / "run")
    assert statuses(tmp_path / "run")["id-00000000"] == "scored", result.output


def test_examples_that_nobody_will_read_are_not_hashed(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (images / "0").mkdir(parents=True)
    (images / "0" / "a.png").write_bytes(b"1")
    plain = content_hash(images, most_bytes=1 << 20)
    assert plain == content_hash(images)
    with (images / "readme.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"at most 1,048,576 bytes, got 1,099,511,627,777"):
        content_hash(images, most_bytes=1 << 20)


def test_a_model_may_have_the_longest_name_there_is(tmp_path: Path) -> None:
    folder = tmp_path / "long"
    write_prototype_round(folder, models=1)
    weights = folder / "model-0.safetensors"
    torch.save(load_file(weights), folder / f"{'n' * 252}.pt")  # longer still with .arch.json
    weights.unlink()
    result = call("trojai", "--models", folder, "--examples", folder / "model-0.npz",
                  "--out", tmp_path / "run")  # fmt: skip
    assert list(statuses(tmp_path / "run").values()) == ["scored"], result.output
