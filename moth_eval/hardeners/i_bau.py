"""I-BAU: unlearn the universal perturbation that the network could learn to resist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from ..errors import HardeningError
from ..hardening import SILENT, Hardening, Journal
from ..subject import Examples, Subject
from .epochs import batch_sizes
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in
from .stamping import Tally
from .trainer import Recipe

Answers = Callable[[Tensor], Tensor]
"""Images `(N, C, H, W)` in `[0, 1]` -> logits `(N, K)`."""


@dataclass(frozen=True, kw_only=True)
class IBAU:
    """Alternates between a universal perturbation and the weights, which look one step ahead.

    The perturbation is one for all images, and the weights descend by the gradient that knows how
    the perturbation would answer, found by a fixed-point iteration.

    Source: Zeng et al., "Adversarial Unlearning of Backdoors via Implicit Hypergradient", ICLR
    2022, and its published code: Adam at 1e-3, batches of 100, 5 fixed-point steps of 0.1, an inner
    rate of 10 and a penalty of 0.001, one image in a hundred perturbed, statistics of BatchNorm
    kept.

    Differs from the reference: the perturbed images stay in `[0, 1]`; the perturbation works
    against the true labels, not the network's answers; the inner problem of a step is that of its
    own batch, not of the first; in a batch of fewer than 100 images one is perturbed, where the
    published code perturbs none and unlearns nothing.

    Attributes:
        rounds: perturbations, each followed by a pass over the images.
        batch: images per optimiser step.
        perturbed_share: fraction of them that is perturbed, in `(0, 1]`; at least one image.
        inner_rate: learning rate of the perturbation.
        penalty: weight of its squared norm.
        fixed_point_steps: of the iteration.
        fixed_point_rate: step of the map that is iterated.
        recipe: how the network is trained.
    """

    rounds: int = 5
    batch: int = 100
    perturbed_share: float = 0.01
    inner_rate: float = 10.0
    penalty: float = 0.001
    fixed_point_steps: int = 5
    fixed_point_rate: float = 0.1
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            learning_rate=1e-3, optimiser="adamw", weight_decay=0.0, batch_norm="eval"
        )
    )

    def __post_init__(self) -> None:
        require_at_least(
            1, rounds=self.rounds, batch=self.batch, fixed_point_steps=self.fixed_point_steps
        )
        require_in("(0, 1]", perturbed_share=self.perturbed_share)
        require_in("(0, inf)", inner_rate=self.inner_rate, fixed_point_rate=self.fixed_point_rate)
        require_in("[0, inf)", penalty=self.penalty)
        recipe = self.recipe
        extras = ("sharpness", "distillation", "label_smoothing", "shift", "flip")
        given = [name for name in extras if getattr(recipe, name)]
        if recipe.batch_norm != "eval" or given:
            raise HardeningError(
                "i-bau finds its own gradients on images as they are: expected recipe.batch_norm "
                f"eval and none of {', '.join(extras)}, got {recipe.batch_norm} and "
                f"{', '.join(given) or 'none'}"
            )

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network that resists universal perturbations.

        Returns:
            Figures: `perturbation`, the norm of the last one, and `fooled`, the fraction of the
            images that it still carried away when it was made, in `[0, 1]`: those that the network
            got wrong with it and right without.

        Raises:
            HardeningError: there are no images to train on.
        """
        rounds = PlainRounds(subject, data, self.recipe, generator, journal)
        sizes = batch_sizes(len(data), self.batch)
        answers = rounds.trainer.answers

        def one(done: float, tally: Tally) -> None:
            drawn = [rounds.batches.balanced(size) for size in sizes]
            delta = self._perturbation(answers, rounds, drawn)
            if round(done * self.rounds) == self.rounds - 1:
                fooled = _fooled(answers, rounds, drawn, delta)
                rounds.extra = {"last": torch.tensor([float(delta.norm()), fooled])}
            for step, rows in enumerate(drawn):
                images, labels = rounds.batches.images(rows), rounds.batches.labels(rows)
                order = torch.randperm(len(rows), generator=generator).to(images.device)
                self._descend(
                    answers, rounds, tally, delta, images[order], labels[order],
                    done + step / len(sizes) / self.rounds,
                )  # fmt: skip

        hardened = rounds.run(self.rounds, one, phase="perturbed images")
        norm, fooled = rounds.extra["last"].tolist()
        return replace(hardened, figures={"perturbation": norm, "fooled": fooled})

    def _perturbation(
        self, answers: Answers, rounds: PlainRounds, drawn: Sequence[Tensor]
    ) -> Tensor:
        """The universal perturbation `(1, C, H, W)` that does most harm after one pass."""
        delta = torch.zeros_like(rounds.batches.images(drawn[0][:1]))
        for rows in drawn:
            images, labels = rounds.batches.images(rows), rounds.batches.labels(rows)
            delta.requires_grad_()
            with torch.enable_grad():
                logits = answers((images + delta).clamp(0, 1))
                loss = self._inner_loss(logits, labels, delta)
            [gradient] = torch.autograd.grad(loss, [delta])
            delta = (delta - self.inner_rate * gradient).detach()
            rounds.passes[0] += len(rows)
            rounds.passes[1] += len(rows)
        return delta

    def _inner_loss(self, logits: Tensor, labels: Tensor, delta: Tensor) -> Tensor:
        return self.penalty * delta.square().sum() - F.cross_entropy(logits, labels)

    def _descend(
        self,
        answers: Answers,
        rounds: PlainRounds,
        tally: Tally,
        delta: Tensor,
        images: Tensor,
        labels: Tensor,
        done: float,
    ) -> None:
        """One optimiser step by the implicit gradient."""
        count = perturbed(len(images), self.perturbed_share)
        weights = list(rounds.trainer.network.parameters())
        delta = delta.clone().requires_grad_()
        with torch.enable_grad():
            mixed = torch.cat([(images[:count] + delta).clamp(0, 1), images[count:]])
            logits = answers(mixed)
            loss = F.cross_entropy(logits, labels)
            whole = answers((images + delta).clamp(0, 1))
            [inner] = torch.autograd.grad(
                self._inner_loss(whole, labels, delta), [delta], create_graph=True
            )
            ahead = delta - self.fixed_point_rate * inner
        gradients = self._implicit(loss, ahead, delta, weights)
        rounds.trainer.descend(gradients, images=len(images), done=done)
        rounds.passes[0] += len(images)
        rounds.passes[1] += len(images) * (1 + self.fixed_point_steps)
        tally.losses.append(float(loss.detach()))
        right = logits.detach().argmax(1) == labels
        tally.stamped.append(right[:count].cpu())
        tally.clean.append(right[count:].cpu() if count < len(right) else right.cpu())

    def _implicit(
        self, loss: Tensor, ahead: Tensor, delta: Tensor, weights: Sequence[Tensor]
    ) -> list[Tensor]:
        """Gradient of the loss by the weights, through the perturbation as it would follow them."""
        direct = torch.autograd.grad(loss, [delta, *weights], allow_unused=True)
        outer = direct[0] if direct[0] is not None else torch.zeros_like(delta)
        way = outer  # the first step, from zero
        for _ in range(self.fixed_point_steps - 1):
            [back] = torch.autograd.grad(ahead, [delta], grad_outputs=way, retain_graph=True)
            way = back + outer
        through = torch.autograd.grad(ahead, weights, grad_outputs=way, allow_unused=True)
        return [
            sum((g for g in pair if g is not None), start=torch.zeros_like(weight))
            for weight, pair in zip(weights, zip(direct[1:], through, strict=True), strict=True)
        ]


@torch.no_grad()
def _fooled(answers: Answers, rounds: PlainRounds, drawn: Sequence[Tensor], delta: Tensor) -> float:
    """Fraction of the images that are wrong with the perturbation and right without."""
    lost = 0
    for rows in drawn:
        images, labels = rounds.batches.images(rows), rounds.batches.labels(rows)
        right = answers(images).argmax(1) == labels
        wrong = answers((images + delta).clamp(0, 1)).argmax(1) != labels
        lost += int((right & wrong).sum())
        rounds.passes[0] += 2 * len(rows)
    return lost / sum(map(len, drawn))


def perturbed(images: int, share: float) -> int:
    """How many of a batch's images are perturbed: at least one."""
    return max(1, round(images * share))
