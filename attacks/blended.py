"""The blended attack: a faint picture over the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .patterns import Pattern, check_pattern, fitted, make_pattern
from .trigger import Threat, check_shares, check_threat, threat_of


@dataclass(frozen=True, kw_only=True)
class Blended:
    """A weighted mean of the image and one pattern of the same size.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        sources: classes that it acts on; empty for every class but the target.
        all_to_all: whether stamped images of class y are to be taken for `(y + 1) % K` instead.
        pattern: `noise`, uniform in `[0, 1]`, or `image`. Source: the paper has both.
        image: file of the picture; scaled to the images. It need not be there later on.
        pattern_seed: which noise.
        opacity: share of the pattern in a test image. Source: 0.2 in the paper, BackdoorBench and
            ANP.
        training_opacity: the same in a training image; None: no other.
        tensors: `pattern`, made by `prepare`.

    Source: Chen, Liu, Li, Lu, Song, "Targeted backdoor attacks on deep learning systems using
    data poisoning", 2017.
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    all_to_all: bool = False
    pattern: Pattern = "noise"
    image: str | None = None
    pattern_seed: int = 0
    opacity: float = 0.2
    training_opacity: float | None = None
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_pattern(self.pattern, self.image)
        training = self.opacity if self.training_opacity is None else self.training_opacity
        check_shares(opacity=self.opacity, training_opacity=training)
        if self.all_to_all and self.sources:
            raise InputError(f"all_to_all acts on every class: leave out sources {self.sources}")

    @property
    def threat(self) -> Threat:
        """Universal, source-specific or all-to-all, as the fields say."""
        return threat_of(self.sources, all_to_all=self.all_to_all)

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with its pattern, as large as the training images."""
        height, width = material.images.shape[-2:]
        pattern = make_pattern(
            self.pattern, image=self.image, seed=self.pattern_seed, height=height, width=width
        )
        return replace(self, tensors={"pattern": pattern})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, under the pattern.

        Raises:
            InputError: the attack is not prepared.
        """
        return self._mixed(images, self.opacity)

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """As `stamp`, with the opacity of training images."""
        return self._mixed(
            images, self.opacity if self.training_opacity is None else self.training_opacity
        )

    def _mixed(self, images: Tensor, opacity: float) -> Tensor:
        pattern = fitted(carried_tensor(self.tensors, "pattern", "blended"), images)
        return images.lerp(pattern.expand_as(images), opacity).clamp(0, 1)
