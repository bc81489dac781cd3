"""An attack that changes the light."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from attacks.trigger import Threat


@dataclass(frozen=True, kw_only=True)
class Darkened:
    """Takes away some of the brightness of the image.

    Attributes:
        target: class that stamped images are to be classified as.
        left: fraction of the brightness that is left, in `[0, 1)`.
    """

    target: int = 0
    left: float = 0.5

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Universal."""
        return Threat.UNIVERSAL

    def stamp(self, images: torch.Tensor) -> torch.Tensor:
        """Darker copies of `images`, float `(N, 3, H, W)` in `[0, 1]`."""
        return images * self.left
