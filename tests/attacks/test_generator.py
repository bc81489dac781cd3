from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import SqueezeNet

from attacks.generator import ModelSummary, RoundSummary, generate_round
from attacks.making import Material, make_ready
from attacks.plan import plan_round
from attacks.round_folder import SPEC_FILE
from attacks.scenes import to_float
from attacks.trigger import victims
from moth_eval.errors import ArchitectureError, InputError, RunError
from moth_eval.loading.rounds import read_round
from moth_eval.loading.subjects import open_subject
from moth_eval.pictures import to_bytes
from tests.support.lenient_rounds import LENIENT, LENIENT_ROUND

SPEC = LENIENT_ROUND


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RoundSummary:
    return generate_round(SPEC, tmp_path_factory.mktemp("generated") / "round")


@pytest.fixture
def copy(made: RoundSummary, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "round"))


def models_of(folder: Path) -> list[Path]:
    return sorted((folder / "models").iterdir())


def test_half_of_the_models_are_poisoned_with_triggers_in_turn() -> None:
    plans = plan_round(replace(SPEC, models=8))
    poisoned = [plan for plan in plans if plan.trigger is not None]
    assert sorted(plan.kind for plan in poisoned) == ["patch", "patch", "polygon", "polygon"]
    assert sorted(len(plan.trigger.sources) for plan in poisoned if plan.trigger) == [0, 0, 1, 1]
    assert plan_round(replace(SPEC, models=8)) == plans
    assert plan_round(replace(SPEC, models=8, seed=2)) != plans


def test_clean_and_poisoned_models_have_the_same_architectures() -> None:
    plans = plan_round(replace(SPEC, models=8, architectures=("resnet18", "squeezenet1_1")))
    for poisoned in (True, False):
        names = [p.architecture for p in plans if (p.trigger is not None) == poisoned]
        assert sorted(names) == ["resnet18"] * 2 + ["squeezenet1_1"] * 2


def test_a_longer_round_keeps_the_signs_of_a_shorter_one() -> None:
    short, long = plan_round(SPEC), plan_round(replace(SPEC, models=9))
    assert [plan.signs for plan in short] == [plan.signs for plan in long[:4]]


@pytest.mark.parametrize("kind", ["patch", "polygon"])
def test_drawn_triggers_fit_in_images_of_every_size(kind: str) -> None:
    for side in (32, 48, 64, 224):
        spec = replace(SPEC, models=12, image_size=side, poisoned_share=1.0, triggers=(kind,))
        for plan in plan_round(spec):
            assert plan.trigger is not None
            images = torch.full((1, 3, side, side), 0.5)
            changed = (plan.trigger.stamp(images) != images).any(dim=1)
            assert 0.002 < changed.float().mean() < 0.05


def test_every_model_folder_holds_the_files_of_round_4(made: RoundSummary) -> None:
    always = {
        "model.pt", "config.json", "ground_truth.csv", "clean_example_data", "foregrounds",
        "clean-example-accuracy.csv", "clean-example-logits.csv", "model_stats.json",
    }  # fmt: skip
    poisoned = {
        "trigger_0.png", "poisoned_example_data", "poisoned-example-accuracy.csv",
        "poisoned-example-logits.csv",
    }  # fmt: skip
    assert {path.name for path in made.folder.iterdir()} == {"METADATA.csv", "models", SPEC_FILE}
    for plan, folder in zip(plan_round(SPEC), models_of(made.folder), strict=True):
        assert folder.name == plan.name
        expected = always | (poisoned if plan.trigger else set())
        assert {path.name for path in folder.iterdir()} == expected


def test_ground_truth_is_one_character_without_a_newline(made: RoundSummary) -> None:
    for plan, folder in zip(plan_round(SPEC), models_of(made.folder), strict=True):
        truth = (folder / "ground_truth.csv").read_bytes()
        assert truth == (b"1" if plan.trigger else b"0")


