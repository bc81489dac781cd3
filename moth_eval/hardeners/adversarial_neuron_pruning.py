"""Adversarial neuron pruning (ANP): channels that a little noise turns to the backdoor go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from ..hardening import SILENT, Hardening, HardeningStatus, Journal, Selection
from ..inversion.frozen import PRECISIONS, Precision
from ..subject import Examples, Subject
from .mask_pruning import NO_NORM, descend, fresh_mask, pruned_hardening
from .norm_channels import NormChannels
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in, require_word
from .stamping import Tally
from .trainer import Recipe
from .validation import held_back


@dataclass(frozen=True, kw_only=True)
class AdversarialNeuronPruning:
    """Masks BatchNorm channels while noise on their weights works against it, and prunes low masks.

    Source: Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models", NeurIPS 2021;
    the defaults are theirs where nothing else is said.

    Differs from the reference: fewer and smaller steps, on images as they are; the noise keeps to
    its size where the published code lets it grow to twice that; the threshold is chosen on clean
    images that the masks were not trained on, never on a trigger.

    Attributes:
        rounds: steps of the masks (published: 2,000).
        images: images per step, spread over the classes, at least 2 (published: 128).
        epsilon: largest share by which noise changes a weight or bias.
        steps: of the noise, each `epsilon / steps` long.
        alpha: weight of the loss without noise, in `[0, 1]`; the rest is that with it.
        learning_rate: of the masks' SGD with momentum 0.9.
        validation_share: fraction of each class that is held back to choose the threshold by.
        max_drop: largest loss of accuracy on it, in `[0, 1]`; the highest threshold that keeps to
            it is taken.
        selection: `oracle` hands out all thresholds for a study that knows the trigger.
        precision: of the passes through the network.
    """

    rounds: int = 400
    images: int = 64
    epsilon: float = 0.4
    steps: int = 1
    alpha: float = 0.2
    learning_rate: float = 0.2
    validation_share: float = 0.2
    max_drop: float = 0.04
    selection: Selection = "validation"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_at_least(1, rounds=self.rounds, steps=self.steps)
        require_at_least(2, images=self.images)
        require_in("(0, inf)", epsilon=self.epsilon, learning_rate=self.learning_rate)
        require_in("[0, 1]", alpha=self.alpha, max_drop=self.max_drop)
        require_in("(0, 1)", validation_share=self.validation_share)
        require_word(("validation", "oracle"), selection=self.selection)
        require_word(PRECISIONS, precision=self.precision)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network without the channels that noise turns.

        Raises:
            HardeningError: there are too few images to hold some back.
        """
        channels = NormChannels.of(subject.module)
        if not channels.count:
            return Hardening(status=HardeningStatus.INAPPLICABLE, reason=NO_NORM)
        slices = held_back(data, self.validation_share, generator)
        recipe = Recipe(learning_rate=self.learning_rate, precision=self.precision)
        rounds = PlainRounds(subject, slices.training, recipe, generator, journal)
        fresh_mask(rounds, channels, data.images.device)

        def step(_: float, tally: Tally) -> None:
            rows = rounds.batches.balanced(self.images)
            inputs = subject.preprocessing(rounds.batches.images(rows))
            labels = rounds.batches.labels(rows)
            self._step(rounds, channels, inputs, labels, tally)

        trained = rounds.run(self.rounds, step, phase="masks")
        return pruned_hardening(
            trained, subject, rounds.extra["mask"], slices.validation, max_drop=self.max_drop,
            selection=self.selection, images_used=len(data),
        )  # fmt: skip

    def _step(
        self,
        rounds: PlainRounds,
        channels: NormChannels,
        inputs: Tensor,
        labels: Tensor,
        tally: Tally,
    ) -> None:
        """One step of the noise against the masks, and one of the masks against the noise."""
        trainer, mask = rounds.trainer, rounds.extra["mask"].clone().requires_grad_()
        with torch.enable_grad():
            noise = self._noise(rounds, channels, inputs, labels)
            plain = channels.answers(trainer, inputs.clone(), mask, torch.ones_like(mask))
            noisy = channels.answers(trainer, inputs.clone(), mask + noise[0], 1 + noise[1])
            loss = F.cross_entropy(plain, labels)
            hard = F.cross_entropy(noisy, labels)
            (gradient,) = torch.autograd.grad(self.alpha * loss + (1 - self.alpha) * hard, mask)
        descend(rounds, gradient, self.learning_rate)
        trainer.steps += 1
        trainer.images += 2 * len(labels)
        tally.losses.append(float(loss.detach()))
        tally.clean.append((plain.argmax(1) == labels).cpu())

    def _noise(
        self, rounds: PlainRounds, channels: NormChannels, inputs: Tensor, labels: Tensor
    ) -> Tensor:
        """Noise `(2, channels)` on weights and biases that makes the loss large."""
        mask = rounds.extra["mask"]
        drawn = torch.rand((2, channels.count), generator=rounds.generator).to(mask.device)
        noise = (2 * drawn - 1) * self.epsilon
        for _ in range(self.steps):
            noise.requires_grad_()
            logits = channels.answers(rounds.trainer, inputs.clone(), mask + noise[0], 1 + noise[1])
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), noise)
            far = noise.detach() + self.epsilon / self.steps * gradient.sign()
            noise = far.clamp(-self.epsilon, self.epsilon)
            rounds.trainer.images += len(labels)
        return noise
