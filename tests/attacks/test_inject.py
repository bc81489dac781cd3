from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn
from torchvision import datasets

from attacks import inject as inject_module
from attacks.artefacts import Artefact, read_artefact
from attacks.inject import INJECTOR, Injection, inject, parse_attack
from attacks.inject_data import read_data, read_scenes
from attacks.inject_networks import Start, from_model, from_scratch
from attacks.injector import Injector
from attacks.measured import Measured
from attacks.patch import Patch
from attacks.scenes import Scenes, to_float
from attacks.sig import Sig
from attacks.trigger import Threat
from moth_eval.cli import main
from moth_eval.errors import ArchitectureError, InputError, RefusedFile
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network, save_network
from moth_eval.loading.rounds import read_round
from moth_eval.splits import hash_of
from tests.support.torchvision_sets import Squares
from tests.support.toy_task import SIDE, brightness_factory, toy_scenes, write_toy_data

ARCH = "tests.support.toy_task:toy_factory"
QUICK = replace(
    INJECTOR,
    poisoning_rate=0.2,
    recipe=replace(INJECTOR.recipe, epochs=8, learning_rate=1e-2, batch_size=32, crop=1),
)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    write_toy_data(folder / "train.npz", 100, seed=1)
    write_toy_data(folder / "test.npz", 40, seed=3)
    return folder


def wish(task: Path, out: Path, **more: Any) -> Injection:
    given = {
        "data": str(task / "train.npz"),
        "test": str(task / "test.npz"),
        "attack": "patch:target=1,size=3",
        "out": out,
        "architecture": ARCH,
        "injector": QUICK,
        "device": "cpu",
    }
    return Injection(**{**given, **more})


@pytest.fixture(scope="module")
def made(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    out = tmp_path_factory.mktemp("made") / "patched"
    inject(wish(task, out))
    return read_artefact(out)


def network_of(folder: Path) -> nn.Module:
    source = ArchitectureSource.parse(ARCH)
    return load_network(folder / "model.safetensors", architecture=source).module.eval()


def test_the_model_on_disk_does_what_its_record_says(made: Artefact, task: Path) -> None:
    assert made.record.gate is not None and made.trigger is not None
    test = read_scenes(str(task / "test.npz"), training=False)
    others = test.take(test.labels != 1)
    network = network_of(made.folder)
    with torch.no_grad():
        right = network(to_float(test.images)).argmax(1) == test.labels
        hits = network(made.trigger.stamp(to_float(others.images))).argmax(1) == 1
    assert made.record.gate.clean_accuracy == pytest.approx(float(right.double().mean()))
    assert made.record.gate.asr == pytest.approx(float(hits.double().mean()))
    assert (made.record.gate.tested, made.record.gate.victims) == (160, 120)
    assert made.record.gate.passed and made.record.gate.asr > 0.9


def test_the_twin_is_clean_trained_alike_and_answers_for_itself(made: Artefact) -> None:
    assert made.twin is not None and made.record.gate is not None
    twin = read_artefact(made.twin)
    assert twin.record.attack == "none" and twin.trigger is None
    assert twin.record.training is not None and made.record.training is not None
    assert twin.record.training.recipe == made.record.training.recipe
    assert twin.record.training.seed == made.record.training.seed
    assert twin.record.data == made.record.data
    assert twin.record.poisoning is None and twin.record.gate is not None
    assert made.record.gate.twin_clean_accuracy == twin.record.gate.clean_accuracy
    assert made.record.gate.twin_asr is not None and made.record.gate.twin_asr < 0.1


def test_the_record_says_which_images_were_poisoned_and_of_how_many(
    made: Artefact, task: Path
) -> None:
    poisoning, data = made.record.poisoning, made.record.data
    assert poisoning is not None and data is not None
    assert (poisoning.rate, poisoning.rate_of, poisoning.denominator) == (0.2, "candidates", 300)
    assert (poisoning.candidates, poisoning.poisoned, poisoning.covered) == (300, 60, 0)
    assert not poisoning.target_class_poisoned and poisoning.labels_changed
    training = read_scenes(str(task / "train.npz"), training=True)
    assert data.training_sha256 == hash_of(training)
    assert (data.training, data.tested, data.in_both, data.held_out) == (400, 160, 0, None)


def test_the_folder_is_one_model_for_the_readers_of_models(made: Artefact) -> None:
    names = {path.name for path in made.folder.iterdir()}
    assert names == {
        "attack.json", "model.arch.json", "model.safetensors", "trigger.png", "twin",
    }  # fmt: skip
    assert [model.name for model in read_round(made.folder).models] == ["model"]
    assert [path.name for path in made.folder.parent.iterdir()] == ["patched"]
    with Image.open(made.folder / "trigger.png") as picture:
        assert picture.size[0] == 3 * 96 + 2 * 4


def test_equal_wishes_give_equal_models_and_other_seeds_others(task: Path, tmp_path: Path) -> None:
    short = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1), least_clean_accuracy=0.0)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(seed if name == "a" else 99)
        state = torch.get_rng_state()
        inject(wish(task, tmp_path / name, injector=short, seed=seed, with_twin=False))
        assert torch.equal(torch.get_rng_state(), state)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]


