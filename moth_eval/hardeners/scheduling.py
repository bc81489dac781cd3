"""Which pairs of classes are trained on next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Scheduling = Literal["gain", "paper", "random", "all"]

SCHEDULINGS: tuple[Scheduling, ...] = ("gain", "paper", "random", "all")

MEMORY = 0.5
"""Share of the old value in the running gain of a pair."""


class PairScores:
    """What is known of every ordered pair of classes, and the choice that follows from it.

    Attributes:
        size: `(K, K)`, last valid trigger size (pixels); 0 where there is none yet.
        gain: `(K, K)`, running growth of the logarithm of the size per visit; infinite where a
            pair has not been measured twice, and not a number if its last visit failed then.
        universal: `(K, K)`, how easily the universal trigger of the column takes over the row's
            images, in `[0, 1]` (the paper's warm-up score).
        difference: `(K, K)`, running relative growth of the size (the paper's distance score).
        visits: int64 `(K, K)`, how often a pair had a turn.
        cursor: place in the cycle of `all`.
    """

    TENSORS = ("size", "gain", "universal", "difference", "visits")

    def __init__(self, classes: int, present: Sequence[int], *, symmetric: bool) -> None:
        """Nothing is known yet.

        Args:
            classes: K.
            present: classes that have images; no other is ever a source.
            symmetric: whether a pair is chosen for both of its directions, or for one.
        """
        self.size = torch.zeros(classes, classes)
        self.gain = torch.full((classes, classes), torch.inf)
        self.universal = torch.zeros(classes, classes)
        self.difference = torch.zeros(classes, classes)
        self.visits = torch.zeros(classes, classes, dtype=torch.int64)
        self.cursor = 0
        self._symmetric = symmetric
        self._pairs = [(a, b) for a in present for b in present if (a < b if symmetric else a != b)]

    def note(self, source: int, target: int, size: float | None) -> None:
        """Take in what a visit of a direction found; None: no valid trigger."""
        self.visits[source, target] += 1
        if size is None:
            # Nothing was measured: what was hoped for is not, and what was known fades.
            old = float(self.gain[source, target])
            self.gain[source, target] = min(old, MEMORY * old) if math.isfinite(old) else math.nan
            return
        before = float(self.size[source, target])
        self.size[source, target] = size
        if not before:
            self.gain[source, target] = math.inf  # measured once, whatever failed before
            return
        if not size:
            return
        growth = (size - before) / before
        self.difference[source, target] = (self.difference[source, target] + growth) / 2
        logarithm, old = math.log(size / before), float(self.gain[source, target])
        running = MEMORY * old + (1 - MEMORY) * logarithm
        self.gain[source, target] = running if math.isfinite(old) else logarithm

    def choose(
        self,
        scheduling: Scheduling,
        count: int,
        *,
        random_share: float,
        age: float,
        generator: torch.Generator,
    ) -> list[tuple[int, int]]:
        """At most `count` different pairs, the best first.

        Args:
            scheduling: `gain`: where the distance grew fastest at the last visits, or may grow
                faster yet; `paper`: the published score; `random`: any; `all`: one after the other.
            count: pairs wanted.
            random_share: probability in `[0, 1]` that a place is filled at random instead.
            age: in `[0, 1]`, weight of the distance score against the warm-up score in `paper`.
            generator: on the CPU.
        """
        count = min(count, len(self._pairs))
        if scheduling == "all":
            places = [(self.cursor + k) % len(self._pairs) for k in range(count)]
            self.cursor = (self.cursor + count) % len(self._pairs)
            return [self._pairs[k] for k in places]
        shuffled = torch.randperm(len(self._pairs), generator=generator).tolist()
        if scheduling == "random":
            return [self._pairs[k] for k in shuffled[:count]]
        ranked = self._ranked(shuffled, self._scores(scheduling, age))
        lots = torch.rand(count, generator=generator) < random_share
        chosen: list[int] = []
        for lot in lots.tolist():
            source = shuffled if lot else ranked
            chosen.append(next(k for k in source if k not in chosen))
        return [self._pairs[k] for k in chosen]

    def _ranked(self, places: Sequence[int], scores: Tensor) -> list[int]:
        """Places of pairs, the best score first.

        Among equals, those measured once, which one visit more makes known, come before those that
        the warm-up found easy, and these before others in the order given.
        """
        once = self._of_pairs(((self.size > 0) & self.gain.isinf()).float())
        keys = torch.stack([scores, once, self._of_pairs(self.universal)], dim=-1).tolist()

        def key(place: int) -> list[float]:
            source, target = self._pairs[place]
            found: list[float] = keys[source][target]
            return found

        return sorted(places, key=key, reverse=True)

    def _scores(self, scheduling: Scheduling, age: float) -> Tensor:
        """Scores `(K, K)` of pairs."""
        if scheduling == "paper":
            return self._of_pairs((1 - age) * self.universal + age * self.difference)
        return self._of_pairs(self._expected_gain())

    def _of_pairs(self, table: Tensor) -> Tensor:
        """Both directions added where pairs are symmetric."""
        return table + table.T if self._symmetric else table

    def _expected_gain(self) -> Tensor:
        """Gains `(K, K)`: as measured, else what the pair's classes had and a spread on top.

        A pair that was not measured twice is hoped to grow as its source and its target did with
        others, and a standard deviation of all gains faster. So what is unknown is tried as long
        as it may be the best, and no number of classes makes the choice one by lot. Of a pair whose
        visit failed before that nothing is hoped, and nothing follows for others.
        """
        known = self.gain.isfinite()
        if not known.any():
            return torch.zeros_like(self.gain)
        gains = torch.where(known, self.gain, 0.0)
        mean = gains.sum() / known.sum()
        source = (gains.sum(1, keepdim=True) + mean) / (known.sum(1, keepdim=True) + 1)
        target = (gains.sum(0, keepdim=True) + mean) / (known.sum(0, keepdim=True) + 1)
        spread = self.gain[known].std(correction=0)
        hoped = torch.where(self.gain.isnan(), 0.0, source + target - mean + spread)
        return torch.where(known, self.gain, hoped)

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all tables by name."""
        return {name: getattr(self, name).clone() for name in self.TENSORS}

    def restore(self, tensors: Mapping[str, Tensor], cursor: int) -> None:
        """Go on from what `tensors` and the cursor gave."""
        for name in self.TENSORS:
            getattr(self, name).copy_(tensors[name])
        self.cursor = cursor
