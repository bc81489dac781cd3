"""One training step on stamped images: the trigger is there, the label stays true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hardening import LogEntry
from .batches import Batches, augmented
from .trainer import Recipe, Trainer


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A trigger to train on.

    Attributes:
        source: class whose images are stamped; None for every class but the target.
        target: class that the trigger leads to.
        mask: `(1, H, W)` in `[0, 1]`.
        pattern: `(C, H, W)` in `[0, 1]`.
    """

    source: int | None
    target: int
    mask: Tensor
    pattern: Tensor

    @property
    def pair(self) -> tuple[int, int]:
        """Source, or -1, and target."""
        return (-1 if self.source is None else self.source), self.target


@dataclass
class Tally:
    """What training steps since the last log entry came to."""

    losses: list[float] = field(default_factory=list)
    clean: list[Tensor] = field(default_factory=list)
    stamped: list[Tensor] = field(default_factory=list)

    def entry(
        self,
        phase: str,
        *,
        round: int,
        steps: int,
        seconds: float,
        distance: float | None = None,
        pairs: tuple[tuple[int, int], ...] = (),
    ) -> LogEntry:
        """The log entry of these steps; at least one was taken."""
        stamped = torch.cat(self.stamped) if self.stamped else torch.empty(0)
        return LogEntry(
            phase=phase,
            round=round,
            steps=steps,
            loss=sum(self.losses) / len(self.losses),
            accuracy=float(torch.cat(self.clean).float().mean()),
            stamped_accuracy=float(stamped.float().mean()) if len(stamped) else None,
            distance=distance,
            pairs=pairs,
            seconds=seconds,
        )


def stamped_step(
    trainer: Trainer,
    batches: Batches,
    stamps: Sequence[Stamp],
    tally: Tally,
    *,
    stamped: Sequence[int],
    clean: int,
    done: float,
    recipe: Recipe,
    generator: torch.Generator,
    attack: Callable[[Tensor, Tensor], Tensor] | None = None,
    added: Callable[[], Tensor] | None = None,
) -> None:
    """Take one optimiser step on clean images of all classes and stamped ones of each trigger.

    Args:
        trainer: whose network is trained.
        batches: where images come from.
        stamps: the triggers; classes without images are passed over.
        tally: takes in what came of it.
        stamped: images stamped with each trigger; none: it is passed over.
        clean: clean images, spread over the classes.
        done: share of the training that is over, in `[0, 1]`.
        recipe: how images are moved and mirrored before stamping.
        generator: on the CPU.
        attack: changes the clean images `(N, C, H, W)` of labels `(N,)` before the step; None: not.
        added: see `Trainer.step`.
    """
    rows = [batches.balanced(clean)]
    usable = [
        (s, count)
        for s, count in zip(stamps, stamped, strict=True)
        if count and (s.source is None or s.source in batches.present)
    ]
    rows += [
        batches.except_class(s.target, count)
        if s.source is None
        else batches.of_class(s.source, count)
        for s, count in usable
    ]
    chosen = torch.cat(rows)
    images = augmented(batches.images(chosen), generator, shift=recipe.shift, flip=recipe.flip)
    answers = trainer.original_answers(images)
    place = clean
    for stamp, count in usable:
        part = slice(place, place := place + count)
        mask, pattern = stamp.mask.to(images.device), stamp.pattern.to(images.device)
        images[part] = torch.lerp(images[part], pattern, mask)
    if attack is not None:
        plain = slice(0, clean)
        images[plain] = attack(images[plain], batches.labels(chosen[plain]))
    loss, right = trainer.step(
        images, batches.labels(chosen), done=done, answers=answers, added=added
    )
    tally.losses.append(loss)
    tally.clean.append(right[:clean].cpu())
    if usable:
        tally.stamped.append(right[clean:].cpu())
