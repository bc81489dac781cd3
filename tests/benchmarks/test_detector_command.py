from __future__ import annotations

import json
import math
import os
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from benchmarks import detector
from benchmarks.detector import _placed
from benchmarks.detector_settings import Metaparameters, read_learned, schema, write_learned
from benchmarks.mitigation import labelled_subject
from benchmarks.trojai import Plan, TrojaiStudy
from moth_eval.cli import main
from moth_eval.errors import InputError, RefusedFile
from moth_eval.loading.architectures import ArchitectureSource, build_torchvision
from moth_eval.loading.files import load_network
from moth_eval.loading.rounds import read_round
from moth_eval.loading.subjects import open_subject
from moth_eval.platt import Logistic
from moth_eval.plugins import build, resolve
from moth_eval.records import RESULT_VERSION, SCORES_SINCE, ScanRecord
from moth_eval.runner import run_scan
from moth_eval.scan import Scanner
from scanners import ENTRY_POINTS, SCANNERS
from tests.support.subjects import prototype_subject, write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
FAST = {"infer_scanner": "nc:max_images=30"}


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["detector", *map(str, words)])


def write_images(folder: Path, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Images as the rounds up to 4 name them."""
    folder.mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"class_{label}_example_{number}.png")


@pytest.fixture
def active(tmp_path: Path) -> Path:
    """An anonymous folder as the server of the rounds makes it: a model and its examples."""
    folder = tmp_path / "active"
    subject = prototype_subject(target=2, seed=1)
    write_images(folder / "example_data", subject.examples.images, subject.examples.labels)
    torch.save(subject.module.state_dict(), folder / "model.pt")
    return folder


def settings(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "metaparameters.json"
    path.write_text(json.dumps({**FAST, **values}))
    return path


def infer(active: Path, tmp_path: Path, *more: object, **values: object) -> Result:
    return call(
        *more, "--model_filepath", active / "model.pt", "--result_filepath",
        tmp_path / "result.txt", "--scratch_dirpath", tmp_path / "scratch", "--examples_dirpath",
        active / "example_data", "--metaparameters_filepath", settings(tmp_path, **values),
        "--arch", ARCH, "--device", "cpu",
    )  # fmt: skip


def test_the_contract_gives_the_score_of_the_library_call(active: Path, tmp_path: Path) -> None:
    result = infer(active, tmp_path, "--features_filepath", tmp_path / "new" / "features.csv")
    assert result.exit_code == 0, result.output
    [found] = read_round(active / "model.pt", examples=active / "example_data").models
    subject = open_subject(
        found, architecture=ArchitectureSource.parse(ARCH), device=torch.device("cpu")
    ).subject
    scanner = build(resolve("nc", SCANNERS, ENTRY_POINTS), {"max_images": 30})
    assert isinstance(scanner, Scanner)
    score = run_scan(scanner, subject, name="nc", seed=0).score
    assert score is not None
    by_contract = float(
        (tmp_path / "new" / "features.csv").read_text().splitlines()[1].split(",")[0]
    )
    assert by_contract == pytest.approx(score, rel=1e-3)
    # Published cut 2, slope 1, and nothing closer to 0 or 1 than 0.01.
    expected = min(max(1 / (1 + math.exp(2 - by_contract)), 0.01), 0.99)
    text = (tmp_path / "result.txt").read_text()
    assert text == f"{expected:.6f}\n"
    assert float(text) == pytest.approx(expected, abs=1e-6)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("infer",)])
def test_older_rounds_name_no_mode(mode: tuple[str, ...], active: Path, tmp_path: Path) -> None:
    more = (
        "--round_training_dataset_dirpath",
        "/r",
        "--schema_filepath",
        "/s",
        "--learned_parameters_dirpath",
        "/l",
    )
    result = infer(active, tmp_path, *mode, *more)
    assert result.exit_code == 0, result.output
    assert 0.01 <= float((tmp_path / "result.txt").read_text()) <= 0.99


def test_images_may_lie_in_a_folder_per_class(active: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for path in (active / "example_data").glob("class_*_example_*.png"):
        label = path.name.split("_")[1]
        (images / label).mkdir(parents=True, exist_ok=True)
        path.rename(images / label / path.name)
    words = [
        "--model_filepath", active / "model.pt", "--result_filepath", tmp_path / "result.txt",
        "--scratch_dirpath", tmp_path / "scratch", "--examples_dirpath", images,
        "--metaparameters_filepath", settings(tmp_path), "--arch", ARCH, "--device", "cpu",
    ]  # fmt: skip
    result = call(*words)
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_images_that_lie_elsewhere_give_the_same_score(active: Path, tmp_path: Path) -> None:
    beside = infer(active, tmp_path)
    (active / "example_data").rename(tmp_path / "example_data")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "example_data").rename(tmp_path / "elsewhere" / "example_data")
    words = [
        "--model_filepath", active / "model.pt", "--result_filepath", tmp_path / "second.txt",
        "--scratch_dirpath", tmp_path / "scratch", "--examples_dirpath",
        tmp_path / "elsewhere" / "example_data", "--metaparameters_filepath", settings(tmp_path),
        "--arch", ARCH, "--device", "cpu",
    ]  # fmt: skip
    apart = call(*words)
    assert beside.exit_code == apart.exit_code == 0, apart.output
    assert (tmp_path / "second.txt").read_text() == (tmp_path / "result.txt").read_text()
    assert list((tmp_path / "scratch").iterdir()) == []


def elsewhere(folder: Path) -> tuple[Path, Path]:
    """A model, and a folder of images that does not lie with it."""
    images = folder / "elsewhere" / "example_data"
    for place in (images, images / "3"):
        place.mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(place / "class_0_example_0.png")
    (images / "class_0_example_0.json").write_text("0")
    (images / "notes.txt").write_text("not an image")
    torch.save({"weight": torch.ones(2)}, folder / "net.pt")
    return folder / "net.pt", images


def test_images_are_copied_beside_the_model_and_nothing_else_is(tmp_path: Path) -> None:
    model, images = elsewhere(tmp_path)
    placed = _placed(model, images, tmp_path / "active")
    assert placed.read_bytes() == model.read_bytes()
    found = {path.relative_to(placed.parent).as_posix() for path in placed.parent.rglob("*")}
    assert found == {
        "model.pt", "example_data", "example_data/3", "example_data/class_0_example_0.png",
        "example_data/class_0_example_0.json", "example_data/3/class_0_example_0.png",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "large", "model"])
def test_what_is_no_image_of_the_folder_is_not_copied(kind: str, tmp_path: Path) -> None:
    model, images = elsewhere(tmp_path)
    odd, secret = images / "class_1_example_0.png", tmp_path / "secret"
    secret.mkdir()
    (secret / "key.png").write_text("mine")
    if kind == "link":
        odd.symlink_to(secret / "key.png")
    elif kind == "folder":
        (images / "7").symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        with (model if kind == "model" else odd).open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises((InputError, RefusedFile), match=r"copy the file|larger than|file claims"):
        _placed(model, images, tmp_path / "active")
    assert not list((tmp_path / "active").rglob("key.png"))


def test_a_model_that_cannot_be_read_gets_one_half_and_says_why(
    active: Path, tmp_path: Path
) -> None:
    (active / "model.pt").write_bytes(b"no model")
    result = infer(active, tmp_path)
    assert result.exit_code == 3
    assert "no score (" in result.output
    assert (tmp_path / "result.txt").read_text() == "0.500000\n"


SIZE = "nc:max_images=30,statistic=size"


def test_a_scanner_without_a_cut_is_refused_before_anything_is_scanned(
    active: Path, tmp_path: Path
) -> None:
    without = infer(active, tmp_path, infer_scanner=SIZE)
    assert without.exit_code == 2
    assert f"scanner {SIZE!r} has no cut: statistic=size compares models" in without.output
    assert "set infer_centre in the metaparameters, or learn the curve" in without.output
    assert not (tmp_path / "result.txt").exists()
    assert not (tmp_path / "scratch").exists()


def test_a_score_without_a_cut_gets_one_half_and_says_why(
    active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a plug-in that does not say beforehand whether it has one."""
    scored = ScanRecord(
        key="k", model="model", scanner="own", sha256="s", status="scored", score=1.5
    )
    monkeypatch.setattr("benchmarks.detector._scanned", lambda *_: (scored,))
    result = infer(active, tmp_path)
    assert result.exit_code == 3
    assert "score 1.5, and no cut to put one half at: set infer_centre" in result.output
    assert (tmp_path / "result.txt").read_text() == "0.500000\n"


@pytest.mark.slow
def test_a_centre_takes_the_place_of_a_cut(active: Path, tmp_path: Path) -> None:
    given = infer(active, tmp_path, infer_scanner=SIZE, infer_centre=2.5, infer_slope=3.0)
    assert given.exit_code == 0, given.output


@pytest.mark.slow
def test_configure_learns_the_curve_from_labelled_models(active: Path, tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models")
    learned = tmp_path / "learned"
    for mode in (("configure",), ("--configure_mode",)):
        result = call(
            *mode, "--configure_models_dirpath", tmp_path / "models",
            "--learned_parameters_dirpath", learned, "--scratch_dirpath", tmp_path / mode[0],
            "--metaparameters_filepath", settings(tmp_path), "--arch", ARCH, "--device", "cpu",
            "--automatic_configuration",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "from 4 models" in result.output
    assert json.loads((learned / "metaparameters.json").read_text())["infer_scanner"] == (
        "nc:max_images=30"
    )
    stated = infer(active, tmp_path)
    before = float((tmp_path / "result.txt").read_text())
    taught = infer(active, tmp_path, "--learned_parameters_dirpath", learned)
    assert stated.exit_code == taught.exit_code == 0
    curve = json.loads((learned / "probability.json").read_text())
    assert curve["slope"] > 0
    assert float((tmp_path / "result.txt").read_text()) != before


def test_a_curve_of_another_scanner_is_refused(tmp_path: Path) -> None:
    learned = Metaparameters(infer_scanner="nc")
    write_learned(tmp_path, Logistic(slope=1.0, intercept=0.0), learned)
    assert read_learned(tmp_path, "nc") == Logistic(slope=1.0, intercept=0.0)
    with pytest.raises(InputError, match=r"learned with infer_scanner nc, .* name pixel"):
        read_learned(tmp_path, "pixel")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"slope": math.nan}, "holds no finite slope, at least 0, and intercept"),
        ({"intercept": math.inf}, "holds no finite slope, at least 0, and intercept"),
        ({"slope": -1.0}, "holds no finite slope, at least 0, and intercept"),
        ({"slope": None}, "holds no finite slope, at least 0, and intercept"),
        ({"result_version": SCORES_SINCE - 1}, "scores cannot be compared; run configure again"),
        ({"result_version": RESULT_VERSION + 1}, "scores cannot be compared; run configure again"),
        ({"result_version": 0}, "is of scanners of result version unknown, these are of version"),
        ({"scanner": {"method": "nc", "cut": 9}}, "was learned with another cut, "),
    ],
)
def test_a_curve_that_today_s_scores_do_not_fit_is_refused(
    values: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_learned(tmp_path, Logistic(slope=1.0, intercept=0.0), Metaparameters())
    path = tmp_path / "probability.json"
    written = json.loads(path.read_text())
    assert written["result_version"] == RESULT_VERSION
    assert written["scanner"]["method"] == "nc"
    path.write_text(json.dumps({**written, **values}))
    with pytest.raises(InputError, match=message):
        read_learned(tmp_path, "nc")


def test_a_curve_of_a_version_that_did_not_say_what_it_is_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "probability.json").write_text('{"slope": 1.0, "intercept": 0.5}')
    with pytest.raises(InputError, match=r"result version unknown, .*; run configure again"):
        read_learned(tmp_path, "nc")