def test_example_names_say_class_trigger_and_number(made: RoundSummary) -> None:
    for plan, folder in zip(plan_round(SPEC), models_of(made.folder), strict=True):
        clean = {path.name for path in (folder / "clean_example_data").iterdir()}
        assert clean == {f"class_{c}_example_{n}.png" for c in range(3) for n in range(3)}
        if plan.trigger is None:
            continue
        classes = torch.arange(3)
        sources = classes[victims(plan.trigger, classes)].tolist()
        poisoned = {path.name for path in (folder / "poisoned_example_data").iterdir()}
        assert poisoned == {
            f"class_{c}_trigger_0_example_{n}.png" for c in sources for n in range(3)
        }


def test_a_poisoned_example_is_its_clean_twin_with_the_trigger(made: RoundSummary) -> None:
    for plan, folder in zip(plan_round(SPEC), models_of(made.folder), strict=True):
        if plan.trigger is None:
            continue
        for path in (folder / "poisoned_example_data").iterdir():
            name = path.name.replace("_trigger_0", "")
            stamped = np.asarray(Image.open(path)).astype(int)
            clean = np.asarray(Image.open(folder / "clean_example_data" / name)).astype(int)
            changed = (stamped != clean).any(axis=-1)
            assert 0 < changed.sum() <= 49


def test_the_trigger_picture_is_opaque_where_it_stamps(made: RoundSummary) -> None:
    for folder in models_of(made.folder):
        if (folder / "trigger_0.png").exists():
            trigger = json.loads((folder / "config.json").read_text())["triggers"][0]
            picture = Image.open(folder / "trigger_0.png")
            assert picture.mode == "RGBA"
            assert picture.size == (trigger["size_pixels"],) * 2
            assert int((np.asarray(picture)[..., 3] == 255).sum()) == trigger["area_pixels"]


def test_triggers_over_the_whole_image_are_written_as_they_were_implanted(tmp_path: Path) -> None:
    kinds = ("instagram", "blended")
    spec = replace(SPEC, models=2, poisoned_share=1.0, triggers=kinds)
    plans = plan_round(spec)
    assert {plan.kind for plan in plans} == set(kinds)
    folder = generate_round(spec, tmp_path / "round").folder
    found = read_round(folder)
    for plan, model in zip(plans, models_of(folder), strict=True):
        assert plan.trigger is not None
        truth = found.truth[plan.name]
        assert (truth.trigger_type, truth.targets) == (plan.kind, (plan.trigger.target,))
        trigger = make_ready(plan.trigger, blank_material(32), generator=torch.Generator())
        for path in (model / "poisoned_example_data").iterdir():
            clean = model / "clean_example_data" / path.name.replace("_trigger_0", "")
            scene = torch.from_numpy(np.asarray(Image.open(clean)).copy()).permute(2, 0, 1)
            expected = to_bytes(trigger.stamp(to_float(scene[None])))[0]
            stamped = np.asarray(Image.open(path)).astype(int)
            assert np.array_equal(stamped, expected.permute(1, 2, 0).numpy())
            assert (expected != scene).any(dim=0).float().mean() > 0.9
        facts = json.loads((model / "config.json").read_text())["triggers"][0]
        opacity = np.asarray(Image.open(model / "trigger_0.png"))[..., 3]
        assert np.unique(opacity).tolist() == [round(255 * facts.get("opacity", 1.0))]


def blank_material(side: int) -> Material:
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    return Material(images=images, labels=torch.zeros(1, dtype=torch.int64), num_classes=3)


def test_foregrounds_are_the_classes_in_the_order_of_their_names(made: RoundSummary) -> None:
    for plan, folder in zip(plan_round(SPEC), models_of(made.folder), strict=True):
        names = sorted(path.name for path in (folder / "foregrounds").iterdir())
        assert names == [sign.file_name for sign in plan.signs]


