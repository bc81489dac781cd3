from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import InputError, RefusedFile
from moth_eval.loading import files, subjects
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import LoadedNetwork
from moth_eval.loading.layouts import MODEL_SUFFIXES
from moth_eval.loading.preprocessing import (
    ENOUGH,
    candidates,
    choose_preprocessing,
    preprocessing_of,
)
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.subjects import Opened, open_subject
from moth_eval.subject import Examples, Preprocessing

CPU = torch.device("cpu")
SIDE = 8


class ChannelOfMostLight(nn.Module):
    """Logits: how far the mean of each channel exceeds a level that only one scale reaches."""

    def __init__(self, ending: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3))
        self.ending = ending or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.ending(10 * images.mean(dim=(2, 3)) @ self.weight)
        return logits


class Noisy(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits + torch.rand_like(logits)


def coloured(each: int = 3) -> Examples:
    """Images whose brightest channel is their class."""
    labels = torch.arange(3).repeat_interleave(each)
    images = torch.rand(3 * each, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.4
    images[torch.arange(3 * each), labels] += 0.5
    return Examples(images=images, labels=labels)


def save_npz(path: Path, examples: Examples) -> Path:
    pixels = (examples.images * 255).round().byte().numpy()
    np.savez(path, images=pixels, labels=examples.labels.numpy())
    return path


def open_module(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    module: nn.Module,
    *,
    examples: Examples | None = None,
    layout: str = "files",
    num_classes: int | None = None,
    meanwhile: Callable[[], object] = lambda: None,
    named: bool = False,
) -> Opened:
    """Opens `module` as if it had been read from a file."""
    loaded = LoadedNetwork(
        module=module, architecture="small", num_classes=None, format="state-dict",
        notes=("read",), sha256="ab" * 32, guards=("limits",),
    )  # fmt: skip

    def load(*_: object, **__: object) -> LoadedNetwork:
        meanwhile()
        return loaded

    monkeypatch.setattr(subjects, "load_network", load)
    (folder / "net.pth").write_bytes(b"weights")
    model = RoundModel(
        name="net",
        file=folder / "net.pth",
        examples=save_npz(folder / "examples.npz", examples or coloured()),
        examples_named=named,
        layout=layout,
        num_classes=num_classes,
        metadata={},
        problems=("config.json is not JSON",),
    )
    return open_subject(model, device=CPU)


def test_images_that_the_caller_named_and_that_do_not_fit_are_no_fault_of_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To call the model unsafe for them would accuse it of what the call got wrong."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 5 * 5, 3)).eval()
    with pytest.raises(InputError, match=r"net does not take the images in .*examples\.npz, 8 x 8"):
        open_module(monkeypatch, tmp_path, network, named=True)
    with pytest.raises(RefusedFile, match="cannot be run on images of shape"):
        open_module(monkeypatch, tmp_path, network)


def test_grey_arrays_are_given_to_a_network_of_colours_three_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    grey = Examples(images=torch.rand(9, 1, 8, 8), labels=torch.arange(3).repeat(3))
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    opened = open_module(monkeypatch, tmp_path, network, examples=grey)
    images = opened.subject.examples.images
    assert opened.subject.image_shape == (3, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_reader_of_rounds_knows_the_same_suffixes_as_the_reader_of_files() -> None:
    assert MODEL_SUFFIXES == files.MODEL_SUFFIXES


def test_an_opened_subject_carries_everything_that_a_scanner_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight().train())
    subject = opened.subject
    assert (subject.name, subject.architecture, subject.num_classes) == ("net", "small", 3)
    assert subject.image_shape == (3, SIDE, SIDE)
    assert (subject.sha256, opened.guards) == ("ab" * 32, ("limits",))
    assert not subject.module.training
    assert subject.accuracy() == opened.tried["unit"] == 1.0
    assert subject.doubts == ()
    assert opened.notes == ("read", "config.json is not JSON")


def test_of_normalisations_that_score_alike_the_one_of_training_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight())
    assert list(opened.tried) == ["unit", "minmax", "unit-imagenet", "unit-cifar10"]
    assert opened.tried["unit"] == opened.tried["minmax"] == 1.0
    assert opened.subject.preprocessing == Preprocessing()


def test_networks_of_rounds_0_and_1_are_found_to_see_bgr(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = ChannelOfMostLight()
    module.weight.data = torch.eye(3).flip(0)
    opened = open_module(monkeypatch, tmp_path, module, layout="trojai-0-1")
    assert list(opened.tried) == ["unit-bgr", "minmax-bgr", "unit", "minmax"]
    assert opened.subject.preprocessing == Preprocessing(channel_order="BGR")
    assert opened.tried["unit"] == pytest.approx(1 / 3)


class DarkestIsZero(nn.Module):
    """Class 1 if the brightest pixel is 1, as minmax makes it; else class 0."""

    def forward(self, images: Tensor) -> Tensor:
        brightest = images.amax(dim=(1, 2, 3))
        return torch.stack([0.99 - brightest, brightest - 0.99], dim=1)


def test_minmax_is_chosen_when_only_it_sees_the_images_rightly() -> None:
    images = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 0.7
    examples = Examples(images=images, labels=torch.ones(6, dtype=torch.int64))
    choice = choose_preprocessing(DarkestIsZero(), examples, layout="trojai-2")
    assert choice.tried == {"unit": 0.0, "minmax": 1.0}
    assert choice.preprocessing == Preprocessing(scale="minmax")


@pytest.mark.parametrize(("lost", "chosen"), [(5, "unit"), (80, "minmax")])
def test_another_normalisation_has_to_be_better_by_more_than_chance(lost: int, chosen: str) -> None:
    """Of 1,000 images 10 are right under minmax alone, or 120; some are right under unit alone."""
    gained = 10 if chosen == "unit" else 120
    images = torch.full((1000, 3, SIDE, SIDE), 0.5)
    images[:gained] = 0.7  # 1 under minmax, where the darkest pixel is 0
    images[:gained, :, 0, 0] = 0.0
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[:gained] = 1
    images[gained : gained + lost, :, 0, 0] = 0.1  # wrong under minmax
    choice = choose_preprocessing(
        DarkestIsZero(), Examples(images=images, labels=labels), layout="trojai-2"
    )
    assert choice.name == chosen
    assert choice.tried["minmax"] > choice.tried["unit"]


def test_a_choice_among_many_examples_looks_at_some_of_every_class() -> None:
    """Sorted by class, the first thousand would speak of one class alone."""
    images = torch.rand((4000, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    images = images.clamp(0, 0.98)
    labels = torch.tensor([0, 1]).repeat_interleave(2000)
    seen = list[Tensor]()

    class Noting(DarkestIsZero):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return super().forward(images)

    choice = choose_preprocessing(Noting(), Examples(images=images, labels=labels), layout="files")
    assert choice.tried["unit"] == choice.tried["minmax"] == 0.5
    assert len(choice.logits) == ENOUGH
    assert sum(map(len, seen)) == ENOUGH * len(choice.tried)
    few = Examples(images=images[::4], labels=labels[::4])
    again = choose_preprocessing(DarkestIsZero(), few, layout="files")
    assert len(again.logits) == len(few) == ENOUGH


def test_a_stated_normalisation_is_the_only_one_that_is_looked_at() -> None:
    examples = Examples(
        images=torch.full((6, 3, SIDE, SIDE), 0.7), labels=torch.ones(6, dtype=torch.int64)
    )
    choice = choose_preprocessing(DarkestIsZero(), examples, layout="trojai-2", only="unit")
    assert choice.tried == {"unit": 0.0}
    with pytest.raises(InputError, match="no normalisation 'unit-rgb': expected one of unit, min"):
        choose_preprocessing(DarkestIsZero(), examples, layout="trojai-2", only="unit-rgb")


def test_the_standardised_candidates_go_by_different_names() -> None:
    imagenet, cifar10 = candidates("files", 3)[2:]
    assert (imagenet, cifar10) == ("unit-imagenet", "unit-cifar10")
    assert preprocessing_of(imagenet).name == preprocessing_of(cifar10).name == "unit-standardised"
    assert preprocessing_of(imagenet) != preprocessing_of(cifar10)
    assert list(candidates("files", 1)) == ["unit", "minmax"]


@pytest.mark.parametrize("layout", ["trojai-2", "trojai-3", "trojai-4", "trojai-11"])
def test_later_rounds_know_two_normalisations(layout: str) -> None:
    assert list(candidates(layout, 3)) == ["unit", "minmax"]


def test_poor_accuracy_is_a_doubt_with_its_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    examples = coloured()
    wrong = Examples(images=examples.images, labels=examples.labels.roll(1))
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight(), examples=wrong)
    assert opened.subject.doubts[0].startswith(
        "clean accuracy is 0.667 on 9 examples under unit, the best of 4 normalisations tried"
    )


def test_classes_with_too_few_examples_are_a_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = coloured()
    kept = [0, 1, 2, 3]
    few = Examples(images=full.images[kept], labels=full.labels[kept])
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight(), examples=few)
    assert len(opened.subject.doubts) == 1
    assert (
        "2 of 3 classes have fewer than 2 clean examples, 1 of them none (classes 1, 2)"
        in (opened.subject.doubts[0])
    )


@pytest.mark.parametrize(
    ("ending", "doubt"),
    [
        (nn.Softmax(dim=1), "outputs are probabilities, not logits: all 9 rows"),
        (nn.LogSoftmax(dim=1), "outputs are log-probabilities, not logits"),
        (Noisy(), "the network is random in eval mode"),
    ],
)
def test_outputs_that_are_no_steady_logits_are_a_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ending: nn.Module, doubt: str
) -> None:
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight(ending))
    assert len(opened.subject.doubts) == 1
    assert doubt in opened.subject.doubts[0]


