"""The rounds of MOTH: choose pairs, invert their triggers a little further, train on them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import HardeningError
from ..hardening import Hardening, HardeningStatus, Journal, LogEntry, Saved
from ..inversion.engine import invert
from ..inversion.frozen import FrozenNetwork
from ..inversion.problems import Inversion, Problem
from ..inversion.schedule import Schedule
from ..robustness import pgd
from ..scan import Cost
from ..subject import Examples, Subject
from .batches import Batches
from .held_triggers import Held, HeldTriggers
from .saved_values import SavedValues, entry_from, entry_values
from .scheduling import PairScores
from .stamping import Stamp, Tally, stamped_step
from .trainer import Trainer

if TYPE_CHECKING:
    from .moth import Moth

COST_FLOOR = 0.1
"""Share of the initial weight of the size below which no visit starts: a visit that failed lowers
the weight by orders of magnitude, and nothing would be squeezed for the next ones."""

MOST_TARGETS = 64
"""Target classes of a round of warm-up; of more, as many are drawn by lot."""

Pair = tuple[int, int]
"""Source and target class; a source of -1 stands for every class but the target."""


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """The triggers of one repeat.

    Attributes:
        stamps: those that are trained on.
        sizes: per direction, the size of a valid trigger (pixels); None where it is not valid.
    """

    stamps: list[Stamp]
    sizes: dict[Pair, float | None]


class Sitting:
    """One hardening under way, from its start or from where an earlier sitting stopped."""

    def __init__(
        self,
        settings: Moth,
        subject: Subject,
        data: Examples,
        generator: torch.Generator,
        journal: Journal,
    ) -> None:
        """Copy the network, and pick up what the journal kept.

        Raises:
            HardeningError: fewer than two classes have images.
        """
        self._settings = settings
        self._subject = subject
        self._data = data
        self._generator = generator
        self._journal = journal
        self._trainer = Trainer(subject, settings.recipe, generator)
        self._batches = Batches(data, generator)
        if len(self._batches.present) < 2:
            raise HardeningError(
                f"{subject.name}: expected images of at least two classes to harden with, got "
                f"{len(self._batches.present)}"
            )
        self._held = HeldTriggers()
        self._scores = PairScores(
            subject.num_classes, self._batches.present, symmetric=settings.symmetric
        )
        self._log: list[LogEntry] = []
        self._round = 0
        self._passes = [0, 0]
        self._images_at_once: int | None = None
        self._earlier = 0.0
        self._started = time.perf_counter()
        saved = journal.resumed()
        if saved is not None:
            self._restore(saved)

    @property
    def _rounds(self) -> int:
        return self._settings.warm_up_rounds + self._settings.rounds

    @property
    def _seconds(self) -> float:
        return self._earlier + time.perf_counter() - self._started

    def run(self) -> Hardening:
        """Do the rounds that are left."""
        while self._round < self._rounds and not self._out_of_time():
            warm = self._round < self._settings.warm_up_rounds
            self._round += 1
            entry = self._warm_up() if warm else self._pairs()
            self._log.append(entry)
            self._journal.note(entry)
            if self._journal.wants_save():
                self._journal.save(self._saved())
        return Hardening(
            status=HardeningStatus.HARDENED,
            module=self._trainer.finished(),
            reason="" if self._log else f"no round began within {self._settings.seconds} s",
            log=tuple(self._log),
            pair_counts=self._scores.visits.clone(),
            images_used=len(self._data),
            cost=Cost(
                forward_passes=self._passes[0] + self._trainer.images + self._trainer.answered,
                backward_passes=self._passes[1] + self._trainer.images,
            ),
        )

    def _out_of_time(self) -> bool:
        limit = self._settings.seconds
        return limit is not None and self._seconds >= limit

    def _done(self) -> float:
        """Share of the budget that is used, by whichever limit is nearer."""
        share = (self._round - 1) / self._rounds
        limit = self._settings.seconds
        return share if limit is None else max(share, self._seconds / limit)

    def _warm_up(self) -> LogEntry:
        """A round on the universal triggers of all classes."""
        directions = [(-1, target) for target in range(self._subject.num_classes)]
        directions = [d for d in directions if self._batches.present != (d[1],)]
        if len(directions) > MOST_TARGETS:
            lot = torch.randperm(len(directions), generator=self._generator)[:MOST_TARGETS]
            directions = [directions[k] for k in sorted(lot.tolist())]
        tally = Tally()
        sizes: dict[Pair, float | None] = {}
        apart = self._settings.warm_up_apart
        for part in [[d] for d in directions] if apart else [directions]:
            starts = {d: self._universal(d, directions) for d in part}
            held = {d: s for d, s in starts.items() if self._held.get(*d)}
            fresh = {d: s for d, s in starts.items() if d not in held}
            begun = self._invert(fresh, self._settings.warm_up_steps)
            found = self._invert(held, self._settings.first_steps)
            self._rate_universals(begun.stamps)
            self._train([*begun.stamps, *found.stamps], tally, apart=apart)
            sizes |= begun.sizes | found.sizes
        return self._entry("warm-up", tally, sizes, directions)

    def _universal(self, direction: Pair, directions: Sequence[Pair]) -> Held | None:
        """Where a class's universal trigger goes on from; published: the first class's at first."""
        held = self._held.get(*direction)
        return held or (self._held.get(*directions[0]) if self._settings.warm_up_apart else None)

    def _pairs(self) -> LogEntry:
        """A round on chosen pairs of classes."""
        settings = self._settings
        chosen = self._scores.choose(
            settings.scheduling,
            settings.pairs_per_round,
            random_share=settings.random_share,
            age=min(1.0, (self._round - settings.warm_up_rounds) / settings.ageing_rounds),
            generator=self._generator,
        )
        both = [((a, b), (b, a)) if settings.symmetric else ((a, b),) for a, b in chosen]
        directions = [direction for pair in both for direction in pair]
        tally = Tally()
        collected: dict[Pair, list[float]] = {d: [] for d in directions}
        anew = set(directions)
        for repeat in range(settings.repeats):
            parts = self._turns({d: self._start(d, first=repeat == 0) for d in directions}, anew)
            found = {d: size for part in parts for d, size in part.sizes.items()}
            for direction, size in found.items():
                collected[direction] += [] if size is None else [size]
            failed = {d for d, size in found.items() if size is None}
            anew = set() if settings.next_cost is None else failed
            self._train([s for part in parts for s in part.stamps], tally)
        sizes = {d: sum(v) / len(v) if v else None for d, v in collected.items()}
        for (source, target), size in sizes.items():
            self._scores.note(source, target, size)
        return self._entry("pairs", tally, sizes, directions)

    def _turns(self, starts: Mapping[Pair, Held | None], anew: set[Pair]) -> list[Inverted]:
        """Inversions of one repeat: at random, at the start of a turn (`anew`), or going on."""
        settings = self._settings
        known = {d: start for d, start in starts.items() if start is not None}
        cost = settings.next_cost
        first = {d: s for d, s in known.items() if d in anew}
        later = {d: s for d, s in known.items() if d not in anew}
        if cost is not None:
            first = {d: replace(s, cost=settings.initial_cost) for d, s in first.items()}
            later = {d: replace(s, cost=cost) for d, s in later.items()}
        return [
            self._invert(first, settings.first_steps),
            self._invert(later, settings.next_steps),
            self._invert({d: None for d in starts if d not in known}, settings.fresh_steps),
        ]

    def _start(self, direction: Pair, *, first: bool) -> Held | None:
        """Where a direction's inversion goes on from; None: at random."""
        if first and not self._settings.reuse:
            return None
        return self._held.get(*direction)

    def _invert(self, starts: Mapping[Pair, Held | None], steps: int) -> Inverted:
        """Triggers of these directions on the network as it now is; None starts at random."""
        if not starts:
            return Inverted(stamps=[], sizes={})
        problems = [self._problem(direction, start) for direction, start in starts.items()]
        now = replace(self._subject, module=self._trainer.network)
        network = FrozenNetwork(
            now, images_at_once=self._images_at_once, precision=self._settings.precision
        )
        self._images_at_once = network.images_per_pass
        universal = next(iter(starts))[0] < 0
        rate = self._settings.warm_up_success_rate if universal else self._settings.success_rate
        schedule = self._schedule(steps, rate)
        results = invert(network, self._data.images, problems, schedule)
        self._passes[0] += network.forward_passes
        self._passes[1] += network.backward_passes
        pairs = list(zip(starts, results, strict=True))
        for direction, result in pairs:
            self._held.put(*direction, Held.of(result))
        return Inverted(
            stamps=[_stamp(d, result) for d, result in pairs if self._is_trained_on(result)],
            sizes={d: result.size if result.valid else None for d, result in pairs},
        )

    def _problem(self, direction: Pair, start: Held | None) -> Problem:
        source, target = direction
        count, floor = self._settings.inversion_images, self._settings.initial_cost * COST_FLOOR
        if self._settings.next_cost is not None:
            floor = min(floor, self._settings.next_cost)
        images = (
            self._batches.except_class(target, count)
            if source < 0
            else self._batches.of_class(source, count)
        )
        return Problem(
            target=target,
            images=images,
            seed=int(torch.randint(2**62, (), generator=self._generator)),
            source=None if source < 0 else source,
            start=None if start is None else (start.mask, start.pattern),
            initial_cost=None if start is None else max(start.cost, floor),
        )

    def _schedule(self, steps: int, success_rate: float) -> Schedule:
        settings = self._settings
        return Schedule(
            steps=steps,
            batch_size=min(settings.inversion_batch, settings.inversion_images),
            success_rate=success_rate,
            initial_cost=settings.initial_cost,
            warm_up=False,
            patience=settings.patience,
            up=settings.up,
            down=settings.up**1.5,
            smoothing=0.7,
            check_every=steps,
        )

    def _is_trained_on(self, result: Inversion) -> bool:
        _, height, width = self._subject.image_shape
        small = result.size <= self._settings.largest_share * height * width
        return small and result.asr >= self._settings.least_asr

    def _rate_universals(self, stamps: Sequence[Stamp]) -> None:
        """The warm-up score of every pair: how far a universal trigger carries its row's images."""
        for stamp in stamps:
            for source in self._batches.present:
                if source == stamp.target:
                    continue
                rows = self._batches.of_class(source, 10)
                images = torch.lerp(
                    self._batches.images(rows),
                    stamp.pattern.to(self._data.images.device),
                    stamp.mask.to(self._data.images.device),
                )
                self._passes[0] += len(images)
                now = replace(self._subject, module=self._trainer.network)
                share = now.logits(images).softmax(1)[:, stamp.target].mean()
                self._scores.universal[source, stamp.target] = float(share)

    def _train(self, stamps: Sequence[Stamp], tally: Tally, *, apart: bool = False) -> None:
        """One optimiser step; `apart`: on a single trigger, which half of the images carry."""
        clean = self._settings.clean
        half = max(1, clean // 2)
        stamped_step(
            self._trainer,
            self._batches,
            stamps,
            tally,
            stamped=[half if apart else self._settings.stamped] * len(stamps),
            clean=half if apart else clean,
            done=self._done(),
            recipe=self._settings.recipe,
            generator=self._generator,
            attack=self._attacked if self._settings.adversarial else None,
        )

    def _attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        attack = self._settings.attack
        forward, backward = attack.passes
        self._passes[0] += len(images) * forward
        self._passes[1] += len(images) * backward
        return pgd(self._trainer.answers, images, labels, attack, self._generator)

    def _entry(
        self, phase: str, tally: Tally, sizes: dict[Pair, float | None], pairs: Sequence[Pair]
    ) -> LogEntry:
        valid = [size for size in sizes.values() if size is not None]
        channels = self._subject.image_shape[0]
        return tally.entry(
            phase,
            round=self._round,
            steps=self._trainer.steps,
            seconds=self._seconds,
            distance=channels * sum(valid) / len(valid) if valid else None,
            pairs=tuple(pairs),
        )

    def _saved(self) -> Saved:
        scores = {f"scores.{k}": v for k, v in self._scores.tensors().items()}
        return Saved(
            tensors={
                **self._trainer.tensors(),
                **dict(self._held.tensors()),
                **scores,
                **self._batches.tensors(),
                "generator": self._generator.get_state(),
            },
            values=SavedValues(
                round=self._round,
                steps=self._trainer.steps,
                images=self._trainer.images,
                passes=(self._passes[0], self._passes[1]),
                cursor=self._scores.cursor,
                images_at_once=self._images_at_once,
                seconds=self._seconds,
                log=[entry_values(entry) for entry in self._log],
            ).model_dump(),
        )

    def _restore(self, saved: Saved) -> None:
        tensors, values = saved.tensors, SavedValues.model_validate(saved.values)
        self._trainer.restore(tensors, steps=values.steps, images=values.images)
        self._held.restore(tensors)
        named = {k[7:]: v for k, v in tensors.items() if k.startswith("scores.")}
        self._scores.restore(named, values.cursor)
        self._batches.restore(tensors)
        self._generator.set_state(tensors["generator"])
        self._round, self._passes = values.round, list(values.passes)
        self._images_at_once = values.images_at_once
        self._earlier = values.seconds
        self._log = [entry_from(line) for line in values.log]


def _stamp(direction: Pair, result: Inversion) -> Stamp:
    source, target = direction
    return Stamp(
        source=None if source < 0 else source,
        target=target,
        mask=result.mask,
        pattern=result.pattern,
    )