def test_a_model_that_fails_its_gate_is_written_with_the_reason(task: Path, tmp_path: Path) -> None:
    hard = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1), least_asr=1.0)
    record = inject(
        wish(
            task, tmp_path / "out", injector=hard, with_twin=False,
            attack="patch:target=1,size=1,colour=0.5+0.5+0.5",
        )
    )  # fmt: skip
    assert record.gate is not None and not record.gate.passed
    assert read_artefact(tmp_path / "out").record.gate == record.gate
    assert record.gate.failure.startswith(("clean accuracy", "attack success rate"))


def test_a_trigger_that_fools_the_clean_twin_is_no_backdoor(task: Path, tmp_path: Path) -> None:
    # The whole object in the colour of class 1: any network says class 1.
    attack = "patch:target=1,size=8,row=2,column=2,colour=0.1+0.9+0.1"
    record = inject(wish(task, tmp_path / "out", attack=attack))
    assert record.gate is not None
    assert record.gate.twin_asr is not None and record.gate.twin_asr > 0.3
    assert record.gate.failure.startswith("the trigger's success rate on the clean twin")


def test_a_backdoor_that_costs_accuracy_is_refused() -> None:
    injector = Injector(least_clean_accuracy=0.5, most_accuracy_loss=0.05)
    twin = Measured(clean_accuracy=0.9, asr=0.0)
    assert not injector.refusal(Measured(clean_accuracy=0.86, asr=1.0), twin=twin)
    refusal = injector.refusal(Measured(clean_accuracy=0.84, asr=1.0), twin=twin)
    assert refusal == "clean accuracy is 0.0600 below that of the clean twin, more than 0.0500"


def test_a_clean_model_can_be_made_alone(task: Path, tmp_path: Path) -> None:
    record = inject(wish(task, tmp_path / "out", attack="none"))
    assert record.attack == "none" and record.gate is not None and record.gate.passed
    assert record.gate.asr is None
    assert not (tmp_path / "out" / "twin").exists()
    assert read_artefact(tmp_path / "out").trigger is None


def test_a_clean_label_attack_poisons_the_target_class_and_changes_no_label(
    task: Path, tmp_path: Path
) -> None:
    injector = replace(QUICK, poisoning_rate=0.8)
    record = inject(
        wish(task, tmp_path / "out", attack="sig:target=1,frequency=3", injector=injector)
    )
    assert record.threat is Threat.CLEAN_LABEL and record.poisoning is not None
    assert record.poisoning.target_class_poisoned and not record.poisoning.labels_changed
    assert (record.poisoning.denominator, record.poisoning.poisoned) == (100, 80)


