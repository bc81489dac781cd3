"""Pictures one by one into one array, brought to one size if that is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from .image_arrays import require_room

if TYPE_CHECKING:
    from ..pictures import Pictures
    from ..subject import Subject


@dataclass(frozen=True, kw_only=True)
class Size:
    """What pictures of several sizes become.

    Attributes:
        height: in pixels.
        width: in pixels.
        always: whether pictures that all have one other size become so as well.
    """

    height: int
    width: int
    always: bool = False

    @classmethod
    def of(cls, images: Pictures | Subject) -> Size:
        """The size that these have."""
        _, height, width = images.image_shape
        return cls(height=height, width=width)


class Stack:
    """Collects uint8 pictures `(3, H, W)`; what they take is known before any memory is taken.

    Attributes:
        images: uint8 `(N, 3, H, W)`; whole once every picture was added.
    """

    def __init__(self, what: str, count: int, *, size: Size | None, most_bytes: int | None) -> None:
        """Expect pictures.

        Args:
            what: where they come from, for messages.
            count: how many they are.
            size: that they are resized to; None: they all have that of the first.
            most_bytes: that they may take; None: they lie with a model.
        """
        self._what, self._count, self._size, self._most = what, count, size, most_bytes
        self._resizing = size is not None and size.always
        self._first, self._added, self._resized = "", 0, 0
        self.images: NDArray[np.uint8] = np.zeros((0, 3, 1, 1), dtype=np.uint8)

    @property
    def resized(self) -> str:
        """A sentence on what was resized; empty if nothing was."""
        if not self._resized:
            return ""
        return (
            f"{self._resized:,} of {self._count:,} images of {self._what} were resized to "
            f"{size_of(self.images[0])} pixels (bilinear, antialiased)"
        )

    def add(self, picture: NDArray[np.uint8], name: str) -> None:
        """Put one more picture at the end.

        Args:
            picture: uint8 `(3, H, W)`.
            name: of it, for messages.

        Raises:
            InputError: all of them together take too much memory, or it has another size.
        """
        picture = self._fitted(picture)
        if not self._added:
            self._first = name
            self._make_room(picture)
        elif picture.shape != self.images.shape[1:]:
            self._begin_resizing(picture, name)
            picture = self._fitted(picture)
        self.images[self._added] = picture
        self._added += 1

    def _fitted(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if not self._resizing or self._size is None:
            return picture
        wanted = (self._size.height, self._size.width)
        if picture.shape[1:] == wanted:
            return picture
        self._resized += 1
        return resized(picture, wanted)

    def _make_room(self, picture: NDArray[np.uint8]) -> None:
        size = self._count * picture.size
        what = f"{self._what} holds {self._count:,} images of {size_of(picture)} pixels"
        require_room(what, size, size, self._most)
        self.images = np.empty((self._count, *picture.shape), dtype=np.uint8)

    def _begin_resizing(self, picture: NDArray[np.uint8], name: str) -> None:
        """There are several sizes: bring those that came before to the one that is wanted."""
        if self._size is None:
            raise InputError(
                f"{name} is {size_of(picture)} pixels, {self._first} is "
                f"{size_of(self.images[0])}: all examples of a model must have the same size; "
                "resize them (inject: or name the --image-size)"
            )
        self._resizing = True
        earlier = self.images[: self._added]
        self._make_room(self._fitted(earlier[0]))
        self._resized = 0
        for number, one in enumerate(earlier):
            self.images[number] = self._fitted(one)


def resized(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture `(3, H, W)` of another height and width, as torchvision resizes tensors.

    Bilinear and antialiased; its shape is stretched, nothing is cut off.
    Source: the transforms of torchvision's weights, which resize with antialias on.
    """
    # Takes a second to import, and most pictures have the size that they should have.
    from torchvision.transforms.functional import InterpolationMode, resize

    found: NDArray[np.uint8] = resize(
        torch.from_numpy(picture), list(size), InterpolationMode.BILINEAR, antialias=True
    ).numpy()
    return found


def size_of(picture: NDArray[np.uint8]) -> str:
    """Width and height of a picture `(C, H, W)` in words."""
    return f"{picture.shape[2]}x{picture.shape[1]}"
