"""Robust accuracy under projected gradient descent, and its images for training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .errors import InputError
from .intervals import Interval, wilson
from .inversion.frozen import FrozenNetwork
from .scan import Cost
from .subject import Subject


@dataclass(frozen=True, kw_only=True)
class PGD:
    """Projected gradient descent within an L-infinity ball around each image.

    The defaults are MOTH's check of CIFAR-10 networks: 20 steps of 2/255 within 8/255.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR
    2018; figures from MOTH (Tao et al., IEEE S&P 2022) and its published code.

    Attributes:
        epsilon: largest change of a channel, in units of the image range `[0, 1]`.
        step_size: change of every channel per step, in the same units.
        steps: gradient steps per start.
        random_start: whether a start is uniform in the ball; else it is the image itself.
        restarts: starts per image; the worst counts.
    """

    epsilon: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 20
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= 1 and self.step_size > 0):
            raise InputError(
                "epsilon must be in (0, 1] and step_size above 0, in units of the image range, got "
                f"{self.epsilon} and {self.step_size}: divide figures for 0..255 by 255"
            )
        if self.steps < 1 or self.restarts < 1:
            raise InputError(
                f"steps and restarts must be at least 1, got {self.steps} and {self.restarts}"
            )
        if self.restarts > 1 and not self.random_start:
            raise InputError(
                f"{self.restarts} restarts without a random start are all the same: set "
                "random_start or restarts=1"
            )

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes per image; each of several restarts is looked at again."""
        looked = self.restarts if self.restarts > 1 else 0
        return self.steps * self.restarts + looked, self.steps * self.restarts


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A counted fraction with its 95 % Wilson interval.

    Attributes:
        value: in `[0, 1]`.
        hits: images counted.
        n: images looked at.
        interval: of the value.
    """

    value: float
    hits: int
    n: int
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """Robust accuracy of a subject on its examples.

    Attributes:
        attack: what it was measured with.
        clean: accuracy on the images as they are.
        robust: fraction of all images that are classified rightly as they are and after every
            start of the attack. An upper bound: a stronger attack may find more.
        per_class: `robust` of each class, K entries; None for a class without images.
        cost: passes spent.
    """

    attack: PGD
    clean: Rate
    robust: Rate
    per_class: tuple[Rate | None, ...]
    cost: Cost


def robust_accuracy(
    subject: Subject,
    attack: PGD,
    *,
    generator: torch.Generator,
    network: FrozenNetwork | None = None,
) -> Robustness:
    """Robust accuracy on a subject's examples, in total and per class.

    Differs from the reference:
        * an image that is misclassified as it is never counts as robust;
        * images are attacked in image space, whatever the network's preprocessing.

    Args:
        subject: left as it is.
        attack: how.
        generator: of the random starts; on the CPU.
        network: the subject's network if it is frozen already; its counters go on.

    Raises:
        InputError: the subject has no examples.
    """
    images, labels = subject.examples.images, subject.examples.labels
    if not len(labels):
        raise InputError(f"{subject.name}: robust accuracy needs examples, got none")
    frozen = network or FrozenNetwork(subject)
    spent = frozen.forward_passes, frozen.backward_passes
    right = frozen.logits(images).argmax(1) == labels
    robust = right.clone()
    for _ in range(attack.restarts):
        found = _climb(
            lambda x, y: frozen.input_gradient(x, y)[0], images, labels, attack, generator
        )
        robust &= frozen.logits(found).argmax(1) == labels
    return Robustness(
        attack=attack,
        clean=rate(right),
        robust=rate(robust),
        per_class=tuple(
            rate(robust[labels == label]) if bool((labels == label).any()) else None
            for label in range(subject.num_classes)
        ),
        cost=Cost(
            forward_passes=frozen.forward_passes - spent[0],
            backward_passes=frozen.backward_passes - spent[1],
        ),
    )


def pgd(
    network: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    generator: torch.Generator,
) -> Tensor:
    """Adversarial images `(N, C, H, W)` in `[0, 1]`, detached; for training or for looking at.

    Of several restarts each image keeps the one that is misclassified with the highest loss; if
    none is misclassified, the one with the highest loss.

    Args:
        network: image space to logits `(N, K)`, differentiable, preprocessing included. It is
            called as it stands: set its mode first, as a network in training mode moves its
            running statistics. No gradient reaches its weights.
        images: float32 `(N, C, H, W)` in `[0, 1]`.
        labels: int64 `(N,)`, the true classes.
        attack: how.
        generator: of the random starts; on the CPU.
    """
    worst = images.detach()
    highest = torch.full((len(images),), -torch.inf, device=images.device)
    for _ in range(attack.restarts):
        found = _climb(
            lambda x, y: _input_gradient(network, x, y), images, labels, attack, generator
        )
        if attack.restarts == 1:
            return found
        harm = _harm(network, found, labels)
        worst = torch.where((harm > highest).view(-1, 1, 1, 1), found, worst)
        highest = torch.maximum(harm, highest)
    return worst


def rate(hits: Tensor) -> Rate:
    """The fraction of true entries of a bool tensor `(N,)`; N is at least 1."""
    count, n = int(hits.sum()), len(hits)
    return Rate(value=count / n, hits=count, n=n, interval=wilson(count, n))


def _climb(
    gradient: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    generator: torch.Generator,
) -> Tensor:
    """The end of one start: steps along the sign of the loss gradient, back into the ball."""
    images = images.detach()
    low, high = (images - attack.epsilon).clamp_min(0), (images + attack.epsilon).clamp_max(1)
    found = images
    if attack.random_start:
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        found = torch.clamp(images + (2 * noise - 1) * attack.epsilon, low, high)
    for _ in range(attack.steps):
        step = attack.step_size * gradient(found, labels).sign()
        found = torch.clamp(found + step, low, high)
    return found


def _input_gradient(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        loss = F.cross_entropy(network(leaf), labels, reduction="sum")
    return torch.autograd.grad(loss, leaf)[0]


def _harm(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    """Loss of each image `(N,)`, with every misclassified image above every other."""
    with torch.no_grad():
        logits = network(images)
    loss = F.cross_entropy(logits, labels, reduction="none")
    # The largest of K probabilities is at least 1/K: the loss of a right answer is at most log K.
    offset = torch.log(loss.new_tensor(float(logits.shape[1]))) + 1
    return loss + offset * (logits.argmax(1) != labels)