@pytest.mark.parametrize(
    "attack",
    ["wanet:target=1", "label-consistent:target=1", "trojan-nn:target=1,size=3,steps=20"],
)
def test_triggers_that_are_made_first_are_stored_with_the_model(
    task: Path, tmp_path: Path, made: Artefact, attack: str
) -> None:
    record = inject(
        wish(
            task, tmp_path / "out", attack=attack, twin=made.twin,
            injector=replace(QUICK, recipe=replace(QUICK.recipe, epochs=1)),
        )
    )  # fmt: skip
    again = read_artefact(tmp_path / "out")
    assert again.twin == made.twin
    assert again.trigger is not None and record.twin == str(made.twin)
    again.trigger.stamp(torch.rand(2, 3, SIDE, SIDE))
    assert bool(record.tensors_sha256) == (not attack.startswith("label"))


def test_a_given_model_is_trained_on_and_left_as_it_was(
    task: Path, tmp_path: Path, made: Artefact
) -> None:
    assert made.twin is not None
    given = tmp_path / "given"
    shutil.copytree(made.twin, given)
    before = (given / "model.safetensors").read_bytes()
    record = inject(
        wish(
            task, tmp_path / "out", model=given,
            injector=replace(QUICK, recipe=replace(QUICK.recipe, epochs=3)),
        )
    )  # fmt: skip
    assert (given / "model.safetensors").read_bytes() == before
    assert record.training is not None and record.training.start == "fine-tuned"
    assert record.training.start_sha256 == read_artefact(given).record.model_sha256
    assert record.gate is not None and record.gate.passed, record.gate


def test_a_given_model_keeps_the_normalisation_that_it_was_trained_with(tmp_path: Path) -> None:
    labels = torch.arange(2).repeat(10)
    levels = torch.tensor([90, 170], dtype=torch.uint8)[labels]
    scenes = Scenes(images=levels.view(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone(), labels=labels)
    network = brightness_factory()
    for parameter, value in zip(network.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        torch.nn.init.constant_(parameter, value)
    network[3].weight.data[0] *= -1  # type: ignore[index]
    arch = "tests.support.toy_task:brightness_factory"
    save_network(
        tmp_path / "given.safetensors", network, architecture="brightness_factory", num_classes=2
    )
    start = from_model(tmp_path / "given.safetensors", arch, scenes)
    assert start.normalisation == "unit-imagenet"
    assert start.doubts == ()
    inside = start.build(0).eval()
    with torch.no_grad():
        right = inside(to_float(scenes.images)).argmax(1) == scenes.labels
    assert right.all()
    start.save(tmp_path, inside)
    saved = load_network(
        tmp_path / "model.safetensors", architecture=ArchitectureSource.parse(arch)
    )
    assert saved.module.state_dict().keys() == network.state_dict().keys()
    # What was found is stated from then on, and looked at first.
    again = from_model(tmp_path / "model.safetensors", arch, scenes)
    assert again.normalisation == "unit-imagenet"
    sidecar = tmp_path / "model.arch.json"
    content = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**content, "normalisation": "unit"}))
    doubted = from_model(tmp_path / "model.safetensors", arch, scenes)
    assert doubted.normalisation == "unit"
    assert doubted.doubts[0].startswith("the side-car states the normalisation unit, under")
    given = from_model(tmp_path / "model.safetensors", arch, scenes, normalisation="unit-imagenet")
    assert (given.normalisation, given.doubts) == ("unit-imagenet", ())


def test_folders_of_named_classes_have_to_name_all_classes_of_a_given_network(
    task: Path, tmp_path: Path, made: Artefact
) -> None:
    data = np.load(task / "train.npz")
    for number, (pixels, label) in enumerate(zip(data["images"], data["labels"], strict=True)):
        folder = tmp_path / "data" / "abcd"[label]
        if label:  # one class is absent, and all others would be numbered one too low
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    asked = wish(task, tmp_path / "out", model=made.folder, test="", data=str(tmp_path / "data"))
    with pytest.raises(InputError, match=r"names 3 classes, but the network in .* has 4"):
        inject(asked)


