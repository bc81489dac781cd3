"""Class distances as numbers: per pair and seed, as a matrix, in sum. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .metrics import FloatArray

Pair = tuple[int, int]
"""`(source, target)` classes."""


@dataclass(frozen=True, kw_only=True)
class SeedDistance:
    """One inversion: a pair under one seed.

    Attributes:
        source: class whose images are flipped.
        target: class they are flipped to.
        seed: the seed of the protocol that it belongs to.
        distance: sum of the mask over all channels (pixels times channels); None if not valid.
        asr: success rate of the returned trigger on all images used, in `[0, 1]`.
        valid: whether the trigger counts. Under `paper` the mean of the pass in which it came about
            decides, so that `asr` may lie below `success_rate`.
        samples: images of the source class that were used.
        steps: optimisation steps taken.
    """

    source: int
    target: int
    seed: int
    distance: float | None
    asr: float
    valid: bool
    samples: int
    steps: int

    @property
    def pair(self) -> Pair:
        """`(source, target)`."""
        return self.source, self.target


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All distances of a model in a few figures; pairs without a distance are left out of them.

    Attributes:
        pairs: pairs asked for.
        measured: pairs with a distance, on which the figures rest.
        mean: NaN, like the rest, if no pair has a distance.
        median: of the measured pairs.
        smallest: smallest distance.
        largest: largest distance.
        smallest_pair: where it is; None if no pair has a distance.
        largest_pair: where it is.
    """

    pairs: int
    measured: int
    mean: float
    median: float
    smallest: float
    largest: float
    smallest_pair: Pair | None
    largest_pair: Pair | None


@dataclass(frozen=True, kw_only=True)
class ClassDistances:
    """The class distances of one model.

    The distance of a pair is the smallest that any of its seeds found; seeds whose trigger is not
    valid do not count. A pair without a valid seed has no distance: it is failed, never 0.

    Attributes:
        num_classes: K.
        rows: one per pair and seed.
        forward_passes: images that went forward for it.
        backward_passes: images whose gradient was taken for it.
        seconds: wall-clock time (s).
    """

    num_classes: int
    rows: tuple[SeedDistance, ...]
    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0

    @cached_property
    def by_pair(self) -> Mapping[Pair, tuple[SeedDistance, ...]]:
        """Pair -> its rows, pairs in order of source and target."""
        found: dict[Pair, list[SeedDistance]] = {pair: [] for pair in sorted(self._asked)}
        for row in self.rows:
            found[row.pair].append(row)
        return {pair: tuple(rows) for pair, rows in found.items()}

    @property
    def _asked(self) -> set[Pair]:
        return {row.pair for row in self.rows}

    @cached_property
    def best(self) -> Mapping[Pair, SeedDistance]:
        """Pair -> its smallest valid row; failed pairs are absent."""
        found = {pair: smallest(rows) for pair, rows in self.by_pair.items()}
        return {pair: row for pair, row in found.items() if row is not None}

    @property
    def failed(self) -> tuple[Pair, ...]:
        """Pairs without a valid seed."""
        return tuple(pair for pair in self.by_pair if pair not in self.best)

    def distance(self, source: int, target: int) -> float:
        """The distance of a pair; NaN if it failed or was not measured."""
        row = self.best.get((source, target))
        return math.nan if row is None or row.distance is None else row.distance

    def matrix(self) -> FloatArray:
        """`(K, K)`, rows are sources; NaN on the diagonal and where there is no distance."""
        return as_matrix({p: self.distance(*p) for p in self.best}, self.num_classes)

    def seed_distances(self, pair: Pair) -> FloatArray:
        """`(S,)` distances of the seeds of a pair; NaN for seeds without a valid trigger."""
        return np.array(
            [math.nan if r.distance is None else r.distance for r in self.by_pair[pair]]
        )

    def short_classes(self, asked: int) -> Mapping[int, int]:
        """Source classes of which fewer images than asked for were there -> how many."""
        return {row.source: row.samples for row in self.rows if row.samples < asked}

    def summary(self) -> Summary:
        """The figures of the pairs that have a distance."""
        return summarise({p: self.distance(*p) for p in self.best}, pairs=len(self.by_pair))


def smallest(rows: Iterable[SeedDistance]) -> SeedDistance | None:
    """The valid row of the smallest distance; None if none is valid."""
    valid = [
        (row.distance, row.seed, row) for row in rows if row.valid and row.distance is not None
    ]
    return min(valid, key=lambda entry: entry[:2])[2] if valid else None


def as_matrix(values: Mapping[Pair, float], num_classes: int) -> FloatArray:
    """`(K, K)` with these values; NaN elsewhere."""
    matrix = np.full((num_classes, num_classes), math.nan)
    for pair, value in values.items():
        matrix[pair] = value
    return matrix


def summarise(values: Mapping[Pair, float], *, pairs: int) -> Summary:
    """The figures of these distances, out of `pairs` that were asked for."""
    known = {pair: value for pair, value in values.items() if not math.isnan(value)}
    if not known:
        nan = math.nan
        return Summary(
            pairs=pairs, measured=0, mean=nan, median=nan, smallest=nan, largest=nan,
            smallest_pair=None, largest_pair=None,
        )  # fmt: skip
    ordered = sorted(known, key=lambda pair: (known[pair], pair))
    numbers = np.array([known[pair] for pair in ordered])
    return Summary(
        pairs=pairs,
        measured=len(known),
        mean=float(numbers.mean()),
        median=float(np.median(numbers)),
        smallest=float(numbers[0]),
        largest=float(numbers[-1]),
        smallest_pair=ordered[0],
        largest_pair=ordered[-1],
    )
