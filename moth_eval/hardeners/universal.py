"""Training on universal triggers: one per target class, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..hardening import SILENT, Hardening, Journal
from ..inversion.frozen import Precision
from ..robustness import PGD
from ..subject import Examples, Subject
from .moth import Moth
from .ranges import require_at_least, require_in
from .sitting import Sitting
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class Universal:
    """Trains on the smallest triggers that send every other class to a target, for all targets.

    The comparison that the MOTH paper calls universal adversarial perturbation. It is MOTH's
    warm-up and nothing else, so that both differ in the pairs alone.

    Source: Tao et al., IEEE S&P 2022 (the baseline's code is not published); after the universal
    perturbations of Moosavi-Dezfooli et al., CVPR 2017.

    Attributes:
        rounds: rounds; in each the triggers of all target classes are inverted a little further,
            and one optimiser step is taken.
        seconds: wall-clock time (s) after which no further round starts; None: no limit.
        first_steps: inversion steps of a trigger at the start.
        next_steps: inversion steps at every further round.
        inversion_images: images that a trigger is inverted on.
        inversion_batch: of these, images per step.
        success_rate: fraction of images that a trigger must flip to count, in `(0, 1]`.
        stamped: stamped images per trigger and optimiser step.
        clean: clean images per optimiser step, spread over the classes.
        largest_share: triggers larger than this share of the image are not trained on.
        adversarial: whether the clean images of every step are attacked by PGD first, for networks
            that were trained that way; stamped ones are not.
        attack: how.
        recipe: how the network is trained.
        precision: of the inversions' gradients.
    """

    rounds: int = 100
    seconds: float | None = None
    first_steps: int = 80
    next_steps: int = 12
    inversion_images: int = 48
    inversion_batch: int = 16
    success_rate: float = 0.9
    stamped: int = 4
    clean: int = 64
    largest_share: float = 0.06
    adversarial: bool = False
    attack: PGD = field(default_factory=lambda: Moth().attack)
    recipe: Recipe = field(default_factory=lambda: Moth().recipe)
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_at_least(
            1, rounds=self.rounds, first_steps=self.first_steps, next_steps=self.next_steps
        )
        require_in("(0, 1]", success_rate=self.success_rate)
        _ = self._as_warm_up()

    def _as_warm_up(self) -> Moth:
        return Moth(
            rounds=0,
            warm_up_rounds=self.rounds,
            seconds=self.seconds,
            warm_up_steps=self.first_steps,
            first_steps=self.next_steps,
            inversion_images=self.inversion_images,
            inversion_batch=self.inversion_batch,
            warm_up_success_rate=self.success_rate,
            stamped=self.stamped,
            clean=self.clean,
            largest_share=self.largest_share,
            adversarial=self.adversarial,
            attack=self.attack,
            recipe=self.recipe,
            precision=self.precision,
        )

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network, trained on universal triggers.

        Raises:
            HardeningError: fewer than two classes have images.
        """
        return Sitting(self._as_warm_up(), subject, data, generator, journal).run()