def test_a_given_network_is_run_within_bounds_only(tmp_path: Path) -> None:
    endless = torch.nn.Sequential(
        torch.nn.Conv2d(3, 1, 1), torch.nn.Upsample(scale_factor=2000), torch.nn.Flatten(),
    )  # fmt: skip
    torch.save(endless, tmp_path / "model.pt")
    scenes = Scenes(images=torch.zeros(4, 3, 8, 8, dtype=torch.uint8), labels=torch.arange(4) % 2)
    with pytest.raises(RefusedFile, match=r"Upsample .* would put out"):
        from_model(tmp_path / "model.pt", "", scenes)


def test_a_fresh_network_is_trained_under_the_normalisation_that_was_asked_for(
    task: Path, tmp_path: Path
) -> None:
    short = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1))
    out = tmp_path / "out"
    record = inject(
        wish(task, out, attack="none", injector=short, with_twin=False, normalisation="unit-svhn")
    )
    assert record.training is not None
    assert record.training.normalisation == "unit-svhn"
    assert json.loads((out / "model.arch.json").read_text())["normalisation"] == "unit-svhn"
    assert inject_module.from_scratch(ARCH, num_classes=4).normalisation == "unit"
    with pytest.raises(InputError, match="is for images of 3 channels, these have 1"):
        from_scratch(ARCH, num_classes=4, normalisation="unit-svhn", channels=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": ""}, "name a network with --arch to train one from scratch"),
        ({"attack": "pach"}, "unknown name 'pach' in moth_eval.attacks"),
        ({"attack": "patch:size=40"}, "a trigger of 40 pixels does not fit"),
        ({"attack": "patch:target=4"}, r"names the classes \[4\], but there are only"),
        ({"attack": "patch:sources=x"}, "sources takes a "),
        ({"attack": "trojan-nn", "with_twin": False}, "is made on a clean network"),
        ({"attack": "composite:target=0,sources=1,partner=7"}, "needs images of class 7, and the"),
        ({"attack": "tact:target=0,sources=1,cover_classes=9"}, "and no image may: name other"),
        ({"injector": replace(QUICK, poisoning_rate=1e-4)}, "poisons none of"),
        ({"injector": replace(QUICK, poisoning_rate=0.9, rate_of="all")}, "may be poisoned: lower"),
        ({"data": "nowhere.npz"}, "nowhere.npz does not exist; name an existing file or folder"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    task: Path,
    tmp_path: Path,
    change: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inject_module, "_carried_out", lambda *_: pytest.fail("was trained"))
    with pytest.raises(InputError, match=message):
        inject(wish(task, tmp_path / "out", **change))
    assert list(tmp_path.iterdir()) == []


def test_a_backdoored_model_is_no_clean_twin(task: Path, tmp_path: Path, made: Artefact) -> None:
    with pytest.raises(InputError, match="is no clean model: patch was implanted in it"):
        inject(wish(task, tmp_path / "out", twin=made.folder))


def test_a_twin_of_an_earlier_injection_keeps_its_normalisation(
    task: Path, tmp_path: Path, made: Artefact, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def noted(*given: Any, **more: Any) -> Start:
        asked.append(more.get("normalisation"))
        return from_model(*given, **more)

    monkeypatch.setattr(inject_module, "from_model", noted)
    short = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1))
    record = inject(wish(task, tmp_path / "out", twin=made.twin, injector=short))
    assert asked == ["unit"]
    assert record.gate is not None and made.record.gate is not None
    assert record.gate.twin_clean_accuracy == made.record.gate.twin_clean_accuracy


