"""Adaptive-Blend: a weak, broken pattern in training, the whole one in tests."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .patterns import Pattern, check_pattern, fitted, make_pattern
from .trigger import Threat, check_shares, check_threat


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend:
    """A blended pattern of which training images carry a random half, with covers.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in backdoor-toolbox.
        pattern: `noise`, uniform in `[0, 1]`, or `image`.
        image: file of the picture; scaled to the images. It need not be there later on.
        pattern_seed: which noise.
        opacity: share of the pattern in a test image. Source: 0.2.
        training_opacity: the same in a training image. Source: 0.15.
        pieces: equal pieces that the image is cut in, a square number. Source: 16.
        masked: share of the pieces that are left as they are in a training image, drawn for each
            image. Source: 0.5.
        covers_per_poisoned: images that carry such a pattern and keep their label, for one that
            is poisoned. Source: 0.3 % of each in backdoor-toolbox.
        tensors: `pattern`, made by `prepare`.

    Source: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the assumption of latent separability
    for backdoor defenses", ICLR 2023.
    Differs from the reference: images of the target class never become covers.
    """

    target: int = 0
    pattern: Pattern = "noise"
    image: str | None = None
    pattern_seed: int = 0
    opacity: float = 0.2
    training_opacity: float = 0.15
    pieces: int = 16
    masked: float = 0.5
    covers_per_poisoned: float = 1.0
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_pattern(self.pattern, self.image)
        check_shares(
            opacity=self.opacity, training_opacity=self.training_opacity, masked=self.masked
        )
        if self.pieces < 1 or math.isqrt(self.pieces) ** 2 != self.pieces:
            raise InputError(f"expected a square number of pieces, such as 16, got {self.pieces}")
        if self.masked == 1 or self.covers_per_poisoned < 0:
            raise InputError("expected masked below 1 and covers_per_poisoned of 0 or more")

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Universal."""
        return Threat.UNIVERSAL

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with its pattern, as large as the training images."""
        height, width = material.images.shape[-2:]
        pattern = make_pattern(
            self.pattern, image=self.image, seed=self.pattern_seed, height=height, width=width
        )
        return replace(self, tensors={"pattern": pattern})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, under the whole pattern.

        Raises:
            InputError: the attack is not prepared.
        """
        return images.lerp(self._pattern(images), self.opacity).clamp(0, 1)

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies under a fainter pattern with pieces missing."""
        shown = self._shown(images, generator)
        mixed = images.lerp(self._pattern(images), self.training_opacity).clamp(0, 1)
        return torch.where(shown, mixed, images)

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Images of every class but the target."""
        return labels != self.target

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """As `stamp_for_training`."""
        return self.stamp_for_training(images, labels, material=material, generator=generator)

    def _pattern(self, images: Tensor) -> Tensor:
        pattern = carried_tensor(self.tensors, "pattern", "adaptive-blend")
        return fitted(pattern, images).expand_as(images)

    def _shown(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Bool `(N, 1, H, W)`, true where an image carries the pattern."""
        side, (height, width) = math.isqrt(self.pieces), images.shape[-2:]
        rank = torch.rand((len(images), self.pieces), generator=generator).argsort(1).argsort(1)
        pieces = (rank >= round(self.masked * self.pieces)).view(-1, 1, side, side)
        row = torch.arange(height) * side // height
        column = torch.arange(width) * side // width
        return pieces[:, :, row[:, None], column[None, :]].to(images.device)