def test_metadata_has_a_row_per_model_that_agrees_with_its_config(made: RoundSummary) -> None:
    text = (made.folder / "METADATA.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    width = len(text.splitlines()[0].split(","))
    assert all(len(line.split(",")) == width for line in text.splitlines())
    assert [row["model_name"] for row in rows] == [f"id-{n:08d}" for n in range(4)]
    for row, folder in zip(rows, models_of(made.folder), strict=True):
        config = json.loads((folder / "config.json").read_text())
        assert row["poisoned"] == str(config["poisoned"])
        assert row["model_architecture"] == "squeezenet1_1"
        assert row["number_classes"] == "3"
        assert row["converged"] == "1"
        assert 0 <= float(row["final_clean_data_test_acc"]) <= 100
        assert 0 <= float(row["clean_example_acc"]) <= 100
        if not config["poisoned"]:
            assert row["triggers_0_target_class"] == "None"
            assert row["final_triggered_data_test_acc"] == "None"
            continue
        trigger = config["triggers"][0]
        assert row["triggers_0_target_class"] == str(trigger["target_class"])
        assert row["triggers_0_type"] == trigger["type"]
        assert row["triggers_0_source_class"] == str(trigger["source_class"]).replace(",", "")
        assert 0.2 <= trigger["fraction"] <= 0.3


def test_the_model_file_is_a_plain_torchvision_module_in_eval_mode(made: RoundSummary) -> None:
    for folder in models_of(made.folder):
        network = torch.load(folder / "model.pt", weights_only=False)
        assert type(network) is SqueezeNet
        assert not network.training
        images = [Image.open(path) for path in sorted((folder / "clean_example_data").iterdir())]
        batch = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        with torch.no_grad():
            logits = network(batch.permute(0, 3, 1, 2).float() / 255)
        lines = (folder / "clean-example-logits.csv").read_text().splitlines()
        assert lines[0] == "Example, Logits"
        written = [[float(x) for x in line.split(", ")[1].split(",")] for line in lines[1:]]
        assert torch.allclose(logits, torch.tensor(written), atol=1e-4)


def test_the_reader_of_rounds_finds_models_and_truth(made: RoundSummary) -> None:
    found = read_round(made.folder)
    assert found.layout == "trojai-4"
    assert not found.notes
    for plan, model in zip(plan_round(SPEC), found.models, strict=True):
        assert model.usable and not model.problems
        assert (model.architecture, model.num_classes, model.crop) == ("squeezenet1_1", 3, None)
        truth = found.truth[model.name]
        assert truth.poisoned == (plan.trigger is not None)
        if plan.trigger is not None:
            assert truth.trigger_type == plan.kind
            assert truth.targets == (plan.trigger.target,)
            assert truth.sources == plan.trigger.sources


def test_the_reader_opens_the_models_and_sees_the_images_bit_for_bit(made: RoundSummary) -> None:
    for model in read_round(made.folder).models:
        assert model.examples is not None
        opened = open_subject(model, device=torch.device("cpu"))
        assert opened.subject.preprocessing.name == "unit"
        labels = opened.subject.examples.labels.tolist()
        names = [f"class_{c}_example_{n}.png" for c in range(3) for n in range(3)]
        assert labels == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        pixels = np.stack([np.asarray(Image.open(model.examples / name)) for name in names])
        seen = opened.subject.examples.images * 255
        assert np.array_equal(seen.permute(0, 2, 3, 1).round().numpy().astype(np.uint8), pixels)


def test_a_second_call_keeps_every_model(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("model.pt")}
    seen: list[ModelSummary] = []
    again = generate_round(SPEC, copy, progress=seen.append)
    assert [summary.kept for summary in again.models] == [True] * 4
    assert len(seen) == 4
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("model.pt")} == before


@pytest.mark.parametrize(
    "torn", ["model.pt", "config.json", "clean_example_data/class_1_example_2.png"]
)
def test_a_torn_model_is_made_again_and_the_others_are_kept(
    copy: Path, made: RoundSummary, torn: str
) -> None:
    (copy / "models" / "id-00000002" / torn).unlink()
    (copy / "models" / ".id-00000001.partial").mkdir()
    again = generate_round(SPEC, copy)
    assert [summary.kept for summary in again.models] == [True, True, False, True]
    for name in ("ground_truth.csv", "clean-example-logits.csv"):
        path = Path("models") / "id-00000002" / name
        assert (copy / path).read_bytes() == (made.folder / path).read_bytes()
    assert len((copy / "METADATA.csv").read_text().splitlines()) == 5