class OverwritesItsInput(ChannelOfMostLight):
    """What a first layer that works in place does."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        images.fill_(0.5)
        return logits


def test_examples_survive_a_network_that_overwrites_its_input(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_module(monkeypatch, tmp_path, OverwritesItsInput())
    subject = opened.subject
    assert opened.tried["unit"] == subject.accuracy() == subject.accuracy() == 1.0
    assert torch.equal(subject.examples.images, (coloured().images * 255).round() / 255)
    assert len(subject.doubts) == 1
    assert "the network overwrites its input" in subject.doubts[0]


@pytest.mark.parametrize("scale", ["unit", "minmax"])
def test_network_input_never_shares_memory_with_the_images(
    scale: Literal["unit", "minmax"],
) -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    eaten = Preprocessing(scale=scale)(images)
    assert eaten.data_ptr() != images.data_ptr()
    torch.relu_(eaten).sum().backward()
    assert images.grad is not None


class LooksAtItsNeighbours(ChannelOfMostLight):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(dim=0) / 4)


class Squeezes(ChannelOfMostLight):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


@pytest.mark.parametrize(
    ("module", "doubt"),
    [
        (LooksAtItsNeighbours(), "depends on the others in its batch"),
        (Squeezes(), r"no logits (1, K) for a single image"),
    ],
)
def test_a_verdict_that_depends_on_the_batch_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: nn.Module, doubt: str
) -> None:
    opened = open_module(monkeypatch, tmp_path, module)
    assert doubt in opened.subject.doubts[-1]


def test_another_number_of_classes_than_stated_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_module(monkeypatch, tmp_path, ChannelOfMostLight(), num_classes=43)
    assert opened.subject.doubts == ("the metadata state 43 classes, the network has 3 outputs",)


def test_the_global_random_numbers_are_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    open_module(monkeypatch, tmp_path, ChannelOfMostLight(Noisy()))
    assert torch.equal(torch.random.get_rng_state(), before)


class NanForStretched(nn.Module):
    """Not a number for every image but the noise and zeros of the first run."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.mean(dim=(2, 3))
        return logits / 0 * 0 if len(images) > 2 else logits


