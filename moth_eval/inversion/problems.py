"""What is to be inverted, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ScanError


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One trigger to find: flip these images to that class.

    Attributes:
        target: class that stamped images are to be classified as.
        images: int64 `(M,)`, which images of the common pool the trigger has to work on.
        seed: decides the initial trigger and the order of images; nothing else is random.
        source: class of the images if they are all of one; None otherwise. For the record only.
        start: mask `(1, H, W)` and pattern `(C, H, W)` in `[0, 1]` to begin with; None: random.
        initial_cost: weight of the size to begin with; None: the schedule's.
    """

    target: int
    images: Tensor
    seed: int
    source: int | None = None
    start: tuple[Tensor, Tensor] | None = None
    initial_cost: float | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 1 or not len(self.images):
            raise ScanError(
                f"target {self.target}: expected at least one image to invert a trigger on, got "
                f"shape {tuple(self.images.shape)}"
            )


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """The best trigger found for one problem.

    Attributes:
        problem: what was asked for.
        mask: float32 `(1, H, W)` in `[0, 1]`, on the CPU.
        pattern: float32 `(C, H, W)` in `[0, 1]`, on the CPU.
        size: sum of the mask (pixels).
        asr: success rate of this very trigger on all images of the problem, in `[0, 1]`.
        valid: whether `asr` reaches the schedule's success rate. If not, mask and pattern are the
            last ones tried, and the size means nothing.
        steps: optimisation steps taken.
        cost: weight of the size at the end; where a resumed trigger goes on from.
    """

    problem: Problem
    mask: Tensor
    pattern: Tensor
    size: float
    asr: float
    valid: bool
    steps: int
    cost: float = 0.0


def universal_problems(
    labels: Tensor, targets: Sequence[int], seeds: Sequence[int]
) -> list[Problem]:
    """One problem per target: flip the images of all other classes to it.

    Args:
        labels: int64 `(N,)`, the classes of the pool's images.
        targets: the target classes.
        seeds: one seed per target.
    """
    return [
        Problem(target=target, images=torch.nonzero(labels != target).flatten().cpu(), seed=seed)
        for target, seed in zip(targets, seeds, strict=True)
    ]


def pair_problems(
    labels: Tensor, pairs: Sequence[tuple[int, int]], seeds: Sequence[int]
) -> list[Problem]:
    """One problem per ordered pair: flip the images of `source` to `target`.

    Args:
        labels: int64 `(N,)`, the classes of the pool's images.
        pairs: `(source, target)` classes.
        seeds: one seed per pair.
    """
    return [
        Problem(
            target=target,
            images=torch.nonzero(labels == source).flatten().cpu(),
            seed=seed,
            source=source,
        )
        for (source, target), seed in zip(pairs, seeds, strict=True)
    ]
