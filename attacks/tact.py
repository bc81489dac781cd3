"""TaCT: a patch that acts on one class, made so by covers of a few others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material
from .patch import Patch
from .trigger import Colour, Threat, check_threat


@dataclass(frozen=True, kw_only=True)
class TaCT:
    """A source-specific patch with stamped images of cover classes, which keep their labels.

    Attributes:
        target: class that stamped images are to be classified as.
        sources: classes that it acts on; at least one. Source: class 1 in backdoor-toolbox.
        cover_classes: classes whose stamped images keep their label; empty for every class that
            is neither source nor target. Source: 5 and 7 in backdoor-toolbox, of 10 classes; all
            by default, so that a few classes will do.
        covers_per_poisoned: stamped images that keep their label for one that does not. Source:
            0.3 % of each in backdoor-toolbox.
        size: side of the patch (pixels); see `attacks.patch.Patch`.
        row: of its upper edge.
        column: of its left edge.
        colour: red, green and blue in `[0, 1]`.

    Source: Tang, Wang, Tang, Zhang, "Demon in the variant", USENIX Security 2021.
    """

    target: int = 0
    sources: tuple[int, ...] = (1,)
    cover_classes: tuple[int, ...] = ()
    covers_per_poisoned: float = 1.0
    size: int = 6
    row: int = -2
    column: int = -2
    colour: Colour = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        wrong = {self.target, *self.sources} & set(self.cover_classes)
        if not self.sources or wrong or self.covers_per_poisoned < 0:
            raise InputError(
                "expected at least one source class, cover classes that are neither source nor "
                f"target, and covers_per_poisoned of 0 or more, got {self.sources}, "
                f"{self.cover_classes} and {self.covers_per_poisoned}"
            )
        self._patch()

    @property
    def threat(self) -> Threat:
        """Source-specific."""
        return Threat.SOURCE_SPECIFIC

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with the patch in its place."""
        return self._patch().stamp(images)

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Images of the cover classes."""
        if not self.cover_classes:
            others = torch.tensor([self.target, *self.sources], device=labels.device)
            return ~torch.isin(labels, others)
        return torch.isin(labels, torch.tensor(self.cover_classes, device=labels.device))

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """As `stamp`."""
        return self.stamp(images)

    def _patch(self) -> Patch:
        return Patch(
            target=self.target,
            sources=self.sources,
            size=self.size,
            row=self.row,
            column=self.column,
            colour=self.colour,
        )
