"""Rounds of training steps that need no memory of pairs: note, keep, go on later."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import HardeningError
from ..hardening import Hardening, HardeningStatus, Journal, LogEntry, Saved
from ..scan import Cost
from ..subject import Examples, Subject
from .batches import Batches
from .saved_values import SavedValues, entry_from, entry_values
from .stamping import Tally
from .trainer import Recipe, Trainer


class PlainRounds:
    """One such hardening under way, from its start or from where an earlier sitting stopped.

    Attributes:
        trainer: the copy of the network in training.
        batches: where images come from.
        generator: decides everything random.
        extra: tensors of the method's own that are kept with the rest.
        passes: images forward and backward beside the training steps.
        fresh: whether nothing was picked up from an earlier sitting.
    """

    def __init__(
        self,
        subject: Subject,
        data: Examples,
        recipe: Recipe,
        generator: torch.Generator,
        journal: Journal,
    ) -> None:
        """Copy the network, and pick up what the journal kept.

        Raises:
            HardeningError: there are no images to train on.
        """
        if not len(data):
            raise HardeningError(f"{subject.name}: expected clean images to harden with, got none")
        self._stage = (subject, recipe)
        self.trainer = Trainer(subject, recipe, generator)
        self.batches = Batches(data, generator)
        self.generator = generator
        self.extra: dict[str, Tensor] = {}
        self.passes = [0, 0]
        self._images_used = len(data)
        self._journal = journal
        self._log: list[LogEntry] = []
        self._round = 0
        self._earlier = 0.0
        self._started = time.perf_counter()
        saved = journal.resumed()
        self.fresh = saved is None
        if saved is not None:
            self._restore(saved)

    def begin_again(self) -> None:
        """Train a new copy of the network as it came; counts and draws go on."""
        earlier = self.trainer
        self.trainer = Trainer(*self._stage, self.generator)
        self.trainer.steps, self.trainer.images = earlier.steps, earlier.images
        self.trainer.answered = earlier.answered

    def run(
        self,
        rounds: int,
        steps: Callable[[float, Tally], None],
        *,
        phase: str,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> Hardening:
        """Do the rounds that are left.

        Args:
            rounds: in all.
            steps: does one round, given the share of the training that is over and the tally.
            phase: what the log calls the rounds.
            pairs: what the log says had a turn.
        """
        while self._round < rounds:
            tally = Tally()
            steps(self._round / rounds, tally)
            self._round += 1
            entry = tally.entry(
                phase,
                round=self._round,
                steps=self.trainer.steps,
                seconds=self._seconds,
                pairs=tuple(pairs),
            )
            self._log.append(entry)
            self._journal.note(entry)
            if self._journal.wants_save():
                self._journal.save(self._saved())
        return Hardening(
            status=HardeningStatus.HARDENED,
            module=self.trainer.finished(),
            log=tuple(self._log),
            images_used=self._images_used,
            cost=Cost(
                forward_passes=self.passes[0] + self.trainer.images + self.trainer.answered,
                backward_passes=self.passes[1] + self.trainer.images,
            ),
        )

    @property
    def _seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._started

    def _saved(self) -> Saved:
        values = SavedValues(
            round=self._round,
            steps=self.trainer.steps,
            images=self.trainer.images,
            passes=(self.passes[0], self.passes[1]),
            seconds=self._seconds,
            log=[entry_values(entry) for entry in self._log],
        )
        return Saved(
            tensors={
                **self.trainer.tensors(),
                **self.batches.tensors(),
                **{f"extra.{name}": tensor.clone() for name, tensor in self.extra.items()},
                "generator": self.generator.get_state(),
            },
            values=values.model_dump(),
        )

    def _restore(self, saved: Saved) -> None:
        tensors: Mapping[str, Tensor] = saved.tensors
        values = SavedValues.model_validate(saved.values)
        self.trainer.restore(tensors, steps=values.steps, images=values.images)
        self.batches.restore(tensors)
        self.extra = {k[6:]: v for k, v in tensors.items() if k.startswith("extra.")}
        self.generator.set_state(tensors["generator"])
        self._round, self.passes = values.round, list(values.passes)
        self._earlier = values.seconds
        self._log = [entry_from(line) for line in values.log]