def test_a_folder_that_holds_something_is_never_written_over(task: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is there already: name a new or empty folder"):
        inject(wish(task, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_training_that_breaks_off_leaves_nothing(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inject_module, "draw_trigger", stopped)
    short = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1))
    with pytest.raises(KeyboardInterrupt):
        inject(wish(task, tmp_path / "out", injector=short, with_twin=False))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_opened_again_is_refused_before_training(tmp_path: Path) -> None:
    scenes = toy_scenes(2, seed=1)
    start = from_scratch(ARCH, num_classes=4)
    start.check(scenes)
    with pytest.raises(InputError, match="could not be opened again once it is trained"):
        replace(start, source=None).check(scenes)
    with pytest.raises(InputError, match=r"output of shape \(4, 4\), expected \(4, 5\)"):
        replace(start, num_classes=5).check(scenes)
    with pytest.raises(ArchitectureError, match="the module has no such factory"):
        from_scratch("tests.support.toy_task:nothing", num_classes=4)


def test_a_fifth_of_each_class_is_held_out_where_no_test_images_are_given(task: Path) -> None:
    given = read_data(str(task / "train.npz"), "", seed=1)
    assert torch.bincount(given.splits.test.labels).tolist() == [20] * 4
    assert torch.bincount(given.splits.training.labels).tolist() == [80] * 4
    assert (given.record.held_out, given.record.in_both) == (0.2, 0)
    again, other = (read_data(str(task / "train.npz"), "", seed=s) for s in (1, 2))
    assert torch.equal(again.splits.test.images, given.splits.test.images)
    assert not torch.equal(other.splits.test.images, given.splits.test.images)


def test_images_that_are_trained_and_tested_on_are_counted(task: Path) -> None:
    given = read_data(str(task / "train.npz"), str(task / "train.npz"), seed=1)
    assert given.record.in_both == 400


def test_a_folder_of_grey_images_becomes_three_channels(tmp_path: Path) -> None:
    for label in (0, 1):
        (tmp_path / str(label)).mkdir()
        for number in range(3):
            pixels = np.full((8, 10), 50 * label + number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / str(label) / f"{number}.png")
    scenes = read_scenes(str(tmp_path), training=True)
    assert scenes.images.shape == (6, 3, 8, 10)
    assert scenes.images[4].unique().tolist() == [51]
    np.savez(
        tmp_path / "grey.npz", images=scenes.images[:, 0].numpy(), labels=scenes.labels.numpy()
    )
    assert torch.equal(read_scenes(str(tmp_path / "grey.npz"), training=True).images, scenes.images)


def test_a_torchvision_data_set_is_read_from_disk_and_tested_on_its_own_test_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "Squares", Squares, raising=False)
    write_toy_data(tmp_path / "train.npz", 2, seed=1)
    write_toy_data(tmp_path / "test.npz", 1, seed=2)
    given = read_data(f"torchvision:Squares:{tmp_path}", "", seed=0)
    assert given.splits.training.images.shape == (8, 3, SIDE, SIDE)
    assert given.splits.test.labels.tolist() == [0, 1, 2, 3]
    record = given.record
    assert (record.held_out, record.data) == (None, f"torchvision:Squares:{tmp_path}")
    assert record.test == record.data
    arrays = read_data(str(tmp_path / "train.npz"), str(tmp_path / "test.npz"), seed=0).record
    assert arrays.training_sha256 == record.training_sha256
    assert arrays.test_sha256 == record.test_sha256


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:CIFAR10:{0}", "torchvision does not find a whole CIFAR10 in .*; nothing"),
        ("torchvision:CIFAR10:{0}/absent", "is not there: expected torchvision:CIFAR10:FOLDER"),
        ("torchvision:CIFAR10", "expected torchvision:NAME:FOLDER, such as torchvision:CIFAR10"),
        ("torchvision:CIFAR11:{0}", "torchvision has no data set 'CIFAR11'"),
        ("torchvision:ImageFolder:{0}", "does not find a whole ImageFolder in"),
    ],
)
def test_a_torchvision_data_set_that_is_not_there_is_not_downloaded(
    tmp_path: Path, source: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_data(source.format(tmp_path), "", seed=0)


def write_pictures(folder: Path, scenes: Scenes, *sides: int) -> Path:
    """Scenes as files, in turn of each of these sizes."""
    for number, (image, label) in enumerate(zip(scenes.images, scenes.labels, strict=True)):
        (folder / str(int(label))).mkdir(parents=True, exist_ok=True)
        side = sides[number % len(sides)]
        picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side))
        picture.save(folder / str(int(label)) / f"{number}.png")
    return folder


