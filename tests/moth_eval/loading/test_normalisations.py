from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import InputError
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.doubts import doubts_of_choice
from moth_eval.loading.files import load_network, save_network
from moth_eval.loading.images import read_examples
from moth_eval.loading.normalisations import NAMES, STANDARDS, canonical, stated, to_json
from moth_eval.loading.preprocessing import choose_preprocessing, name_of, preprocessing_of
from moth_eval.loading.rounds import read_round
from moth_eval.loading.sidecars import read_sidecar
from moth_eval.loading.subjects import Opened, open_subject
from moth_eval.networks import small_vgg
from moth_eval.subject import Examples, Preprocessing

VGG = "moth_eval.networks:small_vgg"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_stands_for_one_normalisation_and_comes_back(name: str) -> None:
    found = preprocessing_of(name)
    assert name_of(found) == canonical(name) == stated(to_json(name)) == name
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert found(images).shape == images.shape
    assert len({preprocessing_of(other) for other in NAMES}) == len(NAMES)


def test_names_with_figures_subtract_and_divide_by_them() -> None:
    images = torch.full((1, 3, 2, 2), 0.25)
    for name, (mean, std) in STANDARDS.items():
        expected = (0.25 - torch.tensor(mean)) / torch.tensor(std)
        assert torch.allclose(preprocessing_of(name)(images)[0, :, 0, 0], expected), name
    assert preprocessing_of("unit-half")(torch.tensor([[[[0.0, 1.0]]]])).tolist() == [[[[-1, 1]]]]


@pytest.mark.parametrize(
    ("text", "once"),
    [
        ("0.1,0.2,0.3/0.4,0.5,0.6", "0.1,0.2,0.3/0.4,0.5,0.6"),
        (" 0.10, 0.2,0.3 / .4,0.5,6e-1", "0.1,0.2,0.3/0.4,0.5,0.6"),
        ("0.4/0.2", "0.4/0.2"),
        ("0.4,0.4,0.4/0.2,0.2,0.3", "0.4/0.2,0.2,0.3"),
        ("0.123456789012/1", "0.123456789012/1"),
        ("0.5,0.5,0.5/0.5,0.5,0.5", "unit-half"),
        ("0.485,0.456,0.406/0.229,0.224,0.225", "unit-imagenet"),
        ("0,0,0/1,1,1", "unit"),
    ],
)
def test_numbers_are_written_in_one_way_only(text: str, once: str) -> None:
    assert canonical(text) == canonical(once) == once
    assert stated(json.loads(json.dumps(to_json(once)))) == once
    assert name_of(preprocessing_of(once)) == once


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("imagenet", "no normalisation 'imagenet': expected one of unit, minmax, unit-bgr"),
        ("", "no normalisation '': expected one of"),
        ("0.5,0.5,0.5", "no normalisation '0.5,0.5,0.5': expected one of"),
        ("0.5/0.5/0.5", "no normalisation '0.5/0.5/0.5'"),
        ("0.5,x,0.5/1", "no normalisation '0.5,x,0.5/1'"),
        ("0.5,0.5/1", "with 2 values as mean: expected one, or one for each of 3 channels"),
        ("0.5/1,1,1,1", "with 4 values as standard deviation"),
        ("0.5/0", "with the standard deviation 0.0: expected from 0.0001 to 1000"),
        ("0.5/-1", "with the standard deviation -1.0"),
        ("0.5/1e-300", "with the standard deviation 1e-300"),
        ("0.5/inf", "with the standard deviation inf"),
        ("nan/1", "with the mean nan: expected from -1000 to 1000"),
        ("0.5/nan", "with the standard deviation nan"),
        ("1e4/1", "with the mean 10000.0"),
        ("0.5/" + "1," * 10_000 + "1", "no normalisation '0.5/1,1"),
        ("0" * 10_000 + "/1", "no normalisation '000"),
        ("a\x1b[31m", r"no normalisation 'a.*x1b\[31m'"),
    ],
)
def test_what_is_no_normalisation_is_said_briefly(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        canonical(text)
    assert len(str(caught.value)) < 500


HOSTILE: tuple[tuple[Any, str], ...] = (
    (3, "of the type int: expected a name such as unit-imagenet, or"),
    (["unit"], "of the type list"),
    ({}, "of the type dict"),
    ({"mean": [0.5], "std": [0.5], "py/object": "os.system"}, "of the type dict"),
    ({"mean": 0.5, "std": 0.5}, "of the type dict"),
    ({"mean": [], "std": [0.5]}, "with 0 values as mean"),
    ({"mean": [0.5] * 100_000, "std": [0.5]}, "with 100000 values as mean"),
    ({"mean": [True], "std": [0.5]}, "with a bool as mean: expected numbers"),
    ({"mean": ["0.5"], "std": [0.5]}, "with a str as mean"),
    ({"mean": [[[[0.5]]]], "std": [0.5]}, "with a list as mean"),
    ({"mean": [10**400], "std": [0.5]}, "with the mean 1000000"),
    ({"mean": [0.5], "std": [float("nan")]}, "with the standard deviation nan"),
    ({"mean": [0.5], "std": [float("inf")]}, "with the standard deviation inf"),
    ({"mean": [0.5], "std": [0]}, "with the standard deviation 0: expected from 0.0001"),
    ("unit-" + "x" * 100_000, "no normalisation 'unit-xxx"),
)


@pytest.mark.parametrize(("value", "message"), HOSTILE)
def test_a_side_car_with_a_wrong_normalisation_makes_its_model_unusable(
    tmp_path: Path, value: object, message: str
) -> None:
    content = {"architecture": "resnet18", "num_classes": 3, "normalisation": value}
    (tmp_path / "net.arch.json").write_text(json.dumps(content))
    (tmp_path / "net.safetensors").write_bytes(b"weights")
    np.savez(tmp_path / "net.npz", images=np.zeros((3, 4, 4, 3), np.uint8), labels=np.arange(3))
    with pytest.raises(InputError, match=message) as caught:
        read_sidecar(tmp_path / "net.safetensors")
    assert len(str(caught.value)) < 1000
    [model] = read_round(tmp_path).models
    assert not model.usable
    assert model.stated_normalisation == ""
    assert model.problems[0].startswith("its side-car is wrong: ")
    with pytest.raises(InputError, match="net cannot be opened: its side-car is wrong: "):
        open_subject(model, device=torch.device("cpu"))


def test_only_the_side_car_of_a_model_states_its_normalisation(tmp_path: Path) -> None:
    """A folder's arch.json is for models without one; a round's config.json has other keys."""
    (tmp_path / "config.json").write_text('{"normalisation": "minmax"}')
    (tmp_path / "arch.json").write_text('{"architecture": "vgg11", "normalisation": "unit-half"}')
    (tmp_path / "a.arch.json").write_text('{"architecture": "resnet18"}')
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"weights")
    found = {model.name: model.stated_normalisation for model in read_round(tmp_path).models}
    assert found == {"a": "", "b": "unit-half"}
    sidecars = [read_sidecar(tmp_path / f"{name}.safetensors") for name in found]
    assert [one.normalisation for one in sidecars if one] == list(found.values())


