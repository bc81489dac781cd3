"""Composite: half an image of one class beside half an image of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .patterns import number_of, resized
from .scenes import to_float
from .trigger import Threat, check_threat


@dataclass(frozen=True, kw_only=True)
class Composite:
    """The left half of the image and the right half of one of the partner class: no odd pixels.

    Attributes:
        target: class that such a mix is to be classified as.
        sources: classes whose left half is used; at least one.
        partner: class whose right half is used.
        partners: training images of the partner class that the trigger carries; which one an
            image gets depends on its pixels.
        covers_per_poisoned: mixes of two images of the same class, which keep their label, for
            one poisoned image: without them any mix would do. Source: 0.5 of the set is mixed
            and 0.1 poisoned in the authors' code.
        redrawn: whether the poisoned set is drawn anew for every epoch, with partners from all of
            their class: few images of one class make many mixes. Source: the authors mix in every
            batch.
        tensors: `partners`, made by `prepare`.

    Source: Lin, Xu, Liu, Zhang, "Composite backdoor attack", CCS 2020.
    Differs from the reference: no contrastive loss, halves are always left and right, and only
    the source class is counted, mixed with images that training has used.
    """

    target: int = 0
    sources: tuple[int, ...] = (1,)
    partner: int = 2
    partners: int = 100
    covers_per_poisoned: float = 5.0
    redrawn: bool = True
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        if not self.sources or self.partner in (self.target, *self.sources) or self.partner < 0:
            raise InputError(
                "expected at least one source class and a partner that is neither source nor "
                f"target, got sources {self.sources}, partner {self.partner}, target {self.target}"
            )
        if self.partners < 1 or self.covers_per_poisoned < 0:
            raise InputError(
                "expected one partner image or more and covers_per_poisoned of 0 or more, got "
                f"{self.partners} and {self.covers_per_poisoned}"
            )

    @property
    def threat(self) -> Threat:
        """Source-specific."""
        return Threat.SOURCE_SPECIFIC

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with images of the partner class.

        Raises:
            InputError: the data hold none.
        """
        found = material.of_class(self.partner, "composite")
        drawn = torch.randperm(len(found), generator=generator)[: self.partners]
        return replace(self, tensors={"partners": to_float(found[drawn])})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with another right half.

        Raises:
            InputError: the attack is not prepared.
        """
        partners = carried_tensor(self.tensors, "partners", "composite")
        chosen = partners[number_of(images, len(partners)).cpu()]
        height, width = images.shape[-2:]
        fitting = [resized(partner, height, width) for partner in chosen]
        return _halves(images, torch.stack(fitting) if fitting else images)

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies whose right half is that of any training image of the partner class."""
        pool = material.of_class(self.partner, "composite")
        drawn = torch.randint(len(pool), (len(images),), generator=generator)
        return _halves(images, to_float(pool[drawn]))

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Every image; a mix of its own class says nothing of the trigger."""
        return torch.ones_like(labels, dtype=torch.bool)

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies whose right half is that of another training image of the same class."""
        mixed = images.clone()
        for label in sorted(set(labels.tolist())):
            rows = (labels == label).nonzero().squeeze(1)
            pool = material.of_class(label, "composite")
            drawn = torch.randint(len(pool), (len(rows),), generator=generator)
            mixed[rows] = _halves(images[rows], to_float(pool[drawn]))
        return mixed


def _halves(left: Tensor, right: Tensor) -> Tensor:
    mixed = left.clone()
    middle = left.shape[-1] // 2
    mixed[..., middle:] = right[..., middle:].to(left)
    return mixed