def test_images_that_are_not_the_models_are_told_beside_the_result(
    active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = ScanRecord(
        key="k", model="model", scanner="nc", sha256="s", status="scored", score=1.5, num_classes=5,
        clean_accuracy=0.25, examples=60, doubts=("no example of class 4",), reason="1 of 5 missed",
    )  # fmt: skip
    monkeypatch.setattr("benchmarks.detector._scanned", lambda *_: (scored,))
    result = infer(active, tmp_path, infer_centre=2.0)
    assert result.exit_code == 0, result.output
    told = result.stderr.splitlines()
    assert told[0] == "25.0% of 60 images classified rightly"
    assert told[1].startswith("doubt: only 25 % of the clean examples are classified rightly, so")
    assert told[2:] == [
        "doubt: 25 % of the clean examples are classified rightly", "doubt: no example of class 4",
        "doubt: the scanner remarks: 1 of 5 missed", "score 1.5, probability 0.377541",
    ]  # fmt: skip
    assert (tmp_path / "result.txt").read_text() == "0.377541\n"


@pytest.mark.parametrize(("error", "left"), [(InputError, []), (KeyboardInterrupt, ["configure"])])
def test_a_configure_that_fails_leaves_nothing_and_one_that_is_stopped_its_scans(
    error: type[BaseException], left: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error("no more")

    monkeypatch.setattr(detector, "carry_out", fails)
    write_prototype_round(tmp_path / "models", models=1)
    scratch = tmp_path / "scratch"
    with pytest.raises(error):
        detector.configure(
            tmp_path / "models", tmp_path / "learned", scratch, Metaparameters(), architecture=ARCH
        )
    assert [path.name for path in scratch.iterdir()] == left


@pytest.mark.slow
def test_too_few_labelled_models_teach_nothing(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=2)
    result = call(
        "configure", "--configure_models_dirpath", tmp_path / "models",
        "--learned_parameters_dirpath", tmp_path / "learned", "--scratch_dirpath",
        tmp_path / "scratch", "--metaparameters_filepath", settings(tmp_path), "--arch", ARCH,
        "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "two scored models of either kind with known truth, got 1 clean and 1 poi" in (
        result.output
    )
    assert not (tmp_path / "learned").exists()
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"infer_scaner": "nc"}, "infer_scaner: Extra inputs"),
        ({"infer_slope": 0}, "infer_slope: "),
        ({"infer_scanner": "nc:speed=1"}, "scanner 'nc' has no parameter 'speed'"),
    ],
)
def test_wrong_metaparameters_are_named(
    values: dict[str, object], message: str, active: Path, tmp_path: Path
) -> None:
    result = infer(active, tmp_path, **values)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "result.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("infer",), "detector infer: expected --model_filepath, got nothing"),
        (("infer", "--model_filepath", "m.pt"), "expected --result_filepath"),
        (("mitigate", "--model_filepath", "m.pt"), "expected --dataset_dirpath"),
        (("configure",), "expected --configure_models_dirpath"),
        (("metaparameters",), "expected --output_dirpath"),
    ],
)
def test_what_is_missing_is_named(words: tuple[str, ...], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.output


def test_the_metaparameters_fit_their_schema_and_the_schema_the_contract(tmp_path: Path) -> None:
    result = call("metaparameters", "--output_dirpath", tmp_path)
    assert result.exit_code == 0, result.output
    made = json.loads((tmp_path / "metaparameters_schema.json").read_text())
    assert made == schema()
    jsonschema.Draft7Validator.check_schema(made)
    described = {name: value["description"] for name, value in made["properties"].items()}
    assert described["infer_least"] == "No probability is closer to 0 or 1 than this."
    assert described["infer_slope"] == "Of the logistic curve, per unit of score."
    assert all(text.endswith(".") for text in described.values())
    values = json.loads((tmp_path / "metaparameters.json").read_text())
    jsonschema.validate(values, made, cls=jsonschema.Draft7Validator)
    assert set(values) == set(made["properties"]) == set(made["required"])
    assert made["additionalProperties"] is False
    for name, one in made["properties"].items():
        kinds = one["type"] if isinstance(one["type"], list) else [one["type"]]
        if "string" in kinds:
            assert one["enum"], name
        if {"integer", "number"} & set(kinds):
            assert one["minimum"] < one["maximum"], name
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, "other": 1}, made, cls=jsonschema.Draft7Validator)
    assert Metaparameters.model_validate(values) == Metaparameters()