def test_a_saved_network_states_what_it_was_trained_with(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    custom = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for preprocessing, said in (
        (custom, {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}),
        (Preprocessing(scale="minmax", channel_order="BGR"), "minmax-bgr"),
        (preprocessing_of("unit-gtsrb"), "unit-gtsrb"),
    ):
        save_network(
            path, small_vgg(3), architecture=VGG, num_classes=3, preprocessing=preprocessing
        )
        content = json.loads((tmp_path / "net.arch.json").read_text())
        assert content == {"architecture": VGG, "num_classes": 3, "normalisation": said}
        assert load_network(path).num_classes == 3
        [model] = read_round(path, examples=tmp_path).models
        assert preprocessing_of(model.stated_normalisation) == preprocessing
    save_network(path, small_vgg(3), architecture=VGG, num_classes=3)
    assert "normalisation" not in json.loads((tmp_path / "net.arch.json").read_text())


def test_what_has_no_text_is_not_stated() -> None:
    assert name_of(Preprocessing(scale="minmax", mean=(0.1,), std=(0.2,))) == ""
    assert name_of(Preprocessing(mean=(0.1,))) == ""


class Brightness(nn.Module):
    """Class 1 if the first channel exceeds a threshold, at which it was trained."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        level = images[:, 0].mean(dim=(1, 2))
        return torch.stack([self.threshold - level, level - self.threshold], dim=1)


def grey_levels(n: int = 40) -> Examples:
    """Images of one grey each, dark ones of class 0 and light ones of class 1."""
    labels = torch.arange(n) % 2
    levels = 0.2 + 0.6 * labels + 0.1 * torch.arange(n) / n
    return Examples(images=levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone(), labels=labels)


def test_what_a_model_states_is_taken_where_no_candidate_is_better() -> None:
    """Under `unit` the same images are classified as well, which is the first candidate."""
    module = Brightness(threshold=0.5)
    choice = choose_preprocessing(module, grey_levels(), layout="files", stated="unit-cifar10")
    assert (choice.name, choice.origin, choice.better) == ("unit-cifar10", "stated", "")
    assert list(choice.tried) == ["unit-cifar10", "unit", "minmax", "unit-imagenet"]
    assert choice.tried["unit-cifar10"] == choice.tried["unit"] == 1.0
    assert choose_preprocessing(module, grey_levels(), layout="files").name == "unit"


def test_what_a_model_states_is_kept_where_another_is_better_by_more_than_chance() -> None:
    module = Brightness(threshold=1.2)  # only what ImageNet's figures stretch reaches it
    examples = grey_levels()
    choice = choose_preprocessing(module, examples, layout="files", stated="unit-half")
    assert (choice.name, choice.better) == ("unit-half", "unit-imagenet")
    assert choice.preprocessing == preprocessing_of("unit-half")
    assert choice.tried["unit-half"] == 0.5
    [doubt, poor] = doubts_of_choice(choice)
    assert doubt == (
        "the side-car states the normalisation unit-half, under which clean accuracy is 0.500 on "
        "40 examples; under unit-imagenet it is 1.000, better by more than chance: either the "
        "side-car or the examples are not this model's; --normalisation unit-imagenet reads it so"
    )
    assert "under unit-half, the normalisation that the side-car states, below 0.9" in poor
    few = Examples(images=examples.images[:4], labels=examples.labels[:4])
    assert choose_preprocessing(module, few, layout="files", stated="unit-half").better == ""


def test_the_given_normalisation_counts_more_than_the_stated_one() -> None:
    module = Brightness(threshold=0.5)
    choice = choose_preprocessing(
        module, grey_levels(), layout="trojai-4", only="0.1,0.2,0.3/0.4,0.5,0.6", stated="minmax"
    )
    assert (choice.name, choice.origin) == ("0.1,0.2,0.3/0.4,0.5,0.6", "given")
    assert list(choice.tried) == [choice.name]
    assert choice.preprocessing == Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))


def test_figures_for_three_channels_are_none_for_grey_images() -> None:
    examples = grey_levels()
    grey = Examples(images=examples.images[:, :1].contiguous(), labels=examples.labels)
    module = Brightness(threshold=0.5)
    message = "the normalisation unit-gtsrb is for images of 3 channels, these have 1"
    with pytest.raises(InputError, match=message):
        choose_preprocessing(module, grey, layout="files", stated="unit-gtsrb")
    choice = choose_preprocessing(module, grey, layout="files", stated="unit-half")
    assert list(choice.tried) == ["unit-half", "unit", "minmax"]


class Infinite(nn.Module):
    """Has finite logits for images between 0 and 1 only."""

    def forward(self, images: Tensor) -> Tensor:
        level = images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - level, (1 - level).log()], dim=1)


def test_a_stated_normalisation_under_which_the_network_breaks_is_an_error() -> None:
    under = {"stated": "minmax", "only": ""}
    examples = grey_levels()
    images = examples.images.clone()
    images[:, :, 0, 0] = 0.1
    examples = Examples(images=images, labels=examples.labels)
    assert choose_preprocessing(Infinite(), examples, layout="files", **under).name == "minmax"
    message = "NaN or infinite outputs for clean examples under unit-imagenet; its weights"
    for key in ("stated", "only"):
        with pytest.raises(InputError, match=message):
            choose_preprocessing(
                Infinite(), examples, layout="files", **{**under, key: "unit-imagenet"}
            )


def opened(folder: Path, **changes: Any) -> Opened:
    """A real network of ours behind its side-car, on images that it was not trained for."""
    torch.manual_seed(0)
    save_network(
        folder / "net.safetensors",
        small_vgg(2),
        architecture=f"classification:{VGG}",
        num_classes=2,
        preprocessing=preprocessing_of("unit-svhn"),
    )
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "net.npz", images=images, labels=np.arange(8) % 2)
    [model] = read_round(folder / "net.safetensors").models
    return open_subject(replace(model, **changes), device=torch.device("cpu"))


def test_an_opened_model_is_read_as_its_side_car_states(tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert found.normalisation == next(iter(found.tried)) == "unit-svhn"
    assert found.subject.preprocessing == preprocessing_of("unit-svhn")
    assert (
        "under unit-svhn, the normalisation that the side-car states, below 0.9"
        in (found.subject.doubts[0])
    )
    given = opened(tmp_path, normalisation="unit-gtsrb")
    assert given.normalisation == "unit-gtsrb"
    assert list(given.tried) == ["unit-gtsrb"]
    assert "under unit-gtsrb, the normalisation that was given" in given.subject.doubts[0]


@pytest.mark.parametrize(
    ("stated", "better"),
    [
        ("unit-imagenet", ""),
        ("0.4914,0.4822,0.4465/0.2023,0.1994,0.201", ""),
        ("500/1", "unit-imagenet"),
    ],
)
def test_a_real_network_is_read_as_it_states_and_doubted_where_images_speak_against_it(
    shared: Path, stated: str, better: str
) -> None:
    """A CIFAR-10 network that was trained with the figures of ImageNet."""
    source = ArchitectureSource.parse("moth_eval.networks:cifar_resnet20")
    module = load_network(shared / "nets" / "cifar10-resnet20-clean.th", architecture=source).module
    module.standardise = nn.Identity()
    examples = read_examples(
        shared / "cifar10" / "test.npz", layout="files", crop=None, num_classes=10,
        limit_per_class=8,
    )  # fmt: skip
    choice = choose_preprocessing(module, examples, layout="files", stated=stated)
    assert (choice.name, choice.better) == (stated, better)
    assert next(iter(choice.tried)) == stated
    assert choice.tried["unit-imagenet"] > 0.85
    doubted = any("the side-car states" in doubt for doubt in doubts_of_choice(choice))
    assert doubted == bool(better)
