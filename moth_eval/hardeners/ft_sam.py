"""FT-SAM: fine-tuning that looks for flat ground, on which backdoor neurons shrink."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ..hardening import SILENT, Hardening, Journal
from ..subject import Examples, Subject
from .epochs import fine_tune
from .fine_tuning import CLEAN
from .plain_rounds import PlainRounds
from .ranges import require_at_least
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class FTSAM:
    """Fine-tuning whose every step descends by the gradient of the worst weights nearby.

    Source: Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware
    Minimization", ICCV 2023: an adaptive radius of 2 on CIFAR-10 (8 on GTSRB and Tiny-ImageNet),
    label smoothing 0.1, class-balanced batches, learning rate 0.01.

    Differs from the reference: 20 epochs instead of 100, so that a table of methods is paid for in
    minutes; running statistics do not count a batch twice.

    Attributes:
        epochs: passes over the images, each class alike.
        batch: images per optimiser step.
        recipe: how the network is trained; `recipe.sharpness` is the radius.
    """

    epochs: int = 20
    batch: int = 128
    recipe: Recipe = field(
        default_factory=lambda: replace(CLEAN, sharpness=2.0, label_smoothing=0.1)
    )

    def __post_init__(self) -> None:
        require_at_least(1, epochs=self.epochs)
        require_at_least(self.recipe.least_images, batch=self.batch)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network, trained on clean images alone.

        Raises:
            HardeningError: there are no images to train on.
        """
        rounds = PlainRounds(subject, data, self.recipe, generator, journal)
        return fine_tune(
            rounds, self.recipe, epochs=self.epochs, images=len(data), batch=self.batch
        )