def write_mitigation_data(folder: Path, side: int = 32, each: int = 6) -> Path:
    """Images of two classes as round 11 and later have them."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(2 * each):
        pixels = generator.integers(0, 90, (side, side, 3)) + 140 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.json").write_text(json.dumps({"clean_label": number % 2}))
    return folder


def test_a_mitigated_model_is_written_whole_and_answers_the_test(tmp_path: Path) -> None:
    network = write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data")
    result = call(
        "mitigate", "--model_filepath", tmp_path / "model.pt", "--dataset", data,
        "--output_dirpath", tmp_path / "out", "--scratch_dirpath", tmp_path, "--batch_size", 32,
        "--num_workers", 1, "--device", "cpu", "--metaparameters_filepath",
        settings(tmp_path, mitigate_method="fine-tuning:epochs=1,batch=4"),
        "--round_training_dataset_dirpath", tmp_path,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    mitigated = load_network(tmp_path / "out" / "mitigated.pt")
    assert mitigated.format == "whole-module"
    before, after = network.state_dict(), mitigated.module.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for label in data.glob("*.json"):  # the test shows no labels
        label.unlink()
    tested = call(
        "test", "--model_filepath", tmp_path / "out" / "mitigated.pt", "--dataset_dirpath", data,
        "--output_dirpath", tmp_path / "results", "--device", "cpu",
    )  # fmt: skip
    assert tested.exit_code == 0, tested.output
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    assert set(found) == {f"{number}.png" for number in range(12)}
    pixels = torch.from_numpy(np.array(Image.open(data / "3.png"))).permute(2, 0, 1)
    expected = mitigated.module.eval()(pixels[None].float() / 255)[0].tolist()
    assert found["3.png"] == pytest.approx(expected, rel=1e-4, abs=1e-4)


def write_net(folder: Path, *, seed: int = 0) -> nn.Module:
    """A whole module of two classes, as rounds 11 and later have them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_torchvision("resnet18", num_classes=2).eval()
    torch.save(network, folder / "model.pt")
    return network


