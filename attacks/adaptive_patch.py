"""Adaptive-Patch: several faint patches, one at a time in training, all of them in tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material
from .patch import Patch
from .trigger import Colour, Threat, check_shares, check_threat

COLOURS: tuple[Colour, ...] = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (0.0, 0.0, 1.0))
"""Of the patches at upper left, upper right, lower left and lower right; chosen to differ."""


@dataclass(frozen=True, kw_only=True)
class AdaptivePatch:
    """Four checkerboard patches, one in each corner.

    A poisoned training image, and a cover, carries one of them, drawn for each image and faint. A
    test image carries all four.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in backdoor-toolbox.
        size: side of a patch (pixels).
        margin: pixels between a patch and the edges.
        opacities: of the four patches in training. Source: 0.5, 0.2, 0.5 and 0.3.
        opacity: of all four in tests.
        covers_per_poisoned: images that carry a patch and keep their label, for one that is
            poisoned. Source: 0.3 % of each in backdoor-toolbox.

    Source: Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the assumption of latent separability
    for backdoor defenses", ICLR 2023.
    Differs from the reference: patches are drawn, no picture files are needed, and a test image
    carries all of them, opaque; images of the target class never become covers.
    """

    target: int = 0
    size: int = 5
    margin: int = 1
    opacities: tuple[float, float, float, float] = (0.5, 0.2, 0.5, 0.3)
    opacity: float = 1.0
    covers_per_poisoned: float = 1.0

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_shares(opacity=self.opacity, opacities=min(self.opacities))
        check_shares(opacities=max(self.opacities))
        if min(self.opacity, *self.opacities) == 0:
            raise InputError("a patch of opacity 0 cannot be seen: expected more than 0, up to 1")
        if self.size < 1 or self.margin < 0 or self.covers_per_poisoned < 0:
            raise InputError(
                "expected a size of 1 or more, no negative margin and no negative "
                f"covers_per_poisoned, got {self.size}, {self.margin}, {self.covers_per_poisoned}"
            )

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Universal."""
        return Threat.UNIVERSAL

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with all patches.

        Raises:
            InputError: a patch leaves the images.
        """
        for corner in range(len(COLOURS)):
            images = self._patch(corner, self.opacity).stamp(images)
        return images

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies with one faint patch each."""
        corners = torch.randint(len(COLOURS), (len(images),), generator=generator)
        stamped = images.clone()
        for corner, opacity in enumerate(self.opacities):
            rows = (corners == corner).to(images.device)
            stamped[rows] = self._patch(corner, opacity).stamp(images[rows])
        return stamped

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Images of every class but the target."""
        return labels != self.target

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """As `stamp_for_training`."""
        return self.stamp_for_training(images, labels, material=material, generator=generator)

    def _patch(self, corner: int, opacity: float) -> Patch:
        low, right = divmod(corner, 2)
        return Patch(
            target=self.target,
            size=self.size,
            row=-1 - self.margin if low else self.margin,
            column=-1 - self.margin if right else self.margin,
            colour=COLOURS[corner],
            pattern="checkerboard",
            opacity=opacity,
        )
