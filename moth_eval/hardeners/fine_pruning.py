"""Fine-pruning: channels that clean images leave idle go, and the rest is trained further."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..hardening import SILENT, Hardening, HardeningStatus, Journal, Variant, VariantKind
from ..subject import Examples, Subject
from .batches import augmented
from .epochs import batch_sizes
from .feature_channels import FeatureChannels, last_features
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in
from .stamping import Tally
from .trainer import Recipe
from .validation import accuracy, held_back


@dataclass(frozen=True, kw_only=True)
class FinePruning:
    """Silences the least active channels of the last convolution, then trains on clean images.

    Source: Liu et al., "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural
    Networks", RAID 2018. Their stopping rule is a loss of accuracy of about 4 points; training
    follows BackdoorBench (SGD, 0.01 with a cosine, weight decay 5e-4).

    Differs from common ports: accuracy for stopping is that of clean images held back, never of
    test images; activity is ranked in eval mode without augmentation; the step that cost too much
    is taken back; pruned channels stay silent while the rest is trained.

    Attributes:
        epochs: passes of training after pruning (BackdoorBox: 10).
        images: images per optimiser step, spread over the classes.
        step_share: fraction of the channels, at least one, that goes at each step; the most active
            one stays.
        max_drop: largest loss of accuracy on the images held back, in `[0, 1]`.
        validation_share: fraction of each class that is held back to stop by.
        recipe: how the network is trained.
    """

    epochs: int = 10
    images: int = 64
    step_share: float = 0.01
    max_drop: float = 0.04
    validation_share: float = 0.2
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            learning_rate=0.01, final_share=0.0, weight_decay=5e-4, batch_norm="train"
        )
    )

    def __post_init__(self) -> None:
        require_at_least(1, epochs=self.epochs)
        require_at_least(self.recipe.least_images, images=self.images)
        require_in("(0, 1]", step_share=self.step_share)
        require_in("[0, 1]", max_drop=self.max_drop)
        require_in("(0, 1)", validation_share=self.validation_share)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network, pruned and trained; the merely pruned one beside it.

        Raises:
            HardeningError: there are too few images to hold some back.
        """
        slices = held_back(data, self.validation_share, generator)
        features = last_features(subject)
        if isinstance(features, str):
            return Hardening(status=HardeningStatus.INAPPLICABLE, reason=features)
        rounds = PlainRounds(subject, slices.training, self.recipe, generator, journal)
        if rounds.fresh:
            order = features.activity(subject, slices.training.images).argsort(stable=True)
            curve = self.curve(subject, features, order, slices.validation)
            rounds.passes[0] += len(slices.training) + len(curve) * len(slices.validation)
            steps = len(curve) - 1 - (curve[0] - curve[-1] > self.max_drop + 1e-9)
            rounds.extra = {
                "silent": order[: [0, *self._counts(features)][steps]],
                "curve": torch.tensor(curve, dtype=torch.float64),
            }
        silent = rounds.extra["silent"]
        features.silence(rounds.trainer.network, silent)
        trained = self._trained(rounds, features, silent, slices.training)
        repaired = rounds.trainer.network
        features.silence(repaired, silent)
        pruned = silenced(subject, features, silent)
        judged = trained.cost.forward_passes + 2 * len(slices.validation)
        return replace(
            trained,
            module=repaired,
            reason="" if len(silent) else "no step keeps to max_drop; nothing was pruned",
            images_used=len(data),
            variants=(Variant(kind=VariantKind.BYPRODUCT, name="prune-only", module=pruned),),
            figures={
                "channels": features.count,
                "pruned_channels": len(silent),
                "validation_accuracy_before": float(rounds.extra["curve"][0]),
                "validation_accuracy_pruned": accuracy(subject, pruned, slices.validation),
                "validation_accuracy": accuracy(subject, repaired, slices.validation),
            },
            cost=replace(trained.cost, forward_passes=judged),
        )

    def curve(
        self, subject: Subject, features: FeatureChannels, order: Tensor, held: Examples
    ) -> list[float]:
        """Accuracy on `held` after each step, up to the first that costs too much, it included."""
        found = [accuracy(subject, subject.module, held)]
        for count in self._counts(features):
            pruned = silenced(subject, features, order[:count])
            found.append(accuracy(subject, pruned, held))
            if found[0] - found[-1] > self.max_drop + 1e-9:
                break
        return found

    def _counts(self, features: FeatureChannels) -> list[int]:
        """Channels that are silent after each step; the most active one stays."""
        size, most = max(1, int(self.step_share * features.count)), features.count - 1
        return [min(count, most) for count in range(size, most + size, size)]

    def _trained(
        self, rounds: PlainRounds, features: FeatureChannels, silent: Tensor, training: Examples
    ) -> Hardening:
        sizes, trainer = batch_sizes(len(training), self.images), rounds.trainer

        def epoch(done: float, tally: Tally) -> None:
            for step, size in enumerate(sizes):
                rows = rounds.batches.balanced(size)
                images = augmented(
                    rounds.batches.images(rows), rounds.generator,
                    shift=self.recipe.shift, flip=self.recipe.flip,
                )  # fmt: skip
                loss, right = trainer.step(
                    images, rounds.batches.labels(rows),
                    done=done + step / len(sizes) / self.epochs,
                    answers=trainer.original_answers(images),
                )  # fmt: skip
                features.silence(trainer.network, silent)
                tally.losses.append(loss)
                tally.clean.append(right.cpu())

        return rounds.run(self.epochs, epoch, phase="fine-tuning")


def silenced(subject: Subject, features: FeatureChannels, channels: Tensor) -> nn.Module:
    """A copy of the subject's network, in eval mode, with these channels silent."""
    network = deepcopy(subject.module).eval()
    features.silence(network, channels)
    return network