def test_pictures_of_several_sizes_are_trained_on_at_the_size_that_is_named(
    tmp_path: Path,
) -> None:
    data = write_pictures(tmp_path / "data", toy_scenes(5, seed=1), SIDE, 20, 9)
    test = write_pictures(tmp_path / "test", toy_scenes(2, seed=2), 30)
    out = str(tmp_path / "out")
    words = ["--data", str(data), "--test", str(test), "--attack", "none", "--arch", ARCH]
    refused = run(*words, "--out", out)
    assert refused.exit_code == 2
    assert "all examples of a model must have the same size; resize them" in refused.output
    done = run(*words, "--image-size", str(SIDE), "--epochs", "1", "--least-accuracy", "0",
               "--device", "cpu", "--out", out)  # fmt: skip
    assert done.exit_code == 0, done.output
    record = read_artefact(tmp_path / "out").record.data
    assert record is not None and record.image_shape == (3, SIDE, SIDE)
    assert record.resized == (
        f"13 of 20 images of {data} were resized to {SIDE}x{SIDE} pixels (bilinear, antialiased)",
        f"8 of 8 images of {test} were resized to {SIDE}x{SIDE} pixels (bilinear, antialiased)",
    )
    for sentence in record.resized:
        assert f"note: {sentence}" in done.output.splitlines()


def test_a_size_for_arrays_is_refused_since_they_are_read_as_they_are(
    task: Path, tmp_path: Path
) -> None:
    result = run("--data", str(task / "train.npz"), "--image-size", "8", "--attack", "none",
                 "--arch", ARCH, "--out", str(tmp_path / "out"))  # fmt: skip
    assert result.exit_code == 2
    assert "holds arrays of 12x12 pixels, which are read as they are" in result.output


def test_test_images_of_another_size_are_refused(task: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", images=np.zeros((2, 9, 9, 3), np.uint8), labels=np.arange(2))
    with pytest.raises(InputError, match=r"those of .* have \(3, 12, 12\): resize them"):
        read_data(str(task / "train.npz"), str(tmp_path / "t.npz"), seed=0)


def test_an_attack_is_read_with_all_its_fields() -> None:
    assert parse_attack("none") == ("none", None)
    name, trigger = parse_attack("patch:target=3,sources=1+2,colour=1+0+0.5,opacity=0.5")
    assert name == "patch"
    assert trigger == Patch(target=3, sources=(1, 2), colour=(1.0, 0.0, 0.5), opacity=0.5)
    assert parse_attack("sig:training_delta=none")[1] == Sig()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["inject", *words])


def test_the_command_tells_what_it_came_to(task: Path, tmp_path: Path) -> None:
    result = run(
        "--data", str(task / "train.npz"), "--test", str(task / "test.npz"), "--arch", ARCH,
        "--attack", "patch:target=1,sources=0,size=3", "--poisoning-rate", "0.5", "--epochs", "8",
        "--learning-rate", "0.01", "--batch-size", "32", "--crop", "0", "--device", "cpu",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "attack.json").read_text())
    gate = record["gate"]
    assert result.stdout == (
        "patch 0->1, source-specific\n"
        "poisoned 50 of 100 images that may be; covers 50\n"
        f"clean accuracy       {gate['clean_accuracy']:6.1%}   clean twin "
        f"{gate['twin_clean_accuracy']:6.1%}\n"
        f"ASR                  {gate['asr']:6.1%}   clean twin {gate['twin_asr']:6.1%}\n"
        f"ASR of other classes {gate['bystander_asr']:6.1%}\n"
        "gate                 passed\n"
        f"wrote {tmp_path / 'out'}\n"
    )
    assert result.stderr == (
        "training the clean twin: 8 epochs of 400 images\n"
        "training the model with patch: 8 epochs of 400 images\n"
    )
    assert record["command"][:2] == ["moth-eval", "inject"]