def mitigated(tmp_path: Path, data: Path, **values: object) -> Result:
    return call(
        "mitigate", "--model_filepath", tmp_path / "model.pt", "--dataset", data,
        "--output_dirpath", tmp_path / "out", "--device", "cpu", "--metaparameters_filepath",
        settings(tmp_path, **values),
    )  # fmt: skip


def logits_in(folder: Path, data: Path) -> Result:
    """The logits of the folder's model on these images, left in the folder."""
    return call(
        "test", "--model_filepath", folder / "model.pt", "--dataset", data, "--output_dirpath",
        folder, "--device", "cpu",
    )  # fmt: skip


def changed(network: nn.Module, tmp_path: Path) -> set[str]:
    """Names of the weights in which the mitigated model differs."""
    after = load_network(tmp_path / "out" / "mitigated.pt").module.state_dict()
    before = network.state_dict()
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_one_image_is_enough_for_a_mitigated_model(tmp_path: Path) -> None:
    """The mitigation round gives one clean example, of which MOTH makes nothing."""
    network = write_net(tmp_path)
    with torch.no_grad():  # one channel of one layer can change far more than all others
        network.layer1[0].conv1.weight[3] *= 50
    torch.save(network, tmp_path / "model.pt")
    data = write_mitigation_data(tmp_path / "data", each=1)
    for path in data.glob("1.*"):
        path.unlink()
    result = mitigated(tmp_path, data)
    assert result.exit_code == 0, result.output
    out = tmp_path / "out" / "mitigated.pt"
    assert f"wrote {out}: hardened with clp, as moth-removal left none\n" in result.output
    assert (
        "moth-removal leaves no model (model: expected images of at least two classes to harden "
        "with, got 1): clp takes its place"
    ) in result.output
    assert {"layer1.0.bn1.weight"} <= changed(network, tmp_path)
    assert all(".bn" in name or "downsample" in name for name in changed(network, tmp_path))


