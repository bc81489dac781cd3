"""Reconstructive neuron pruning (RNP): forget clean images, recover them by masks, prune."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name

from ..hardening import SILENT, Hardening, HardeningStatus, Journal, Selection
from ..inversion.frozen import PRECISIONS, Precision
from ..subject import Examples, Subject
from .epochs import batch_sizes
from .mask_pruning import MOMENTUM, NO_NORM, descend, fresh_mask, pruned_hardening
from .norm_channels import NormChannels, by_batch
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in, require_word
from .stamping import Tally
from .trainer import Recipe
from .validation import accuracy, held_back


@dataclass(frozen=True, kw_only=True)
class ReconstructiveNeuronPruning:
    """Unlearns the clean images, and prunes the channels that have to go to recover them.

    Source: Li et al., "Reconstructive Neuron Pruning for Backdoor Defense", ICML 2023; the defaults
    are theirs where nothing else is said.

    Differs from the reference: images as they are; neither weight decay nor a schedule of learning
    rates; what is forgotten is looked at after a pass and under running statistics, where the
    published code counts what the pass got right by those of its batches, which ends a pass or two
    later and leaves more than few images recover; gradients are cut, where the published code cuts
    before there are any; the threshold is chosen on clean images held back, never on a trigger.

    Attributes:
        unlearning_epochs: most passes of gradient ascent.
        forgotten: accuracy on the training images after a pass, in `[0, 1]`, at which it ends.
        unlearning_rate: of its SGD with momentum 0.9.
        largest_gradient: norm to which longer gradients of the ascent are cut.
        epochs: passes in which masks are trained.
        images: images per step, spread over the classes, at least 2.
        alpha: factor on the loss of the masks.
        learning_rate: of the masks' SGD with momentum 0.9.
        validation_share: fraction of each class that is held back to choose the threshold by.
        max_drop: largest loss of accuracy on it, in `[0, 1]`; the highest threshold that keeps to
            it is taken.
        selection: `oracle` hands out all thresholds for a study that knows the trigger.
        precision: of the passes through the network.
    """

    unlearning_epochs: int = 20
    forgotten: float = 0.2
    unlearning_rate: float = 0.01
    largest_gradient: float = 20.0
    epochs: int = 20
    images: int = 64
    alpha: float = 0.2
    learning_rate: float = 0.2
    validation_share: float = 0.2
    max_drop: float = 0.04
    selection: Selection = "validation"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_at_least(1, unlearning_epochs=self.unlearning_epochs, epochs=self.epochs)
        require_at_least(2, images=self.images)
        require_in(
            "(0, inf)", unlearning_rate=self.unlearning_rate, alpha=self.alpha,
            largest_gradient=self.largest_gradient, learning_rate=self.learning_rate,
        )  # fmt: skip
        require_in("[0, 1]", forgotten=self.forgotten, max_drop=self.max_drop)
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
        """A copy of the subject's network, pruned by masks of its unlearned twin.

        Raises:
            HardeningError: there are too few images to hold some back.
        """
        channels = NormChannels.of(subject.module)
        if not channels.count:
            return Hardening(status=HardeningStatus.INAPPLICABLE, reason=NO_NORM)
        slices = held_back(data, self.validation_share, generator)
        recipe = Recipe(learning_rate=self.unlearning_rate, precision=self.precision)
        rounds = PlainRounds(subject, slices.training, recipe, generator, journal)
        self._unlearn(rounds, subject, slices.training)
        fresh_mask(rounds, channels, data.images.device)
        trained = self._recover(rounds, subject, channels, slices.training)
        done = pruned_hardening(
            trained, subject, rounds.extra["mask"], slices.validation, max_drop=self.max_drop,
            selection=self.selection, images_used=len(data),
        )  # fmt: skip
        kept = rounds.extra["unlearned"]
        extra = {"unlearning_epochs": float(kept[0]), "unlearned_accuracy": float(kept[1])}
        return replace(done, figures={**done.figures, **extra})

    def _unlearn(self, rounds: PlainRounds, subject: Subject, training: Examples) -> None:
        """Climb until the training images are forgotten; what came of it is kept."""

        def epoch(_: float, tally: Tally) -> None:
            for size in batch_sizes(len(training), self.images):
                self._climb(rounds, tally, size)
            left = accuracy(subject, rounds.trainer.network, training)
            rounds.passes[0] += len(training)
            number = float(rounds.extra["unlearned"][0]) + 1
            rounds.extra["unlearned"] = torch.tensor([number, left], dtype=torch.float64)

        if "unlearned" not in rounds.extra:
            known = accuracy(subject, rounds.trainer.network, training)
            rounds.passes[0] += len(training)
            rounds.extra["unlearned"] = torch.tensor([0.0, known], dtype=torch.float64)
        number, left = rounds.extra["unlearned"].tolist()
        while number < self.unlearning_epochs and left > self.forgotten:
            rounds.run(int(number) + 1, epoch, phase="unlearning")
            number, left = rounds.extra["unlearned"].tolist()

    def _climb(self, rounds: PlainRounds, tally: Tally, size: int) -> None:
        """One step of gradient ascent on all weights, on `size` images."""
        rows = rounds.batches.balanced(size)
        labels, trainer = rounds.batches.labels(rows), rounds.trainer
        weights = dict(trainer.network.named_parameters())
        with torch.enable_grad(), by_batch(trainer.network, len(labels)):
            logits = trainer.answers(rounds.batches.images(rows))
            loss = F.cross_entropy(logits, labels)
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = [torch.zeros_like(w) if g is None else g
                     for w, g in zip(weights.values(), found, strict=True)]  # fmt: skip
        length = torch.stack([g.norm() for g in gradients]).norm()
        cut = (self.largest_gradient / length.clamp_min(1e-12)).clamp_max(1.0)
        with torch.no_grad():
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
                key = f"climb.{name}"
                before = rounds.extra.get(key, torch.zeros_like(weight)).to(weight.device)
                rounds.extra[key] = MOMENTUM * before + cut * gradient
                weight.add_(rounds.extra[key], alpha=self.unlearning_rate)
        trainer.steps += 1
        trainer.images += len(labels)
        tally.losses.append(float(loss.detach()))
        tally.clean.append((logits.detach().argmax(1) == labels).cpu())

    def _recover(
        self, rounds: PlainRounds, subject: Subject, channels: NormChannels, training: Examples
    ) -> Hardening:
        """Train masks on the unlearned network until it knows the clean images again."""

        def step(size: int) -> tuple[float, torch.Tensor]:
            rows = rounds.batches.balanced(size)
            labels = rounds.batches.labels(rows)
            inputs = subject.preprocessing(rounds.batches.images(rows))
            mask = rounds.extra["mask"].clone().requires_grad_()
            with torch.enable_grad():
                logits = channels.answers(rounds.trainer, inputs, mask, torch.ones_like(mask))
                loss = F.cross_entropy(logits, labels)
                (gradient,) = torch.autograd.grad(self.alpha * loss, mask)
            descend(rounds, gradient, self.learning_rate)
            rounds.trainer.steps += 1
            rounds.trainer.images += len(labels)
            return float(loss.detach()), (logits.detach().argmax(1) == labels).cpu()

        def epoch(_: float, tally: Tally) -> None:
            for size in batch_sizes(len(training), self.images):
                loss, right = step(size)
                tally.losses.append(loss)
                tally.clean.append(right)

        number = int(rounds.extra["unlearned"][0])
        return rounds.run(number + self.epochs, epoch, phase="masks")
