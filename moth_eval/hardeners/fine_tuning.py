"""Fine-tuning on the clean images: the control that every removal method is held against."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..hardening import SILENT, Hardening, Journal
from ..subject import Examples, Subject
from .epochs import fine_tune
from .plain_rounds import PlainRounds
from .ranges import require_at_least
from .trainer import Recipe

CLEAN = Recipe(
    learning_rate=0.01,
    final_share=0.0,
    weight_decay=5e-4,
    batch_norm="train",
    shift=2,
)
"""SGD at 0.01 down a cosine, momentum 0.9 and weight decay 5e-4. Source: BackdoorBench's settings
for fine-tuning. Differs: Nesterov momentum; images are moved by up to two pixels."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Trains on a little clean data with true labels, and does nothing else.

    Source: the control of Liu et al., "Fine-Pruning", RAID 2018, and of every removal benchmark
    since. Learning rate, decay and data as in BackdoorBench (100 epochs there), epochs as in
    BackdoorBox.

    Attributes:
        epochs: passes over the images, each class alike.
        batch: images per optimiser step.
        recipe: how the network is trained.
    """

    epochs: int = 10
    batch: int = 128
    recipe: Recipe = field(default_factory=lambda: CLEAN)

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
