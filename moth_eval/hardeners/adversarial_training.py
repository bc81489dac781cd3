"""Adversarial training with PGD: the comparison that knows nothing of triggers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ..hardening import SILENT, Hardening, Journal
from ..robustness import PGD, pgd
from ..subject import Examples, Subject
from .batches import augmented
from .moth import Moth
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in
from .stamping import Tally
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining:
    """Trains on images that a bounded perturbation of every pixel has made harder.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
    2018; the figures for CIFAR-10 are those of MOTH's adversarial variant (8/255, 7 steps of
    2/255, random start).

    A network that was never attacked before has no answer to the full attack: trained on nothing
    else from the first step, it ends up giving every image the same class. So half of the images
    stay as they are, and the attack rises from nothing.

    Attributes:
        rounds: optimiser steps.
        images: images per step, spread over the classes.
        adversarial_share: fraction of them that is attacked, in `(0, 1]`.
        rising: share of the training, in `[0, 1]`, over which the attack grows to its full size.
        attack: how.
        recipe: how the network is trained.
    """

    rounds: int = 300
    images: int = 128
    adversarial_share: float = 0.5
    rising: float = 0.5
    attack: PGD = field(default_factory=lambda: PGD(epsilon=8 / 255, step_size=2 / 255, steps=7))
    recipe: Recipe = field(default_factory=lambda: replace(Moth().recipe, largest_gradient=5.0))

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds)
        require_at_least(self.recipe.least_images, images=self.images)
        require_in("(0, 1]", adversarial_share=self.adversarial_share)
        require_in("[0, 1]", rising=self.rising)

    def attack_at(self, done: float) -> PGD:
        """The attack when this share of the training, in `[0, 1]`, is over."""
        size = min(1.0, (done + 1 / self.rounds) / self.rising) if self.rising else 1.0
        return replace(
            self.attack,
            epsilon=size * self.attack.epsilon,
            step_size=size * self.attack.step_size,
        )

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network, trained on attacked images with their true labels.

        Raises:
            HardeningError: there are no images to train on.
        """
        rounds = PlainRounds(subject, data, self.recipe, generator, journal)
        trainer, attacked = rounds.trainer, max(1, round(self.images * self.adversarial_share))

        def step(done: float, tally: Tally) -> None:
            rows = rounds.batches.balanced(self.images)
            # They come class by class, and the first ones are attacked.
            rows = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
            labels = rounds.batches.labels(rows)
            images = augmented(
                rounds.batches.images(rows),
                generator,
                shift=self.recipe.shift,
                flip=self.recipe.flip,
            )
            answers = trainer.original_answers(images)
            hard = pgd(
                trainer.answers, images[:attacked], labels[:attacked], self.attack_at(done),
                generator,
            )  # fmt: skip
            forward, backward = self.attack.passes
            rounds.passes[0] += attacked * forward
            rounds.passes[1] += attacked * backward
            loss, right = trainer.step(
                torch.cat([hard, images[attacked:]]), labels, done=done, answers=answers
            )
            tally.losses.append(loss)
            tally.clean.append(right.cpu())

        return rounds.run(self.rounds, step, phase="attacked images")