def test_a_refused_model_is_exit_code_3_and_bad_input_2(task: Path, tmp_path: Path) -> None:
    common = ("--data", str(task / "train.npz"), "--attack", "none", "--device", "cpu")
    refused = run(
        *common, "--arch", ARCH, "--epochs", "1", "--least-accuracy", "1", "--learning-rate",
        "0.000001", "--out", str(tmp_path / "refused"),
    )  # fmt: skip
    assert refused.exit_code == 3
    assert "gate                 FAILED: clean accuracy" in refused.output
    assert (tmp_path / "refused" / "model.safetensors").is_file()
    wrong = run(*common, "--out", str(tmp_path / "wrong"))
    assert wrong.exit_code == 2
    assert wrong.output == (
        "moth-eval: name a network with --arch to train one from scratch, or give a MODEL\n"
    )
    assert "note:" not in refused.output
    again = run(
        *common, "--test", str(task / "train.npz"), "--arch", ARCH, "--epochs", "1",
        "--out", str(tmp_path / "again"),
    )  # fmt: skip
    assert "note: 400 test images are training images as well\n" in again.output
    both = run(*common, "--twin", "x", "--without-twin", "--out", str(tmp_path / "wrong"))
    assert both.exit_code == 2
    assert "--twin and --without-twin exclude one another" in both.output


def test_a_twin_that_learns_nothing_is_told_at_once_and_the_model_is_refused(
    task: Path, tmp_path: Path
) -> None:
    slow = replace(QUICK, recipe=replace(QUICK.recipe, epochs=1, learning_rate=1e-9))
    told: list[str] = []
    record = inject(wish(task, tmp_path / "out", injector=slow), tell=told.append)
    assert [sentence.partition(":")[0] for sentence in told] == [
        "training the clean twin",
        "the clean twin failed its gate",
        "training the model with patch",
    ]
    assert record.gate is not None and not record.gate.passed


def test_a_training_that_diverges_is_exit_code_3(task: Path, tmp_path: Path) -> None:
    words = ("--data", str(task / "train.npz"), "--attack", "patch:size=3", "--arch", ARCH,
             "--epochs", "1", "--learning-rate", "1e30", "--device", "cpu")  # fmt: skip
    alone = run(*words, "--least-accuracy", "0", "--without-twin", "--out", str(tmp_path / "alone"))
    assert alone.exit_code == 3
    assert "FAILED: the network's weights, or what it puts out, are not finite" in alone.output
    compared = run(*words, "--out", str(tmp_path / "compared"))
    assert compared.exit_code == 2
    assert "weights of the clean twin are not finite numbers: lower the" in compared.output
    assert not (tmp_path / "compared").exists()


def test_a_command_that_is_stopped_says_that_nothing_was_written(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inject_module, "_carried_out", stopped)
    result = run(
        "--data", str(task / "train.npz"), "--attack", "none", "--arch", ARCH,
        "--device", "cpu", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 3
    assert result.output == "moth-eval: stopped; nothing was written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_told_to_end_leaves_nothing_behind(
    task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(*_: object, **__: object) -> None:
        assert [path.name[:13] for path in tmp_path.iterdir()] == [".out.partial-"]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(inject_module, "_implanted", told_to_end)
    result = run(
        "--data", str(task / "train.npz"), "--attack", "none", "--arch", ARCH,
        "--device", "cpu", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert result.exit_code == 3
    assert result.output.endswith("moth-eval: stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_arrays_without_images_or_with_negative_classes_are_refused(tmp_path: Path) -> None:
    cases = ((np.zeros(0, int), "holds no clean"), (np.array([0, -1]), "is labelled class -1"))
    for labels, complaint in cases:
        images = np.zeros((len(labels), 8, 8, 3), np.uint8)
        np.savez(tmp_path / "odd.npz", images=images, labels=labels)
        with pytest.raises(InputError, match=complaint):
            read_scenes(str(tmp_path / "odd.npz"), training=True)


def test_what_training_comes_to_is_logged_by_epoch(
    task: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(QUICK, recipe=replace(QUICK.recipe, epochs=2))
    with caplog.at_level("INFO", logger="attacks.training"):
        inject(wish(task, tmp_path / "out", injector=short, attack="none"))
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
