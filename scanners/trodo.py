"""TRODO: how sure of images that belong to no class a network becomes by a faint change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from moth_eval.choosing import spread
from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.scan import Cost, Evidence, Scan, Status
from moth_eval.subject import Subject

Outside = Literal["jigsaw", "rotation", "noise"]
"""How images that belong to no class are made."""

MOST_CLASSES = 10
"""Classes with the largest rise that are kept as evidence."""


@dataclass(frozen=True, kw_only=True)
class Trodo:
    """Scores how much a faint change raises the confidence in images of no class.

    A backdoor leaves directions in which a network is overconfident far from its training data.
    Images are taken out of distribution, each is changed within `epsilon` so that its largest
    class probability grows, and the score is the mean growth. One attack for all classes; no class
    is named, because the class that gains most need not be a target (the rises are evidence).

    Source: Mirzaei et al., "Scanning Trojaned Models Using Out-of-Distribution Samples" (TRODO),
    NeurIPS 2024, and its published code (github.com/rohban-lab/TRODO).

    Differs from the reference:
        * the images are made from the clean examples by one of three changes that need no other
          data; the reference draws from several, and from other data sets;
        * random starts come from the scan's own generator, the reference leaves them unseeded;
        * a network that cannot be attacked is a failed scan; the reference leaves it out of its
          figures.

    Attributes:
        images: how many, at most.
        outside: `jigsaw` shuffles pieces of the clean images, `rotation` turns them by a quarter,
            `noise` is uniform and needs no clean images.
        grid: pieces of the jigsaw along each side.
        epsilon: largest change of a value, in units of the image range.
        steps: of the attack.
        reach: sum of all steps, in units of `epsilon`.
        temperature: that logits are divided by before the softmax.
    """

    images: int = 100
    outside: Outside = "jigsaw"
    grid: int = 3
    epsilon: float = 1 / 255
    steps: int = 10
    reach: float = 2.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.outside not in get_args(Outside):
            raise ScanError(
                f"outside must be one of {', '.join(get_args(Outside))}, got {self.outside!r}"
            )
        if min(self.images, self.steps) < 1 or self.grid < 2:
            raise ScanError(
                "images and steps must be at least 1 and grid at least 2, got "
                f"{self.images}, {self.steps} and {self.grid}"
            )
        numbers = (self.epsilon, self.reach, self.temperature)
        if not all(math.isfinite(n) and n > 0 for n in numbers) or self.epsilon > 1:
            raise ScanError(
                "epsilon must be in (0, 1], and reach and temperature positive, got "
                f"{', '.join(map(str, numbers))}"
            )

    def without_rule(self) -> str:
        """Why there is no cut."""
        return (
            "one network has nothing to hold its growth of confidence against, so that the cut has "
            "to come from clean models"
        )

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        network = OpenNetwork(subject)
        before = self._outside(subject, generator)
        start = 2 * torch.rand(before.shape, generator=generator).to(before.device) - 1
        after = torch.cat(
            [
                self._attacked(network, images, noise)
                for images, noise in zip(
                    torch.split(before, network.images_per_pass),
                    torch.split(start, network.images_per_pass),
                    strict=True,
                )
            ]
        )
        sure = [(network.logits(x) / self.temperature).softmax(1) for x in (before, after)]
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        return _judged(sure[0], sure[1], (before, after), cost)

    def _outside(self, subject: Subject, generator: torch.Generator) -> Tensor:
        """Images of no class, `(N, C, H, W)` in `[0, 1]`."""
        clean = subject.examples.images
        if self.outside == "noise":
            noise = torch.rand((self.images, *subject.image_shape), generator=generator)
            return noise.to(clean.device)
        rows = spread(subject.examples.labels.cpu(), self.images, generator)
        chosen = clean[rows.to(clean.device)]
        if self.outside == "jigsaw":
            return _shuffled(chosen, self.grid, generator)
        if chosen.shape[2] == chosen.shape[3]:
            return chosen.rot90(1, (2, 3))
        return chosen.rot90(2, (2, 3))  # a quarter turn would change the shape

    def _attacked(self, network: OpenNetwork, images: Tensor, noise: Tensor) -> Tensor:
        """Images within `epsilon` whose largest class probability is higher."""
        found = (images + self.epsilon * noise).clamp(0, 1)
        for _ in range(self.steps):
            leaf = found.detach().requires_grad_()
            with torch.enable_grad():
                sure = (network(leaf) / self.temperature).softmax(1).amax(1)
            (slope,) = torch.autograd.grad(sure.sum(), leaf)
            network.backward_passes += len(leaf)
            moved = leaf.detach() + self.reach * self.epsilon / self.steps * slope.sign()
            found = images + (moved - images).clamp(-self.epsilon, self.epsilon)
            found = found.clamp(0, 1)
        return found


def _shuffled(images: Tensor, grid: int, generator: torch.Generator) -> Tensor:
    """Images whose `grid` x `grid` pieces have changed places; what is left over stays."""
    count, channels, height, width = images.shape
    if min(height, width) < grid:
        raise ScanError(
            f"images of {height} x {width} cannot be cut into {grid} x {grid} pieces: choose a "
            "smaller grid"
        )
    tall, wide = height // grid, width // grid
    inner = images[:, :, : grid * tall, : grid * wide]
    pieces = inner.view(count, channels, grid, tall, grid, wide).permute(0, 2, 4, 1, 3, 5)
    pieces = pieces.reshape(count, grid * grid, channels, tall, wide)
    still = torch.arange(grid * grid)
    orders = [torch.randperm(grid * grid, generator=generator) for _ in range(count)]
    orders = [order.roll(1) if torch.equal(order, still) else order for order in orders]
    places = torch.stack(orders).to(images.device)
    moved = pieces[torch.arange(count, device=images.device)[:, None], places]
    moved = moved.view(count, grid, grid, channels, tall, wide).permute(0, 3, 1, 4, 2, 5)
    shuffled = images.clone()
    shuffled[:, :, : grid * tall, : grid * wide] = moved.reshape(inner.shape)
    return shuffled


def _judged(before: Tensor, after: Tensor, images: tuple[Tensor, Tensor], cost: Cost) -> Scan:
    """Scores from class probabilities `(N, K)` of images before and after the attack."""
    growth = after.amax(1) - before.amax(1)
    rises = (after - before).mean(0)
    most = int(growth.argmax())
    pictures = torch.stack([part[most] for part in images]).cpu()
    classes = rises.argsort(descending=True)[:MOST_CLASSES].tolist()
    evidence = [
        Evidence(
            what="rise of the class's mean probability (fraction)",
            value=float(rises[label]),
            target=label,
            pictures=pictures if place == 0 else None,
        )
        for place, label in enumerate(classes)
    ]
    return Scan(
        status=Status.SCORED,
        score=float(growth.mean()),
        evidence=tuple(evidence),
        cost=cost,
    )