@pytest.mark.parametrize("hidden", ["absent", "minus one", "no class of the model"])
def test_labels_that_are_not_told_are_the_models_own_answers(hidden: str, tmp_path: Path) -> None:
    network = write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data", each=3)
    for label in data.glob("*.json"):
        if hidden == "absent":
            label.unlink()
        else:
            label.write_text("-1" if hidden == "minus one" else "7")
    method = "fine-tuning:epochs=1,batch=2"
    result = mitigated(tmp_path, data, mitigate_method=method)
    assert result.exit_code == 0, result.output
    assert "6 of 6 images have no label of the model's 2 classes: its own answers are" in (
        result.output
    )
    assert ("labels cannot be read: no labelled images in" in result.output) == (hidden == "absent")
    assert f"mitigated.pt: hardened with {method}\n" in result.output
    assert changed(network, tmp_path)


def test_labels_that_are_told_are_kept_and_the_others_are_answers(tmp_path: Path) -> None:
    network = write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data", each=2)
    for number, label in enumerate((1, -1, 0, 2)):
        (data / f"{number}.json").write_text(str(label))
    notes = list[str]()
    subject = labelled_subject(tmp_path / "model.pt", data, None, torch.device("cpu"), notes)
    images = [np.array(Image.open(data / f"{n}.png")) for n in range(4)]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        answers = network(stacked).argmax(1).tolist()
    found = {
        tuple(image.flatten().tolist()): label
        for image, label in zip(
            subject.examples.images, subject.examples.labels.tolist(), strict=True
        )
    }
    labels = [found[tuple(image.flatten().tolist())] for image in stacked]
    assert labels == [1, answers[1], 0, answers[3]]
    assert notes == [
        "2 of 4 images have no label of the model's 2 classes: its own answers are taken for "
        "their labels"
    ]


