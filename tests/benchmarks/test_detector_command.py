from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from benchmarks.detector_settings import Metaparameters, read_learned, schema, write_learned
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.loading.architectures import ArchitectureSource, build_torchvision
from moth_eval.loading.files import load_network
from moth_eval.loading.rounds import read_round
from moth_eval.loading.subjects import open_subject
from moth_eval.platt import Logistic
from moth_eval.plugins import build, resolve
from moth_eval.records import ScanRecord
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
    result = infer(active, tmp_path, "--features_filepath", tmp_path / "features.csv")
    assert result.exit_code == 0, result.output
    [found] = read_round(active / "model.pt", examples=active / "example_data").models
    subject = open_subject(
        found, architecture=ArchitectureSource.parse(ARCH), device=torch.device("cpu")
    ).subject
    scanner = build(resolve("nc", SCANNERS, ENTRY_POINTS), {"max_images": 30})
    assert isinstance(scanner, Scanner)
    score = run_scan(scanner, subject, name="nc", seed=0).score
    assert score is not None
    by_contract = float((tmp_path / "features.csv").read_text().splitlines()[1].split(",")[0])
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
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_torchvision("resnet18", num_classes=2).eval()
    torch.save(network, tmp_path / "model.pt")
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
    result = call(
        "test", "--model_filepath", tmp_path / "model.pt", "--dataset", data, "--output_dirpath",
        tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "results.json").read_text()) == {}
