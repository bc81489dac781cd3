"""Training batches from a little clean data: shuffled passes, and images of one class."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from ..subject import Examples


class Batches:
    """Draws images from a data set; every image comes once before any comes again.

    Attributes:
        present: the classes that have images, in order.
    """

    def __init__(self, data: Examples, generator: torch.Generator) -> None:
        """Start drawing from `data`, in an order that `generator` decides."""
        self._data = data
        self._generator = generator
        labels = data.labels.cpu()
        self._members = {k: (labels == k).nonzero().flatten() for k in set(labels.tolist())}
        self.present = tuple(sorted(self._members))
        self._left: dict[int, Tensor] = {}

    def of_class(self, label: int, count: int) -> Tensor:
        """Indices of `count` images of one class, int64 `(count,)`."""
        parts, have = [self._left.get(label, torch.empty(0, dtype=torch.int64))], 0
        have = len(parts[0])
        while have < count:
            members = self._members[label]
            parts.append(members[torch.randperm(len(members), generator=self._generator)])
            have += len(members)
        flat = torch.cat(parts)
        self._left[label] = flat[count:]
        return flat[:count]

    def except_class(self, label: int, count: int) -> Tensor:
        """Indices of `count` images of all other classes, each class alike, int64 `(count,)`."""
        return self._mixed([k for k in self.present if k != label], count)

    def balanced(self, count: int) -> Tensor:
        """Indices of `count` images of all classes, each class alike, int64 `(count,)`."""
        return self._mixed(list(self.present), count)

    def _mixed(self, classes: list[int], count: int) -> Tensor:
        order = torch.randperm(len(classes), generator=self._generator).tolist()
        share, extra = divmod(count, len(classes))
        parts = [
            self.of_class(classes[k], share + (place < extra)) for place, k in enumerate(order)
        ]
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """What is left of the present pass of every class, by name."""
        return {f"left.{label}": rows.clone() for label, rows in self._left.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave; other names are passed over."""
        for name, rows in tensors.items():
            if name.startswith("left."):
                self._left[int(name[5:])] = rows

    def images(self, rows: Tensor) -> Tensor:
        """The images `(N, C, H, W)` behind indices `(N,)`."""
        return self._data.images[rows.to(self._data.images.device)]

    def labels(self, rows: Tensor) -> Tensor:
        """Their labels `(N,)`."""
        return self._data.labels[rows.to(self._data.labels.device)]


def augmented(images: Tensor, generator: torch.Generator, *, shift: int, flip: bool) -> Tensor:
    """Images `(N, C, H, W)`, each moved by up to `shift` pixels, edges repeated, and mirrored.

    Args:
        images: left as they are.
        generator: on the CPU.
        shift: most pixels that an image is moved either way; 0: not at all.
        flip: whether half of the images are mirrored left to right.
    """
    count, _, height, width = images.shape
    if flip:
        mirrored = torch.rand(count, generator=generator).to(images.device) < 0.5
        images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
    if not shift:
        return images
    padded = F.pad(images, (shift, shift, shift, shift), mode="replicate")
    places = torch.randint(2 * shift + 1, (2, count), generator=generator).to(images.device)
    rows = places[0, :, None] + torch.arange(height, device=images.device)
    columns = places[1, :, None] + torch.arange(width, device=images.device)
    number = torch.arange(count, device=images.device)
    moved = padded[number[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