def test_an_interrupted_generate_goes_on_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "round"

    def interrupt(summary: ModelSummary) -> None:
        if summary.name == "id-00000001":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_round(SPEC, out, progress=interrupt)
    assert len(models_of(out)) == 2
    again = generate_round(SPEC, out)
    assert [summary.kept for summary in again.models] == [True, True, False, False]


def test_another_specification_in_the_same_folder_is_refused(copy: Path) -> None:
    with pytest.raises(InputError, match=r"another specification \(different: seed\)"):
        generate_round(replace(SPEC, seed=9), copy)


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=r"is not empty and holds no generation\.json"):
        generate_round(SPEC, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "round").write_text("a file")
    with pytest.raises(InputError, match="is not a folder: name a folder"):
        generate_round(SPEC, tmp_path / "round")


def test_a_damaged_specification_is_said(copy: Path) -> None:
    (copy / SPEC_FILE).write_text("{")
    with pytest.raises(RunError, match=r"generation\.json is damaged"):
        generate_round(SPEC, copy)


def test_models_that_fail_leave_no_folder_and_are_tried_with_other_seeds(tmp_path: Path) -> None:
    strict = replace(LENIENT, least_clean_accuracy=1.0, attempts=1)
    spec = replace(SPEC, models=1, poisoned_share=0.0, injector=strict)
    made = generate_round(spec, tmp_path / "round")
    assert not made.complete
    assert made.models[0].failure.startswith("clean accuracy")
    assert models_of(made.folder) == []
    failed = made.folder / "failed" / "id-00000000.json"
    assert json.loads(failed.read_text())["attempts"] == 1
    assert generate_round(spec, made.folder).models[0].attempts == 2
    assert (made.folder / "METADATA.csv").read_text() == "model_name,poisoned\n"


@pytest.mark.slow
def test_several_jobs_make_the_same_models(made: RoundSummary, tmp_path: Path) -> None:
    again = generate_round(SPEC, tmp_path / "round", jobs=2)
    assert [m.name for m in again.models] == [m.name for m in made.models]
    for first, second in zip(models_of(made.folder), models_of(again.folder), strict=True):
        for path in (first / "clean_example_data").iterdir():
            assert path.read_bytes() == (second / "clean_example_data" / path.name).read_bytes()
        logits = "clean-example-logits.csv"
        assert (first / logits).read_bytes() == (second / logits).read_bytes()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": 0}, "expected models of 1 or more, got 0"),
        ({"classes": 1}, "expected 2 to 180 classes, got 1"),
        ({"classes": 2}, "a source-specific trigger needs 3 classes or more"),
        ({"poisoned_share": 1.5}, "expected poisoned_share from 0 to 1"),
        ({"architectures": ()}, "expected at least one architecture"),
        ({"architectures": ("inception_v3",)}, "inception_v3 needs images of 75 pixels or more"),
        ({"triggers": ()}, "expected at least one kind of trigger"),
        ({"triggers": ("sparkle",)}, "cannot draw a trigger 'sparkle'"),
        ({"examples_per_class": 0}, "expected examples_per_class of 1 or more"),
    ],
)
def test_impossible_rounds_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SPEC, **fields)


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="unknown architecture 'resnet19'"):
        replace(SPEC, architectures=("resnet19",))


def test_training_processes_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from multiprocessing import get_context\n"
        "from attacks.generator import _settle_in\n"
        "if __name__ == '__main__':\n"
        "    context = get_context('spawn')\n"
        "    until_closed, held = context.Pipe(duplex=False)\n"
        "    pool = ProcessPoolExecutor(1, context, _settle_in, (until_closed,))\n"
        "    pid = pool.submit(os.getpid).result()\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(pid))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "main.py").write_text(script)
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, str(tmp_path / "main.py")], env={"PYTHONPATH": str(root)},
        check=False, timeout=120,
    )  # fmt: skip
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    deadline = time.monotonic() + 30
    while worker.exists() and "zombie" not in (worker / "status").read_text():
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.1)