def test_a_model_without_channels_to_prune_is_written_as_it_was(tmp_path: Path) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)).eval()
    torch.save(plain, tmp_path / "model.pt")
    data = write_mitigation_data(tmp_path / "data", each=1)
    (data / "1.png").unlink()
    result = mitigated(tmp_path, data)
    assert result.exit_code == 0, result.output
    assert (
        "wrote " in result.output
        and "the original model, as moth-removal left none" in result.output
    )
    assert "clp leaves no model (no convolution feeds a BatchNorm" in result.output
    assert "): the model is written as it was" in result.output
    assert changed(plain, tmp_path) == set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no labelled images in"),
        ({"0.png": b"no picture"}, "cannot be read as an image"),
    ],
)
def test_images_that_cannot_be_used_leave_the_model_as_it_was(
    content: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    network = write_net(tmp_path)
    (tmp_path / "data").mkdir()
    for name, raw in content.items():
        (tmp_path / "data" / name).write_bytes(raw)
    result = mitigated(tmp_path, tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert "the clean images cannot be used (" in result.output
    assert message in result.output
    assert "mitigated.pt: the original model, as moth-removal left none" in result.output
    assert changed(network, tmp_path) == set()


def test_weights_whose_network_a_config_names_are_written_and_answer_whatever_the_images(
    tmp_path: Path,
) -> None:
    network = write_net(tmp_path)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    (tmp_path / "config.json").write_text('{"MODEL_ARCHITECTURE": "resnet18", "NUMBER_CLASSES": 2}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "0.png").write_bytes(b"no picture")
    result = mitigated(tmp_path, tmp_path / "data")
    assert result.exit_code == 0, result.output
    assert changed(network, tmp_path) == set()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mitigated.pt"]
    data = write_mitigation_data(tmp_path / "good", each=1)
    tested = call(
        "test", "--model_filepath", tmp_path / "model.pt", "--dataset_dirpath", data,
        "--output_dirpath", tmp_path / "results", "--device", "cpu",
    )  # fmt: skip
    assert tested.exit_code == 0, tested.output


def test_a_label_beyond_all_bounds_is_none(tmp_path: Path) -> None:
    write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data", each=2)
    (data / "0.json").write_text("1" + "0" * 30)
    result = mitigated(tmp_path, data, mitigate_method="fine-tuning:epochs=1,batch=2")
    assert result.exit_code == 0, result.output
    assert "1 of 4 images have no label of the model's 2 classes" in result.output


def test_images_that_links_lead_to_are_not_used(tmp_path: Path) -> None:
    network = write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data", each=1)
    (tmp_path / "outside.png").write_bytes((data / "0.png").read_bytes())
    for path in data.iterdir():
        path.unlink()
    (data / "0.png").symlink_to(tmp_path / "outside.png")
    result = mitigated(tmp_path, data)
    assert result.exit_code == 0, result.output
    assert "the clean images cannot be used (" in result.output
    assert changed(network, tmp_path) == set()


def test_a_network_that_would_take_all_memory_is_not_run(tmp_path: Path) -> None:
    endless = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.Upsample(scale_factor=400), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(1, 2),
    )  # fmt: skip
    torch.save(endless.eval(), tmp_path / "model.pt")
    data = write_mitigation_data(tmp_path / "data", each=1)
    result = logits_in(tmp_path, data)
    assert result.exit_code == 2, result.output
    assert "Upsample" in result.output and "would put out" in result.output


def test_without_a_model_or_a_dataset_nothing_is_written(tmp_path: Path) -> None:
    data = write_mitigation_data(tmp_path / "data", each=1)
    (tmp_path / "model.pt").write_bytes(b"no model")
    refused = mitigated(tmp_path, data)
    assert refused.exit_code == 2
    write_net(tmp_path)
    absent = mitigated(tmp_path, tmp_path / "nowhere")
    assert absent.exit_code == 2
    assert "nowhere is not there: expected clean images (--dataset_dirpath)" in absent.output
    assert not (tmp_path / "out").exists()


def test_a_given_normalisation_counts_in_mitigation_and_its_test(tmp_path: Path) -> None:
    network = write_net(tmp_path)
    data = write_mitigation_data(tmp_path / "data", each=2)
    subjects = [
        labelled_subject(
            tmp_path / "model.pt", data, None, torch.device("cpu"), [], normalisation=name
        )
        for name in ("", "unit-half")
    ]
    assert [one.preprocessing.mean for one in subjects] == [None, (0.5,)]
    tested = call(
        "test", "--model_filepath", tmp_path / "model.pt", "--dataset_dirpath", data,
        "--output_dirpath", tmp_path / "results", "--device", "cpu", "--normalisation", "0.5/0.5",
    )  # fmt: skip
    assert tested.exit_code == 0, tested.output
    found = json.loads((tmp_path / "results" / "results.json").read_text())
    pixels = torch.from_numpy(np.array(Image.open(data / "3.png"))).permute(2, 0, 1)
    with torch.no_grad():
        expected = network(pixels[None].float() / 127.5 - 1)[0].tolist()
    assert found["3.png"] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_a_given_normalisation_counts_in_scans_of_the_contract(
    active: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def noted(study: TrojaiStudy) -> Plan:
        asked.append(study.normalisation)
        raise InputError("looked at")

    monkeypatch.setattr(detector, "plan", noted)
    infer(active, tmp_path, "--normalisation", "minmax")
    call(
        "configure", "--configure_models_dirpath", tmp_path, "--learned_parameters_dirpath",
        tmp_path, "--scratch_dirpath", tmp_path / "scratch", "--normalisation", "unit-svhn",
    )  # fmt: skip
    assert asked == ["minmax", "unit-svhn"]


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    result = call(
        "mitigate", "--model_filepath", tmp_path / "m.pt", "--dataset", tmp_path,
        "--output_dirpath", tmp_path / "out", "--model_output_name", "../elsewhere.pt",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "expected the name of a file, got '../elsewhere.pt'" in result.output


def test_images_without_finite_logits_are_left_out(tmp_path: Path) -> None:
    network = build_torchvision("resnet18", num_classes=2).eval()
    with torch.no_grad():
        network.fc.bias.fill_(math.nan)
    torch.save(network, tmp_path / "model.pt")
    data = write_mitigation_data(tmp_path / "data", each=1)
    result = logits_in(tmp_path, data)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "results.json").read_text()) == {}
