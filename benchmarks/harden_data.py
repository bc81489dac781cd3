"""Which images a hardening trains on, and which it is tested on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.hardening_records import DataRecord
from moth_eval.loading.images import read_examples
from moth_eval.loading.rounds import RoundModel
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples, Subject

HELD_OUT = 0.2
"""Fraction of each class that is held out for testing where no test images are given."""


@dataclass(frozen=True, kw_only=True)
class HardeningData:
    """Two sets of images, no image of one in the other unless the caller gave it twice.

    Attributes:
        training: what the method is given.
        test: what accuracy and distances are measured on; never trained on.
        given: images of the data that both, or only the first, were drawn from.
        held_out: fraction of each class that was held out; None where test images were given.
    """

    training: Examples
    test: Examples
    given: int
    held_out: float | None

    def record(
        self, num_classes: int, *, data: Path, test: Path | None, share: float
    ) -> DataRecord:
        """What the card says about the images."""
        return DataRecord(
            data=str(data.resolve()),
            test="" if test is None else str(test.resolve()),
            given=self.given,
            held_out=self.held_out,
            share=share,
            training=len(self.training),
            training_sha256=hash_of(self.training),
            training_per_class=per_class(self.training, num_classes),
            tested=len(self.test),
            test_sha256=hash_of(self.test),
            test_per_class=per_class(self.test, num_classes),
            in_both=in_both(self.training, self.test),
        )


def divide(data: Examples, test: Examples | None, *, share: float, seed: int) -> HardeningData:
    """Draw the training images, and without `test` the test images before them.

    Every class gives its share of images, at least one. Held out is never the last image of a
    class. What is drawn of a class depends on the seed and that class alone.

    Args:
        data: all images.
        test: images for testing; None: a fifth of each class of `data` is held out.
        share: fraction of each class, of what is not held out, in `(0, 1]`.
        seed: decides what is drawn.

    Raises:
        InputError: the share is out of range, or nothing is left to test on.
    """
    if not 0 < share <= 1:
        raise InputError(f"--share must be above 0 and at most 1, got {share}")
    held_out = HELD_OUT if test is None else None
    pool = data
    if test is None:
        rows = draw_share(data.labels, HELD_OUT, (seed, "held out"), leave=1)
        rest = torch.ones(len(data), dtype=torch.bool)
        rest[rows] = False
        test, pool = _rows(data, rows), _rows(data, rest.nonzero().flatten())
    if not len(test):
        raise InputError(
            "no class of --data has two images, so none can be held out for testing: give more "
            "images, or others with --test"
        )
    training = _rows(pool, draw_share(pool.labels, share, (seed, "training")))
    return HardeningData(training=training, test=test, given=len(data), held_out=held_out)


def draw_share(labels: Tensor, share: float, parts: Sequence[object], *, leave: int = 0) -> Tensor:
    """Indices of a share of every class, rising: int64 `(M,)`.

    Args:
        labels: int64 `(N,)`.
        share: fraction of each class, in `(0, 1]`; at least one image.
        parts: what the draw of a class depends on, beside the class.
        leave: images of each class that are not drawn, whatever the share.
    """
    labels = labels.cpu()
    drawn = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        count = min(max(1, round(share * len(members))), len(members) - leave)
        order = torch.randperm(len(members), generator=generator_for(*parts, label))
        drawn.append(members[order[:count]])
    return torch.cat(drawn).sort().values


def read_test(path: Path, model: RoundModel, subject: Subject) -> Examples:
    """Test images, read as the subject's own are.

    Raises:
        InputError: there are none, they have another size or a class that the model does not have.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist; name an existing file or folder (--test)")
    test = read_examples(
        path, layout=model.layout, crop=model.crop, num_classes=subject.num_classes
    )
    channels = subject.image_shape[0]
    if test.images.shape[1] > channels and _is_grey(test.images):
        test = Examples(images=test.images[:, :channels].contiguous(), labels=test.labels)
    if tuple(test.images.shape[1:]) != subject.image_shape:
        raise InputError(
            f"--test: {path} holds images of shape {tuple(test.images.shape[1:])}, those of --data "
            f"have {subject.image_shape}: resize them"
        )
    return test.to(subject.examples.images.device)


def hash_of(examples: Examples) -> str:
    """SHA-256 of images and labels as they are used, hexadecimal."""
    digest = hashlib.sha256(examples.images.cpu().contiguous().numpy().tobytes())
    digest.update(examples.labels.cpu().numpy().tobytes())
    return digest.hexdigest()


def per_class(examples: Examples, num_classes: int) -> tuple[int, ...]:
    """Images of each class."""
    return tuple(torch.bincount(examples.labels.cpu(), minlength=num_classes).tolist())


def in_both(training: Examples, test: Examples) -> int:
    """Test images that are training images as well, pixel by pixel."""
    known = {image.tobytes() for image in training.images.cpu().numpy()}
    return sum(image.tobytes() in known for image in test.images.cpu().numpy())


def first_of(examples: Examples, first: int | None) -> Examples:
    """Only the first so many images; all for None."""
    return Examples(images=examples.images[:first], labels=examples.labels[:first])


def _rows(examples: Examples, rows: Tensor) -> Examples:
    rows = rows.to(examples.labels.device)
    return Examples(images=examples.images[rows], labels=examples.labels[rows])


def _is_grey(images: Tensor) -> bool:
    return bool((images == images[:, :1]).all())
