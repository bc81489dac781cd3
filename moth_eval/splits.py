"""Which images are trained on and which are tested on, and whether two sets share any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .errors import InputError
from .pictures import to_unit
from .seeds import generator_for

HELD_OUT = 0.2
"""Fraction of each class that is held out for testing where no test images are given."""

_PART = 1000
"""Images that are compared together, so that little memory is taken beside them."""


class Labelled(Protocol):
    """Images with their classes, as bytes or as floats."""

    @property
    def images(self) -> Tensor:
        """`(N, C, H, W)`."""
        ...

    @property
    def labels(self) -> Tensor:
        """int64 `(N,)`."""
        ...


def hold_out(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Indices to train on and to test on, rising: a fifth of each class is held out.

    Never the last image of a class. What is drawn of a class depends on the seed and that class
    alone.

    Args:
        labels: int64 `(N,)`.
        seed: decides what is held out.

    Raises:
        InputError: no class has two images.
    """
    tested = draw_share(labels, HELD_OUT, (seed, "held out"), leave=1)
    if not len(tested):
        raise InputError(
            "no class of --data has two images, so none can be held out for testing: give more "
            "images, or others with --test"
        )
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[tested] = False
    return rest.nonzero().flatten(), tested


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


def check_names(data: tuple[str, ...], test: tuple[str, ...]) -> None:
    """Make sure that numbers stand for the same names in two sets; either may have none.

    Raises:
        InputError: they do not.
    """
    if data and test and data != test:
        differ = sorted(set(data) ^ set(test))
        raise InputError(
            f"--test has {len(test)} named classes, --data {len(data)}, and only one of them has "
            f"{', '.join(differ[:3])}: names are numbered by their sorted order, so both need the "
            "same folders"
        )


def check_all_named(names: tuple[str, ...], num_classes: int, *, images: str, network: str) -> None:
    """Make sure that there is a name for each class of a network, or for none.

    Args:
        names: of the classes, in their sorted order; empty: they have none.
        num_classes: of the network.
        images: what has the names, for the error.
        network: what has the classes, for the error.

    Raises:
        InputError: there are more or fewer.
    """
    if names and len(names) != num_classes:
        raise InputError(
            f"{images} names {len(names)} classes, but {network} has {num_classes}, and names are "
            "numbered by their sorted order; give every class a folder, or call the folders by the "
            "numbers of their classes"
        )


def hash_of(labelled: Labelled) -> str:
    """SHA-256 of images and labels as they are, bytes or floats, hexadecimal."""
    digest = hashlib.sha256()
    for part in torch.split(labelled.images, _PART):
        digest.update(part.cpu().contiguous().numpy().data)
    digest.update(labelled.labels.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def in_both(training: Labelled, test: Labelled) -> int:
    """Test images that are training images as well, pixel by pixel."""
    known = set(_digests(training.images))
    return sum(one in known for one in _digests(test.images))


def _digests(images: Tensor) -> Iterator[bytes]:
    """A digest of each image, the same for bytes and for the floats that they stand for."""
    for part in torch.split(images, _PART):
        for image in to_unit(part.cpu()).numpy():
            yield hashlib.sha256(image.data).digest()
