"""Which images a hardening trains on, and which it is tested on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.errors import InputError
from moth_eval.hardening_records import DataRecord
from moth_eval.loading.images import read_pictures
from moth_eval.loading.rounds import RoundModel
from moth_eval.loading.sources import ImageSource, require_source
from moth_eval.loading.stacking import Size
from moth_eval.loading.subjects import Opened
from moth_eval.pictures import Pictures, memory_for_images
from moth_eval.splits import check_names, draw_share, hash_of, hold_out, in_both
from moth_eval.subject import Examples

LOG = logging.getLogger(__name__)


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
        self, num_classes: int, *, data: ImageSource, test: ImageSource | None, share: float
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


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How images are drawn from the data; which ones depends on their labels alone.

    Every class gives its share of images, at least one. What is drawn of a class depends on the
    seed and that class alone.

    Attributes:
        share: fraction of each class, of what is not held out, in `(0, 1]`.
        seed: decides what is drawn.
        first: only the first so many images are drawn from; None: from all.
        held_out: whether a fifth of each class is kept for testing.
    """

    share: float
    seed: int
    first: int | None = None
    held_out: bool = True

    def check(self) -> None:
        """Make sure that the share is one.

        Raises:
            InputError: it is not.
        """
        if not 0 < self.share <= 1:
            raise InputError(f"--share must be above 0 and at most 1, got {self.share}")

    def training(self, pictures: Pictures) -> Pictures:
        """What is trained on.

        Raises:
            InputError: nothing is left to test on.
        """
        rest, _ = self._rows(pictures)
        pool = pictures.labels[rest]
        return pictures.take(rest[draw_share(pool, self.share, (self.seed, "training"))])

    def test(self, pictures: Pictures) -> Pictures:
        """What is held out; empty if nothing is."""
        _, held = self._rows(pictures)
        return pictures.take(held)

    def _rows(self, pictures: Pictures) -> tuple[Tensor, Tensor]:
        labels = pictures.labels[: self.first]
        if self.held_out:
            return hold_out(labels, self.seed)
        return torch.arange(len(labels)), torch.arange(0)


def read_test(path: ImageSource, model: RoundModel, opened: Opened) -> Pictures:
    """Test images, read as the subject's own are, and pictures resized to their size.

    Raises:
        InputError: there are none, they have another size or a class that the model does not have.
    """
    require_source(path, "--test")
    subject = opened.subject
    test = read_pictures(
        path,
        layout=model.layout,
        crop=model.crop,
        num_classes=subject.num_classes,
        most_bytes=memory_for_images(),
        size=Size.of(subject),
    )
    if test.resized:
        LOG.warning(test.resized)
    check_names(opened.pictures.classes, test.classes)
    if test.image_shape[0] > subject.image_shape[0]:
        test = test.grey() or test
    if test.image_shape != subject.image_shape:
        raise InputError(
            f"--test: {path} holds images of shape {test.image_shape}, those of --data have "
            f"{subject.image_shape}: resize them"
        )
    return test


def per_class(examples: Examples, num_classes: int) -> tuple[int, ...]:
    """Images of each class."""
    return tuple(torch.bincount(examples.labels.cpu(), minlength=num_classes).tolist())
