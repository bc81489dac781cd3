"""Passes over the clean images, each class alike, as rounds of training steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..hardening import Hardening
from .plain_rounds import PlainRounds
from .stamping import Tally, stamped_step
from .trainer import Recipe


def batch_sizes(images: int, batch: int) -> list[int]:
    """Images of every optimiser step of one pass: equal up to one, and `batch` at most.

    A batch of 2 becomes one of 3 where a single image would be left, as BatchNorm cannot train on
    one.
    """
    steps = math.ceil(images / batch)
    if batch == 2:
        steps = max(1, images // 2)
    return [images * (step + 1) // steps - images * step // steps for step in range(steps)]


def pass_over(
    rounds: PlainRounds,
    tally: Tally,
    recipe: Recipe,
    *,
    images: int,
    batch: int,
    done: float,
    share: float,
    added: Callable[[], Tensor] | None = None,
) -> None:
    """Train for one pass on clean images.

    Args:
        rounds: the training under way.
        tally: takes in what came of it.
        recipe: how images are moved and mirrored.
        images: that a pass consists of.
        batch: images per step at most, spread over the classes.
        done: share of the training that is over at its start, in `[0, 1]`.
        share: of the training that the pass is.
        added: see `Trainer.step`.
    """
    sizes = batch_sizes(images, batch)
    for step, size in enumerate(sizes):
        stamped_step(
            rounds.trainer, rounds.batches, [], tally,
            stamped=[], clean=size, done=done + share * step / len(sizes),
            recipe=recipe, generator=rounds.generator, added=added,
        )  # fmt: skip


def fine_tune(
    rounds: PlainRounds, recipe: Recipe, *, epochs: int, images: int, batch: int
) -> Hardening:
    """Train on clean images alone; what is left of so many passes."""

    def one(done: float, tally: Tally) -> None:
        pass_over(rounds, tally, recipe, images=images, batch=batch, done=done, share=1 / epochs)

    return rounds.run(epochs, one, phase="clean images")
