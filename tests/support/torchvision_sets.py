"""Data sets as torchvision has them, in folders that tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets


class Squares(datasets.VisionDataset):
    """`train.npz` and `test.npz` of a folder; refuses to download."""

    def __init__(self, root: str, train: bool = True, download: bool = True) -> None:
        assert not download
        super().__init__(root)
        self.arrays = np.load(Path(root) / ("train.npz" if train else "test.npz"))
        self.images, self.labels = self.arrays["images"], self.arrays["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])


class Named(Squares):
    """The same with parts that go by a name, of which `val` is the one to test on."""

    def __init__(self, root: str, split: str = "train") -> None:
        if split not in ("train", "val"):
            raise ValueError(f"Unknown value {split!r} for argument split")
        super().__init__(root, train=split == "train", download=False)


class Odd(Squares):
    """The same with a part for training that has another name yet."""

    def __init__(self, root: str, split: str = "trainval") -> None:
        if split not in ("trainval", "test"):
            raise ValueError(f"Unknown value {split!r} for argument split")
        super().__init__(root, train=split == "trainval", download=False)


class Broken(datasets.VisionDataset):
    """A set whose reader does not expect that anything is missing."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        raise KeyError("labels")


class Whole(Squares):
    """The same without parts."""

    def __init__(self, root: str, transform: object = None) -> None:
        super().__init__(root, download=False)


class Captions(Whole):
    """Pictures with sentences in the place of classes."""

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:  # type: ignore[override]
        return super().__getitem__(index)[0], "a square"


def write_raw_mnist(root: Path, *, training: int, tested: int) -> Path:
    """A data set in the files of MNIST, which torchvision itself reads without a checksum."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", training), ("t10k", tested)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            (raw / f"{part}-{kind}-ubyte").write_bytes(header + array.tobytes())
    return root


def write_raw_gtsrb(root: Path) -> Path:
    """A few signs of several sizes in the files of GTSRB, which have no checksum either."""
    base = root / "gtsrb"
    generator = np.random.default_rng(0)
    tested = base / "GTSRB" / "Final_Test" / "Images"
    tested.mkdir(parents=True)
    lines = ["Filename;ClassId"]
    for label in range(3):
        folder = base / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        for number, side in enumerate((15, 32, 60)):
            pixels = generator.integers(0, 256, (side, side + number, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:05d}.ppm")
        Image.fromarray(pixels).save(tested / f"{label:05d}.ppm")
        lines.append(f"{label:05d}.ppm;{label}")
    (base / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return root
