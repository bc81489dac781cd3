from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import squeezenet1_1

from benchmarks import harden_study
from benchmarks.harden_data import Drawing
from benchmarks.harden_journal import DiskJournal
from benchmarks.harden_plan import HardenStudy, plan
from moth_eval import hardening_records
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.hardeners.moth import Moth
from moth_eval.hardening import LogEntry
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import save_network, sha256_of
from moth_eval.loading.rounds import read_round
from moth_eval.loading.sidecars import name_in_sidecar
from moth_eval.loading.subjects import open_subject
from moth_eval.pictures import Pictures
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
METHOD = (
    "moth:rounds=8,warm_up_rounds=1,warm_up_steps=20,fresh_steps=20,inversion_images=8,"
    "inversion_batch=8,pairs_per_round=2,stamped=2,clean=10,recipe.shift=0"
)


def arguments(models: Path, out: Path, *more: str) -> list[str]:
    return [
        "harden", str(models / "model-1.safetensors"), "--data", str(models / "model-1.npz"),
        "--arch", ARCH, "--device", "cpu", "--share", "0.5", "--method", METHOD,
        "--distance-pairs", "3", "--out", str(out), *more,
    ]  # fmt: skip


def harden(models: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(models, out, *more))


def card_of(out: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((out / "card.json").read_text())
    return card


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


def timeless(card: dict[str, Any]) -> dict[str, Any]:
    """A card without what the clock and the memory decide, and without where it lies."""
    for name in ("seconds", "peak_memory_bytes"):
        del card["training"][name]
    for name in ("created", "command"):
        del card["run"][name]
    del card["finished"]
    return card


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harden") / "models"
    write_prototype_round(folder, models=2)
    return folder


@pytest.fixture(scope="session")
def undisturbed(models: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return out, harden(models, out)


def test_the_new_model_and_its_card_are_left_and_nothing_unfinished(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    out, result = undisturbed
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {"model.safetensors", "model.arch.json", "card.json", "card.md", "log.csv"}
    before = load_file(models / "model-1.safetensors")
    after = load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_new_model_states_the_normalisation_that_it_was_trained_with(
    undisturbed: tuple[Path, Result],
) -> None:
    out, _ = undisturbed
    sidecar = json.loads((out / "model.arch.json").read_text())
    assert sidecar["normalisation"] == card_of(out)["run"]["normalisation"] == "unit"


def test_the_original_keeps_its_bytes(models: Path, tmp_path: Path) -> None:
    raw = (models / "model-1.safetensors").read_bytes()
    assert harden(models, tmp_path / "out", "--distance-pairs", "0").exit_code == 0
    assert (models / "model-1.safetensors").read_bytes() == raw


def test_the_card_says_what_was_done_and_what_came_of_it(
    models: Path, undisturbed: tuple[Path, Result]
) -> None:
    out, _ = undisturbed
    card = card_of(out)
    run, training = card["run"], card["training"]
    assert run["sha256"] == sha256_of(models / "model-1.safetensors")
    assert training["sha256"] == sha256_of(out / "model.safetensors")
    assert run["method"] == "moth"
    assert (run["parameters"]["rounds"], run["parameters"]["recipe.shift"]) == (8, 0)
    assert {"torch", "moth-eval", "python"} <= run["versions"].keys()
    data = run["data"]
    assert (data["given"], data["training"], data["tested"]) == (60, 25, 10)
    assert data["training_per_class"] == [5] * 5
    assert data["test_per_class"] == [2] * 5
    assert (data["held_out"], data["share"], data["in_both"]) == (0.2, 0.5, 0)
    assert training["images_used"] == 25
    assert training["rounds"] == 9
    assert training["pair_counts"]
    assert all(a != b and count > 0 for a, b, count in training["pair_counts"])
    accuracy = card["accuracy"]
    assert accuracy["n"] == 10
    assert accuracy["difference"]["low"] <= accuracy["after"] - accuracy["before"]
    assert 0 <= accuracy["p_value"] <= 1


def test_distances_before_and_after_are_of_the_same_pairs(undisturbed: tuple[Path, Result]) -> None:
    card = card_of(undisturbed[0])
    change = card["distance"]
    pairs = [[pair["source"], pair["target"]] for pair in change["pairs"]]
    assert pairs == card["run"]["pairs"]
    assert len(pairs) == 3
    known = [p for p in change["pairs"] if p["before"] is not None and p["after"] is not None]
    ratios = [p["after"] / p["before"] - 1 for p in known]
    assert change["increase"]["mean_of_ratios"] == pytest.approx(np.mean(ratios))
    assert change["increase"]["pairs"] == len(known) > 1
    assert change["increase"]["mean_of_ratios_interval"] is None  # of three pairs
    failed = [[p["source"], p["target"]] for p in change["pairs"] if p["after"] is None]
    assert change["failed_after"] == failed


def test_the_page_and_the_terminal_tell_the_same(undisturbed: tuple[Path, Result]) -> None:
    out, result = undisturbed
    page, card = (out / "card.md").read_text(), card_of(out)
    assert page.startswith("# model-1, hardened with moth\n")
    assert card["run"]["sha256"] in page
    assert card["training"]["sha256"] in page
    assert "held out of the data and never trained on" in page
    assert f"| recipe.learning_rate | {Moth().recipe.learning_rate} |" in page
    assert f"accuracy {card['accuracy']['before']:.2%} -> " in result.output
    assert f"increase {card['distance']['increase']['mean_of_ratios']:+.1%}" in result.output
    assert "training: pairs, round 9: loss" in result.output


def test_the_log_has_a_row_per_round(undisturbed: tuple[Path, Result]) -> None:
    with (undisturbed[0] / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["round"] for row in rows] == [str(number) for number in range(1, 10)]
    assert {row["phase"] for row in rows} == {"warm-up", "pairs"}


def test_a_finished_folder_is_left_as_it_is(models: Path, undisturbed: tuple[Path, Result]) -> None:
    out, _ = undisturbed
    before = files_of(out)
    again = harden(models, out)
    assert again.exit_code == 0
    assert "is finished already, nothing is done again" in again.output
    assert "training:" not in again.output
    assert files_of(out) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", METHOD.replace("rounds=8", "rounds=9")), "with the parameter rounds 8,"),
        (("--method", "pairwise"), "with the method 'moth', this one has 'pairwise'"),
        (("--share", "0.25"), "with the data's share 0.5, this one has 0.25"),
        (("--first", "55"), "with the data's given 60, this one has 55"),
        (("--distance-pairs", "2"), "with the pairs"),
        (("--distance-seeds", "2"), "with the distances' seeds"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(
    more: tuple[str, str], message: str, models: Path, undisturbed: tuple[Path, Result]
) -> None:
    out, _ = undisturbed
    before = files_of(out)
    result = harden(models, out, *more)
    assert result.exit_code == 2
    assert message in result.output
    assert files_of(out) == before


def test_another_model_and_a_finished_model_that_was_altered_are_refused(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    for name, content in files_of(undisturbed[0]).items():
        (tmp_path / name).write_bytes(content)
    other = [word.replace("model-1.saf", "model-0.saf") for word in arguments(models, tmp_path)]
    result = CliRunner().invoke(main, other)
    assert result.exit_code == 2
    assert "of a model with the hash" in result.output
    (tmp_path / "model.safetensors").unlink()
    result = harden(models, tmp_path)
    assert result.exit_code == 2
    assert "model.safetensors is missing or was altered" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--method", "moss"), "unknown name 'moss'"),
        (("--method", "moth:speed=3"), "method 'moth' has no parameter 'speed'"),
        (("--method", "moth:pairs_per_round=0"), "expected at least 1, got pairs_per_round=0"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--test", "nowhere"), "nowhere does not exist"),
        (("--arch", "resnet18"), "resnet18"),
        (("--device", "cuda:99"), "cannot be used here"),
        (("--share", "0"), "not in the range"),
    ],
)
def test_bad_input_is_named_with_exit_code_2_and_leaves_no_folder(
    more: tuple[str, str], message: str, models: Path, tmp_path: Path
) -> None:
    result = harden(models, tmp_path / "out", *more)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_not_written_to(models: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    result = harden(models, tmp_path)
    assert result.exit_code == 2
    assert "holds model.safetensors, but no hardening" in result.output
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_test_images_that_are_given_are_used_and_overlaps_are_told(
    models: Path, tmp_path: Path
) -> None:
    more = ("--test", str(models / "model-1.npz"), "--distance-pairs", "0")
    result = harden(models, tmp_path, *more)
    assert result.exit_code == 0, result.output
    card = card_of(tmp_path)
    assert card["run"]["data"]["held_out"] is None
    assert (card["run"]["data"]["training"], card["run"]["data"]["tested"]) == (30, 60)
    assert card["distance"] is None
    assert "30 of 60 test images are training images as well" in result.output


def test_a_method_that_leaves_no_model_ends_with_its_reason_and_exit_code_3(
    models: Path, tmp_path: Path
) -> None:
    more = ("--method", f"{METHOD},recipe.learning_rate=1e30", "--distance-pairs", "0")
    result = harden(models, tmp_path, *more)
    assert result.exit_code == 3, result.output
    assert "moth failed: " in result.output
    assert not (tmp_path / "model.safetensors").exists()
    card = card_of(tmp_path)
    assert card["training"]["status"] == "failed"
    assert card["training"]["reason"] in (tmp_path / "card.md").read_text()
    assert card["accuracy"] is None


def test_a_run_that_stops_in_the_middle_gives_the_same_weights_in_the_end(
    models: Path,
    undisturbed: tuple[Path, Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Stops(DiskJournal):
        """Keeps the state at every second round, and is interrupted after the fifth."""

        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, save_rounds=2, **named)

        def note(self, entry: LogEntry) -> None:
            super().note(entry)
            if entry.round == 5:
                raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(harden_study, "DiskJournal", Stops)
        stopped = harden(models, out)
    assert stopped.exit_code == 3
    assert "the same command continues" in stopped.output
    assert {p.name for p in (out / "unfinished").iterdir()} >= {"state.safetensors", "run.json"}
    assert not (out / "model.safetensors").exists()
    monkeypatch.setattr("moth_eval.subject.Subject.logits", counted := Counted())
    result = harden(models, out)
    assert result.exit_code == 0, result.output
    assert "training: continuing after pairs, round 4" in result.output
    assert "training: pairs, round 5" in result.output
    assert "warm-up" not in result.output
    assert "distances before: 3 pairs" not in result.output
    assert counted.images > 0
    whole = undisturbed[0]
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert timeless(card_of(out)) == timeless(card_of(whole))


class Counted:
    """Stands in for `Subject.logits` and counts images."""

    def __init__(self) -> None:
        from moth_eval.subject import Subject

        self.images = 0
        self._real = Subject.logits

    def __get__(self, subject: Any, kind: Any) -> Any:
        def logits(images: torch.Tensor, **more: Any) -> torch.Tensor:
            self.images += len(images)
            return self._real(subject, images, **more)

        return logits


KILLED = """
import sys, functools
import benchmarks.harden_study as study
study.DiskJournal = functools.partial(study.DiskJournal, save_rounds=1)
from moth_eval.cli import main
main(sys.argv[1:])
"""


LONGER = ("--distance-pairs", "0", "--method", METHOD.replace("rounds=8", "rounds=40"))


@pytest.fixture(scope="session")
def longer(models: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights that an undisturbed run of more rounds leaves."""
    out = tmp_path_factory.mktemp("longer") / "out"
    assert harden(models, out, *LONGER).exit_code == 0
    return (out / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGTERM, 3), (signal.SIGKILL, -9)])
def test_a_process_that_is_stopped_or_killed_is_continued_to_the_same_result(
    sign: signal.Signals,
    code: int,
    models: Path,
    longer: bytes,
    tmp_path: Path,
    repository: Path,
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *arguments(models, out, *LONGER)],
        cwd=repository,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            log = out / "unfinished" / "log.jsonl"
            if log.is_file() and len(log.read_bytes().splitlines()) > 5:
                break
            time.sleep(0.01)
        process.send_signal(sign)
        assert process.wait(timeout=60) == code
    assert not (out / "card.json").exists()
    result = harden(models, out, *LONGER)
    assert result.exit_code == 0, result.output
    assert "training: continuing after pairs, round" in result.output
    assert (out / "model.safetensors").read_bytes() == longer


@pytest.fixture(scope="session")
def torchvision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squeezenet")
    torch.manual_seed(0)
    network = squeezenet1_1(num_classes=3).eval()
    save_network(folder / "net.safetensors", network, architecture="squeezenet1_1", num_classes=3)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(24) % 3)
    return folder


def test_a_hardened_torchvision_network_is_opened_as_all_commands_open_models(
    torchvision_model: Path, tmp_path: Path
) -> None:
    data = str(torchvision_model / "data.npz")
    method = "adversarial:rounds=1,images=4,attack.steps=1"
    result = CliRunner().invoke(
        main,
        ["harden", str(torchvision_model / "net.safetensors"), "--data", data, "--method", method,
         "--share", "1", "--distance-pairs", "0", "--device", "cpu", "--out", str(tmp_path / "o")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    [found] = read_round(tmp_path / "o", examples=Path(data)).models
    for source in (None, ArchitectureSource.parse("squeezenet1_1")):
        opened = open_subject(found, architecture=source, device=torch.device("cpu")).subject
        assert opened.architecture == "squeezenet1_1"
        assert opened.sha256 == card_of(tmp_path / "o")["training"]["sha256"]
        weights = load_file(tmp_path / "o" / "model.safetensors")
        assert all(torch.equal(t, weights[k]) for k, t in opened.module.state_dict().items())


def test_a_hardened_network_of_ones_own_is_opened_by_the_other_commands(
    models: Path, undisturbed: tuple[Path, Result], tmp_path: Path
) -> None:
    assert_opened(undisturbed[0], str(models / "model-1.npz"), ARCH, tmp_path)


def assert_opened(out: Path, data: str, architecture: str, folder: Path) -> None:
    """Scan the hardened model and measure a distance of it, as the guide says."""
    common = ["--arch", architecture, "--examples", data, "--device", "cpu"]
    scan = ["trojai", "--models", str(out), *common, "--out", str(folder / "scan")]
    result = CliRunner().invoke(main, [*scan, "--scanner", "nc:max_images=6", "--jobs", "2"])
    assert result.exit_code in (0, 1), result.output
    with (folder / "scan" / "results.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["status"] == "scored"
    measure = ["distance", str(out / "model.safetensors"), *common, "--pairs", "0-1"]
    options = ["--samples", "4", "--seeds", "1", "--out", str(folder / "distance")]
    result = CliRunner().invoke(main, [*measure, *options])
    assert result.exit_code == 0, result.output
    manifest = json.loads((folder / "distance" / "run.json").read_text())
    assert manifest["architecture"] == architecture
    assert manifest["sha256"] == card_of(out)["training"]["sha256"]


@pytest.mark.parametrize(
    ("option", "architecture", "named"),
    [
        ("", "resnet18", "resnet18"),
        ("", "moth_eval.networks:small_vgg", "classification:moth_eval.networks:small_vgg"),
        ("pack.age:factory", "pack.age:factory", "classification:pack.age:factory"),
        ("pack.age", "pack.age:factory", "factory"),
    ],
)
def test_side_cars_name_a_network_as_the_same_option_finds_it(
    option: str, architecture: str, named: str
) -> None:
    assert name_in_sidecar(option, architecture) == named


def test_a_module_with_several_factories_opens_what_was_hardened_with_it(
    models: Path, tmp_path: Path
) -> None:
    sidecar = {"architecture": "prototype_network", "num_classes": 5}
    for name in ("model-1.safetensors", "model-1.npz"):
        (tmp_path / name).write_bytes((models / name).read_bytes())
    (tmp_path / "model-1.arch.json").write_text(json.dumps(sidecar))
    more = ("--arch", "tests.support.subjects", "--distance-pairs", "0")
    result = harden(tmp_path, tmp_path / "out", *more)
    assert result.exit_code == 0, result.output
    assert card_of(tmp_path / "out")["run"]["architecture"] == ARCH


def test_a_network_without_a_name_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3))
    torch.save(network, tmp_path / "net.pt")
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(12) % 3)
    result = CliRunner().invoke(
        main,
        ["harden", str(tmp_path / "net.pt"), "--data", str(tmp_path / "data.npz"), "--device",
         "cpu", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 2
    assert "cannot be opened again from its weights alone" in result.output
    assert not (tmp_path / "out").exists()


def numbered(counts: list[int]) -> Pictures:
    """Images each of its own value, so that they can be told apart."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    images = torch.arange(len(labels)).to(torch.uint8).view(-1, 1, 1, 1)
    return Pictures(images=images, labels=labels)


def test_every_class_gives_its_share_and_nothing_is_on_both_sides() -> None:
    drawing, data = Drawing(share=0.1, seed=0), numbered([100, 40, 3, 1])
    training, test = drawing.training(data), drawing.test(data)
    assert torch.bincount(test.labels, minlength=4).tolist() == [20, 8, 1, 0]
    assert torch.bincount(training.labels, minlength=4).tolist() == [8, 3, 1, 1]
    assert not set(test.images.flatten().tolist()) & set(training.images.flatten().tolist())


def test_only_the_first_images_are_drawn_from_and_all_of_them_without_a_test_set() -> None:
    data = numbered([10, 10])
    drawing = Drawing(share=1, seed=0, first=12, held_out=False)
    assert torch.equal(drawing.training(data).images, data.images[:12])
    assert len(drawing.test(data)) == 0
    few = replace(drawing, held_out=True)
    drawn = torch.cat([few.training(data).images, few.test(data).images]).flatten()
    assert torch.equal(drawn.sort().values, data.images[:12].flatten())


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="--share must be above 0 and at most 1"):
        Drawing(share=share, seed=0).check()


def write_folders(models: Path, folder: Path, names: Sequence[str], *sides: int) -> Path:
    """The images of a model as PNG files, in one folder per class."""
    arrays = np.load(models / "model-1.npz")
    for number, (image, label) in enumerate(zip(arrays["images"], arrays["labels"], strict=True)):
        if label < len(names):
            (folder / names[label]).mkdir(parents=True, exist_ok=True)
            side = sides[number % len(sides)] if sides else 12
            picture = Image.fromarray(image).resize((side, side))
            picture.save(folder / names[label] / f"{number}.png")
    return folder


def study(models: Path, data: Path, run: Path, **fields: Any) -> HardenStudy:
    model = models / "model-1.safetensors"
    settings = {"architecture": ARCH, "device": "cpu", "share": 0.5, **fields}
    return HardenStudy(model=model, data=data, run=run, **settings)


NAMES = ("ant", "bee", "cat", "dog", "elk")


def test_folders_with_names_give_the_same_training_and_test_images_as_with_numbers(
    models: Path, tmp_path: Path
) -> None:
    named = write_folders(models, tmp_path / "named", NAMES)
    numbered = write_folders(models, tmp_path / "numbered", "01234")
    first, second = (
        plan(study(models, data, tmp_path / "out")).manifest.data for data in (named, numbered)
    )
    assert first.training_per_class == (5, 5, 5, 5, 5)
    assert first.model_dump(exclude={"data"}) == second.model_dump(exclude={"data"})


def test_pictures_of_several_sizes_get_that_of_the_record_beside_the_model_and_it_is_said(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(models / "model-1.safetensors", home / "model.safetensors")
    record = {"attack": "none", "data": {"image_shape": [3, 12, 12]}}
    (home / "attack.json").write_text(json.dumps(record))
    data = write_folders(models, tmp_path / "data", "01234", 24, 12)
    test = write_folders(models, tmp_path / "test", "01234", 16, 20, 12)
    given = replace(study(models, data, tmp_path / "out", test=test), model=home)
    manifest = plan(given).manifest
    assert manifest.image_shape == (3, 12, 12)
    said = [
        f"{count} of 60 images of {folder} were resized to 12x12 pixels (bilinear, antialiased)"
        for count, folder in ((30, data), (40, test))
    ]
    assert [doubt for doubt in manifest.doubts if "resized" in doubt] == said
    assert [record.getMessage() for record in caplog.records] == said
    (home / "attack.json").unlink()
    with pytest.raises(InputError, match="all examples of a model must have the same size"):
        plan(given)


def test_names_for_some_of_the_classes_or_of_other_classes_are_refused(
    models: Path, tmp_path: Path
) -> None:
    some = write_folders(models, tmp_path / "some", NAMES[:3])
    every = write_folders(models, tmp_path / "every", NAMES)
    other = write_folders(models, tmp_path / "other", ("ant", "bee", "cow", "dog", "elk"))
    with pytest.raises(InputError, match="names 3 classes, but the network has 5"):
        plan(study(models, some, tmp_path / "out"))
    with pytest.raises(InputError, match=r"--test has 5 named .* only one of them has cat, cow"):
        plan(study(models, every, tmp_path / "out", test=other))


@pytest.mark.parametrize(
    "kind",
    [
        "HardeningCard", "HardeningManifest", "DataRecord", "TrainedRecord", "AccuracyRecord",
        "DistanceChange", "IncreaseRecord",
    ],
)  # fmt: skip
def test_every_field_of_the_card_is_documented(kind: str, repository: Path) -> None:
    page = (repository / "docs" / "harden.md").read_text()
    section = page.partition(f"### `{kind}`\n")[2].partition("\n### ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(getattr(hardening_records, kind).model_fields)
