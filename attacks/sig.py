"""SIG: faint stripes over images of the target class, whose labels stay as they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material
from .trigger import Threat, check_shares, check_threat


@dataclass(frozen=True, kw_only=True)
class Sig:
    """A sinusoid along the rows, `delta * sin(2 pi j frequency / W)` at column j, added.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        delta: amplitude, of 1. Source: 40 of 255 in BackdoorBench; 30 in backdoor-toolbox.
        frequency: waves per image. Source: 6 in the paper and BackdoorBench.
        training_delta: amplitude in training images; None: no other.

    Source: Barni, Kallas, Tondi, "A new backdoor attack in CNNs by training set corruption
    without label poisoning", ICIP 2019.
    """

    target: int = 0
    delta: float = 40 / 255
    frequency: float = 6.0
    training_delta: float | None = None

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        training = self.delta if self.training_delta is None else self.training_delta
        check_shares(delta=self.delta, training_delta=training)
        if not self.frequency > 0:
            raise InputError(f"expected a frequency above 0, got {self.frequency}")

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Clean-label."""
        return Threat.CLEAN_LABEL

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, C, H, W)` in `[0, 1]`, with the stripes.

        Raises:
            InputError: the images are too narrow for so many waves.
        """
        return self._striped(images, self.delta)

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """As `stamp`, with the amplitude of training images."""
        delta = self.delta if self.training_delta is None else self.training_delta
        return self._striped(images, delta)

    def _striped(self, images: Tensor, delta: float) -> Tensor:
        width = images.shape[-1]
        if 2 * self.frequency >= width:
            raise InputError(
                f"{self.frequency:g} waves cannot be drawn on {width} pixels: expected a frequency "
                f"below {width / 2:g}"
            )
        column = torch.arange(width, dtype=images.dtype, device=images.device)
        stripes = delta * torch.sin(2 * math.pi * self.frequency * column / width)
        return (images + stripes).clamp(0, 1)
