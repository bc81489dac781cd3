"""Passes over the clean images, each class alike, as rounds of training steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..hardening import Hardening
from .plain_rounds import PlainRounds
from .stamping import Tally, stamped_step
from .trainer import Recipe


def steps_per_epoch(images: int, batch: int) -> int:
    """Optimiser steps of `batch` images that make a pass over so many images."""
    return math.ceil(images / batch)


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
        batch: images per step, spread over the classes.
        done: share of the training that is over at its start, in `[0, 1]`.
        share: of the training that the pass is.
        added: see `Trainer.step`.
    """
    steps = steps_per_epoch(images, batch)
    for step in range(steps):
        stamped_step(
            rounds.trainer, rounds.batches, [], tally,
            stamped=0, clean=min(batch, images), done=done + share * step / steps,
            recipe=recipe, generator=rounds.generator, added=added,
        )  # fmt: skip


def fine_tune(
    rounds: PlainRounds, recipe: Recipe, *, epochs: int, images: int, batch: int
) -> Hardening:
    """Train on clean images alone; what is left of so many passes."""

    def one(done: float, tally: Tally) -> None:
        pass_over(rounds, tally, recipe, images=images, batch=batch, done=done, share=1 / epochs)

    return rounds.run(epochs, one, phase="clean images")