def test_outputs_that_are_no_numbers_under_every_normalisation_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="NaN or infinite outputs for clean examples under each"):
        open_module(monkeypatch, tmp_path, NanForStretched())


def test_grey_images_fit_a_network_of_one_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class OneChannel(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            assert images.shape[1] == 1
            light = images.mean(dim=(1, 2, 3))
            return torch.stack([0.5 - light, light - 0.5], dim=1)

    images = torch.full((4, 3, SIDE, SIDE), 0.1)
    images[2:] = 0.9
    grey = Examples(images=images, labels=torch.tensor([0, 0, 1, 1]))
    opened = open_module(monkeypatch, tmp_path, OneChannel(), examples=grey)
    assert opened.subject.image_shape == (1, SIDE, SIDE)
    with pytest.raises(RefusedFile, match=r"cannot be run on images of shape \(3, 8, 8\)"):
        open_module(monkeypatch, tmp_path, OneChannel())


def test_a_network_for_larger_images_is_refused_with_the_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    with pytest.raises(RefusedFile, match=r"images of shape \(3, 8, 8\).*Check the image size"):
        open_module(monkeypatch, tmp_path, module)


def test_a_label_beyond_the_outputs_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = coloured()
    beyond = Examples(images=full.images, labels=full.labels + 1)
    with pytest.raises(InputError, match=r"labels run from 1 to 3.*classes 0 to 2"):
        open_module(monkeypatch, tmp_path, ChannelOfMostLight(), examples=beyond)


def test_an_absurd_label_is_an_error_before_anything_is_counted_up_to_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full = coloured()
    absurd = Examples(images=full.images, labels=full.labels + 2**60)
    with pytest.raises(InputError, match=r"classes 0 to 2; mend the labels in .*examples\.npz"):
        open_module(monkeypatch, tmp_path, ChannelOfMostLight(), examples=absurd)


def test_a_file_that_changes_while_it_is_read_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def exchange() -> None:
        (tmp_path / "other").write_bytes(b"weights")
        (tmp_path / "other").replace(tmp_path / "net.pth")

    with pytest.raises(RefusedFile, match=r"net\.pth was changed while it was read"):
        open_module(monkeypatch, tmp_path, ChannelOfMostLight(), meanwhile=exchange)


def test_an_empty_file_has_a_hash_but_no_network(tmp_path: Path) -> None:
    empty = tmp_path / "model.pt"
    empty.touch()
    assert files.sha256_of(empty) == hashlib.sha256(b"").hexdigest()
    with pytest.raises(InputError, match="empty"):
        files.load_network(empty)
    with pytest.raises(InputError, match="no readable file"):
        files.sha256_of(tmp_path / "missing.pt")
    with pytest.raises(RefusedFile, match="expected an ordinary file"):
        files.sha256_of(tmp_path)


def test_a_model_that_is_not_usable_says_why(tmp_path: Path) -> None:
    (tmp_path / "id-00000000").mkdir()
    (model,) = read_round(tmp_path).models
    with pytest.raises(InputError, match=r"id-00000000 cannot be opened: no model\.pt; no folder"):
        open_subject(model, device=CPU)


@pytest.mark.parametrize(
    ("file", "factory", "examples", "normalisation", "accuracy"),
    [
        ("nets/cifar10-resnet20-clean.th", "cifar_resnet20", "cifar10", "unit", 0.9),
        ("nets/cifar10-smallvgg-backdoored.pth", "small_vgg", "cifar10", "unit", 0.8),
        ("nets/gtsrb-smallvgg-backdoored.pth", "small_vgg", "gtsrb", "unit", 0.95),
        (
            "moth-resnet20/resnet20_natural.safetensors",
            "moth_resnet20",
            "cifar10",
            "unit",
            0.85,
        ),
    ],
)
def test_real_networks_that_normalise_inside_see_best_under_unit(
    shared: Path, file: str, factory: str, examples: str, normalisation: str, accuracy: float
) -> None:
    found = read_round(shared / file, examples=shared / examples / "test.npz")
    source = ArchitectureSource.parse(f"moth_eval.networks:{factory}")
    opened = open_subject(
        found.models[0], architecture=source, device=CPU, max_examples_per_class=6
    )
    assert max(opened.tried, key=opened.tried.__getitem__) == normalisation
    assert opened.tried[normalisation] > accuracy
    assert opened.subject.preprocessing == Preprocessing()


def test_the_real_round_11_folder_opens_with_a_network_of_its_kind(
    shared: Path, tmp_path: Path
) -> None:
    from torchvision.models import mobilenet_v2

    folder = tmp_path / "models" / "id-00000002"
    shutil.copytree(shared / "trojai" / "round11-id-00000002", folder)
    folder.chmod(0o755)
    torch.save(mobilenet_v2(num_classes=118), folder / "model.pt")
    (model,) = read_round(tmp_path).models
    opened = open_subject(model, device=CPU)
    subject = opened.subject
    assert (subject.num_classes, subject.image_shape) == (118, (3, 256, 256))
    assert (len(subject.examples), subject.architecture) == (20, "mobilenet_v2")
    assert list(opened.tried) == ["unit", "minmax"]
    assert subject.doubts[0].startswith("clean accuracy is 0.0")
    sparse = "117 of 118 classes have fewer than 2 clean examples, 99 of them none"
    assert subject.doubts[1].startswith(sparse)
