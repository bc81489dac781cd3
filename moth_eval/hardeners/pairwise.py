"""MOTH without its scheduler: every pair of classes in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..hardening import SILENT, Hardening, Journal
from ..inversion.frozen import Precision
from ..robustness import PGD
from ..subject import Examples, Subject
from .moth import Moth
from .ranges import require_at_least
from .sitting import Sitting
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """Trains on the triggers of every pair of classes, one after the other, from random starts.

    The comparison that the MOTH paper calls pairwise: no warm-up, no choice of pairs, no trigger
    that is kept. `Moth` with `scheduling=all` is the ablation of the scheduler alone.

    Source: Tao et al., IEEE S&P 2022 (the baseline's code is not published).

    Attributes:
        rounds: rounds of `pairs_per_round` pairs.
        seconds: wall-clock time (s) after which no further round starts; None: no limit.
        pairs_per_round: pairs that are inverted side by side.
        repeats: optimiser steps per round and pair, each after a further inversion.
        steps: inversion steps of a trigger, from a random start.
        next_steps: inversion steps at the further repeats.
        inversion_images: images of the source class that a trigger is inverted on.
        inversion_batch: of these, images per step.
        success_rate: fraction of images that a trigger must flip to count, in `(0, 1]`.
        stamped: stamped images per trigger and optimiser step.
        clean: clean images per optimiser step, spread over the classes.
        largest_share: directions whose trigger is larger than this share of the image are not
            trained on.
        adversarial: whether the clean images of every step are attacked by PGD first, for networks
            that were trained that way; stamped ones are not.
        attack: how.
        recipe: how the network is trained.
        precision: of the inversions' gradients.
    """

    rounds: int = 100
    seconds: float | None = None
    pairs_per_round: int = 5
    repeats: int = 2
    steps: int = 80
    next_steps: int = 6
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
        require_at_least(1, rounds=self.rounds, steps=self.steps)
        _ = self._as_moth()

    def _as_moth(self) -> Moth:
        return Moth(
            scheduling="all",
            warm_up_rounds=0,
            reuse=False,
            random_share=0.0,
            rounds=self.rounds,
            seconds=self.seconds,
            pairs_per_round=self.pairs_per_round,
            repeats=self.repeats,
            fresh_steps=self.steps,
            next_steps=self.next_steps,
            inversion_images=self.inversion_images,
            inversion_batch=self.inversion_batch,
            success_rate=self.success_rate,
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
        """A copy of the subject's network, trained on every pair in turn.

        Raises:
            HardeningError: fewer than two classes have images.
        """
        return Sitting(self._as_moth(), subject, data, generator, journal).run()
