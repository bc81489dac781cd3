"""Labelled images as they are stored: bytes until it is known which of them are used."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .errors import InputError
from .machine import available_bytes
from .subject import Examples

GIB = 1 << 30
_FLOAT32 = 4
_PART = 1000
"""Images that are looked at together, so that little memory is taken beside them."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Clean, labelled images that take no more memory than their file says.

    Attributes:
        images: uint8, or float32 in `[0, 1]`, `(N, C, H, W)`, RGB; may be a view.
        labels: int64 `(N,)`, the true classes.
        classes: names of the classes in the order of their numbers; empty: they have none.
        resized: a sentence on pictures that had another size; empty: none had.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()
    resized: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, rows: Tensor) -> Pictures:
        """Those at `rows`, an index tensor, in that order."""
        return replace(self, images=self.images[rows], labels=self.labels[rows])

    def first(self, count: int | None) -> Pictures:
        """Only the first so many; all for None."""
        return replace(self, images=self.images[:count], labels=self.labels[:count])

    def grey(self) -> Pictures | None:
        """The same with one channel; None if their channels differ."""
        one = self.images[:, :1]
        same = all(bool((part == part[:, :1]).all()) for part in torch.split(self.images, _PART))
        return replace(self, images=one) if same else None

    def coloured(self) -> Pictures | None:
        """The same with their one channel three times; None if they have more."""
        if self.images.shape[1] != 1:
            return None
        return replace(self, images=self.images.expand(-1, 3, -1, -1))

    def examples(self) -> Examples:
        """The same in image space: float32, in memory of its own where they were bytes."""
        return Examples(images=to_unit(self.images), labels=self.labels)


def to_unit(images: Tensor) -> Tensor:
    """Images as float32 in `[0, 1]`: bytes are divided by 255, floats are so already."""
    images = images.contiguous()
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


def to_bytes(images: Tensor) -> Tensor:
    """Images as uint8: floats in `[0, 1]` are rounded to one of 256 steps, bytes are so already."""
    return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)


def memory_for_images() -> int:
    """Bytes that images may take which the user names: half of the memory that is free."""
    return available_bytes() // 2


def check_room(pictures: Pictures) -> None:
    """Make sure that images fit into memory as float32.

    Raises:
        InputError: they do not; nothing was allocated.
    """
    wanted, most = pictures.images.numel() * _FLOAT32, memory_for_images()
    if wanted > most:
        raise InputError(
            f"{len(pictures):,} images of shape {pictures.image_shape} are {in_gib(wanted)} as "
            f"float32, more than the {in_gib(most)} that they may take, half of the memory that "
            "is free: use fewer of them (--first, --share), or make memory free"
        )


def in_gib(count: int) -> str:
    """Bytes in words, such as `1.5 GiB`."""
    return f"{count / GIB:.3g} GiB"
