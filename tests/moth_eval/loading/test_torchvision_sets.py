from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from moth_eval.errors import InputError
from moth_eval.loading.images import read_pictures
from moth_eval.loading.sources import TorchvisionSet, content_hash, default_test, parse_source
from moth_eval.loading.stacking import Size
from tests.support import torchvision_sets as sets
from tests.support.torchvision_sets import write_raw_gtsrb, write_raw_mnist


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for kind in ("Squares", "Named", "Odd", "Broken", "Whole", "Captions"):
        monkeypatch.setattr(datasets, kind, getattr(sets, kind), raising=False)
    generator = np.random.default_rng(0)
    for name, count in (("train", 9), ("test", 5)):
        images = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 3)
    return tmp_path


def source(name: str, folder: Path, *, training: bool = True) -> TorchvisionSet:
    return TorchvisionSet(name=name, folder=folder, training=training)


def read(source: TorchvisionSet, most_bytes: int | None = None) -> tuple[torch.Tensor, list[int]]:
    found = read_pictures(source, layout="files", crop=None, num_classes=3, most_bytes=most_bytes)
    return found.images, found.labels.tolist()


@pytest.mark.parametrize("name", ["Squares", "Named", "Odd"])
def test_the_parts_of_a_data_set_are_what_its_files_hold(folder: Path, name: str) -> None:
    for training, file in ((True, "train.npz"), (False, "test.npz")):
        expected = np.load(folder / file)
        images, labels = read(source(name, folder, training=training))
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), expected["images"])
        assert labels == expected["labels"].tolist()


def test_a_set_without_parts_is_read_whole_and_has_nothing_to_be_tested_on(folder: Path) -> None:
    whole = source("Whole", folder)
    assert len(read(whole)[1]) == 9
    assert default_test(whole, None) is None
    assert default_test(source("Named", folder), None) == source("Named", folder, training=False)
    assert default_test(whole, Path("test")) == Path("test")
    assert default_test(Path("data"), None) is None


def test_the_files_of_mnist_are_read_by_torchvision_as_grey_colours(tmp_path: Path) -> None:
    given = source("MNIST", write_raw_mnist(tmp_path, training=30, tested=10))
    found = read_pictures(given, layout="files", crop=None, num_classes=10)
    assert found.images.shape == (30, 3, 28, 28)
    raw = (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    assert found.images[:, 1].numpy().tobytes() == raw


def test_signs_of_several_sizes_are_read_from_the_files_of_gtsrb(tmp_path: Path) -> None:
    given = source("GTSRB", write_raw_gtsrb(tmp_path))
    with pytest.raises(InputError, match=r"image 1 of torchvision:GTSRB:.* is 33x32 pixels, "):
        read(given)
    size = Size(height=32, width=32)
    found = read_pictures(given, layout="files", crop=None, num_classes=43, size=size)
    assert found.images.shape == (9, 3, 32, 32)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found.resized.startswith(f"9 of 9 images of {given} were resized to 32x32 pixels")
    assert read(replace(given, training=False))[1] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("CIFAR10", "torchvision does not find a whole CIFAR10 in .*; nothing is downloaded"),
        ("CIFAR11", "torchvision has no data set 'CIFAR11'"),
        ("os", "torchvision has no data set 'os'"),
        ("FakeData", "torchvision's FakeData is made, not read"),
        ("LSUN", "torchvision's LSUN unpickles a file in its folder, .*: give its images as a"),
        ("LSUNClass", "torchvision's LSUNClass unpickles a file in its folder"),
        ("EMNIST", "torchvision's EMNIST is six data sets under one name: give its images"),
        ("Broken", "torchvision does not find a whole Broken in .*KeyError"),
        ("Captions", "image 0 has a str in the place of its class"),
    ],
)
def test_other_data_sets_are_refused(folder: Path, name: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read(source(name, folder))


def test_a_set_that_is_larger_than_its_share_of_memory_is_refused(folder: Path) -> None:
    assert len(read(source("Squares", folder), most_bytes=9 * 8 * 8 * 3)[1]) == 9
    with pytest.raises(InputError, match=r"Squares:.* holds 9 images of 8x8 pixels: .* half of"):
        read(source("Squares", folder), most_bytes=9 * 8 * 8 * 3 - 1)


def test_labels_beyond_the_classes_of_the_network_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"Squares:.* is labelled class 2, .* are 0 to 1"):
        read_pictures(source("Squares", folder), layout="files", crop=None, num_classes=2)


def test_sources_are_told_apart_and_say_what_they_are() -> None:
    assert parse_source("a/b.npz", training=True) == Path("a/b.npz")
    found = parse_source("torchvision:CIFAR10:/a:b", training=False)
    assert found == source("CIFAR10", Path("/a:b"), training=False)
    assert str(found) == "torchvision:CIFAR10:/a:b"
    for text in ("torchvision:CIFAR10", "torchvision:CIFAR10:", "torchvision::/data"):
        with pytest.raises(InputError, match="expected torchvision:NAME:FOLDER, such as"):
            parse_source(text, training=True)


def test_the_hash_of_a_set_is_of_its_pictures_and_not_of_what_lies_beside_them(
    folder: Path,
) -> None:
    before = content_hash(source("Squares", folder))
    assert before != content_hash(source("Squares", folder, training=False))
    Image.new("RGB", (3, 3)).save(folder / "other.png")
    assert content_hash(source("Squares", folder)) == before
    changed = dict(np.load(folder / "train.npz"))
    changed["images"][3, 0, 0, 0] ^= 1
    np.savez(folder / "train.npz", **changed)
    assert content_hash(source("Squares", folder)) != before
