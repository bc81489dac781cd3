"""Class distance: how small a trigger flips the images of one class to another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from .distance_stability import Stability, stability_of
from .distance_table import ClassDistances, Pair, SeedDistance
from .errors import InputError
from .inversion.engine import invert
from .inversion.frozen import PRECISIONS, FrozenNetwork, Precision
from .inversion.presets import FAST, PAPER, STICKY
from .inversion.problems import Inversion, Problem
from .inversion.schedule import Schedule
from .seeds import derive_seed, generator_for
from .subject import Subject

PRESETS = {"fast": FAST, "paper": PAPER}


PUBLISHED_SEEDS = (1024, 557540351, 157301989)
"""Source: the published code of MOTH."""

STABILITY_SETS = 100
"""Source: the supplement of MOTH."""

OnPair = Callable[[SeedDistance, Inversion], None]
"""Told of every finished pair and seed, with its trigger."""

OnProgress = Callable[[int, int], None]
"""Told how many steps of rows are taken, and of how many at most."""


@dataclass(frozen=True, kw_only=True)
class DistanceProtocol:
    """How class distances are measured; equal protocols give comparable distances.

    Source: MOTH (Tao et al., IEEE S&P 2022) and its published code: 100 images per source class, a
    success rate of 0.9, and the minimum over three seeds.

    Attributes:
        preset: `fast` or `paper`, see `moth_eval.inversion.presets`.
        samples: images per source class, drawn without replacement for every seed anew; all of
            them where there are fewer.
        seeds: one inversion per pair and seed.
        success_rate: fraction of the images in `(0, 1]` that a valid trigger flips.
        precision: of the gradients, `float32` or `bfloat16`.
    """

    preset: str = "fast"
    samples: int = 100
    seeds: tuple[int, ...] = PUBLISHED_SEEDS
    success_rate: float = 0.9
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if self.samples < 1:
            raise InputError(f"samples must be at least 1, got {self.samples}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds must be given, and all different, got {self.seeds}")
        if not 0 < self.success_rate <= 1:
            raise InputError(f"success_rate must be in (0, 1], got {self.success_rate}")

    @property
    def schedule(self) -> Schedule:
        """The schedule of classes that have as many images as samples are asked for."""
        return self.schedule_of(self.samples)

    def schedule_of(self, images: int) -> Schedule:
        """The preset's schedule at this success rate, for a class of which so many are used.

        A step of `paper` that moves the cost is a pass over all of them, so their number decides
        how many steps there are.
        """
        schedule = replace(PRESETS[self.preset], success_rate=self.success_rate)
        if self.preset != "paper":
            return schedule
        batches = math.ceil(images / schedule.batch_size)
        passes = schedule.steps // schedule.steps_per_move
        return replace(
            schedule,
            batch_size=min(schedule.batch_size, images),
            last_batch=images - (batches - 1) * schedule.batch_size,
            steps=passes * batches,
            steps_per_move=batches,
            check_every=batches,
        )


def class_distances(
    subject: Subject,
    protocol: DistanceProtocol,
    *,
    pairs: Sequence[Pair] | None = None,
    done: Iterable[SeedDistance] = (),
    on_pair: OnPair | None = None,
    on_progress: OnProgress | None = None,
) -> ClassDistances:
    """The class distances of a subject, all pairs and seeds as rows of one inversion.

    A row depends on the subject, the protocol, its pair and its seed only: measured alone or among
    others, a pair comes out the same up to rounding. The subject is left as it is.

    Args:
        subject: the classifier; its clean examples are what is flipped.
        protocol: how.
        pairs: `(source, target)` classes; every ordered pair if None.
        done: rows that an earlier call finished; they are taken over and not computed again.
        on_pair: told of every row as soon as it is finished.
        on_progress: told of the steps taken.

    Raises:
        InputError: a pair names a class that the subject does not have, or the same class twice,
            or there is no example of a source class.
    """
    started = time.perf_counter()
    chosen = checked_pairs(subject, pairs)
    rows = [(pair, seed) for pair in chosen for seed in protocol.seeds]
    known = {(row.pair, row.seed): row for row in done}
    open_rows = [row for row in rows if row not in known]
    network = FrozenNetwork(subject, precision=protocol.precision)
    if open_rows:
        found = _measured(subject, network, protocol, open_rows, on_pair, on_progress)
        known |= {(row.pair, row.seed): row for row in found}
    return ClassDistances(
        num_classes=subject.num_classes,
        rows=tuple(known[row] for row in rows),
        forward_passes=network.forward_passes,
        backward_passes=network.backward_passes,
        seconds=time.perf_counter() - started,
    )


def distance_stability(
    subject: Subject,
    protocol: DistanceProtocol,
    *,
    n_sets: int = STABILITY_SETS,
    pairs: Sequence[Pair] | None = None,
    done: Iterable[SeedDistance] = (),
    on_pair: OnPair | None = None,
    on_progress: OnProgress | None = None,
) -> Stability:
    """How much class distances depend on the sample: many random sets, one inversion on each.

    Source: MOTH (Tao et al., IEEE S&P 2022), supplement.

    Args:
        subject: the classifier.
        protocol: how; its seeds give way to those of the sets.
        n_sets: sets of samples, at least 2.
        pairs: as for :func:`class_distances`, and so are the rest.
        done: finished rows.
        on_pair: told of every row.
        on_progress: told of the steps taken.

    Raises:
        InputError: fewer than two sets, or what :func:`class_distances` refuses.
    """
    found = class_distances(
        subject, stability_protocol(protocol, n_sets), pairs=pairs, done=done, on_pair=on_pair,
        on_progress=on_progress,
    )  # fmt: skip
    return stability_of(found)


def stability_protocol(protocol: DistanceProtocol, n_sets: int) -> DistanceProtocol:
    """The protocol with a seed for each of `n_sets` random sets of samples.

    Raises:
        InputError: fewer than two sets.
    """
    if n_sets < 2:
        raise InputError(f"a stability study needs at least 2 sets of samples, got {n_sets}")
    return replace(protocol, seeds=tuple(derive_seed("stability", n) for n in range(n_sets)))


def checked_pairs(subject: Subject, pairs: Sequence[Pair] | None) -> list[Pair]:
    """The pairs, each once; every ordered pair if None.

    Raises:
        InputError: see :func:`class_distances`.
    """
    classes = range(subject.num_classes)
    if pairs is None:
        pairs = [(a, b) for a in classes for b in classes if a != b]
    if not pairs:
        raise InputError("expected at least one pair of classes, got none")
    present = set(subject.examples.labels.tolist())
    for source, target in pairs:
        if source not in classes or target not in classes or source == target:
            raise InputError(
                f"{source}-{target} is no pair of two classes: the model has the classes 0 to "
                f"{subject.num_classes - 1}"
            )
        if source not in present:
            raise InputError(
                f"there is no example of class {source}: give examples of every source class, or "
                "name the pairs to measure"
            )
    return list(dict.fromkeys(pairs))


def draw_samples(labels: Tensor, source: int, seed: int, samples: int) -> Tensor:
    """Which images of a class are used under a seed: int64 `(M,)`, M at most `samples`, rising.

    Args:
        labels: int64 `(N,)`, the classes of the images.
        source: the class.
        seed: of the protocol.
        samples: images wanted; all of the class if it has fewer.
    """
    members = torch.nonzero(labels == source).flatten().cpu()
    order = torch.randperm(len(members), generator=generator_for(seed, source))
    return members[order[:samples].sort().values]


def _measured(
    subject: Subject,
    network: FrozenNetwork,
    protocol: DistanceProtocol,
    rows: Sequence[tuple[Pair, int]],
    on_pair: OnPair | None,
    on_progress: OnProgress | None,
) -> list[SeedDistance]:
    """The rows that are still open, in their order."""
    labels = subject.examples.labels
    drawn = {
        (source, seed): draw_samples(labels, source, seed, protocol.samples)
        for source, seed in {(pair[0], seed) for pair, seed in rows}
    }
    problems = [
        Problem(
            target=target,
            images=drawn[source, seed],
            seed=derive_seed(seed, source, target),
            source=source,
        )
        for (source, target), seed in rows
    ]
    steps = _Steps({p.seed: protocol.schedule_of(len(p.images)) for p in problems}, on_progress)
    found: dict[int, SeedDistance] = {}

    def tell(part: Sequence[int], place: int, inversion: Inversion) -> None:
        number = part[place]
        found[number] = row = _row(rows[number], inversion, subject.image_shape[0])
        if on_pair is not None:
            on_pair(row, inversion)
        steps.end(inversion.problem)

    # Classes with fewer images than samples have passes, and so a schedule, of their own.
    for schedule in dict.fromkeys(steps.schedules.values()):
        part = [n for n, p in enumerate(problems) if steps.schedules[p.seed] == schedule]
        invert(
            network,
            subject.examples.images,
            [problems[number] for number in part],
            schedule,
            objective=STICKY,
            # Rows that fill one pass through the network finish together, and early: more at a
            # time would be no faster, and an interruption would cost more of them.
            window=max(1, network.images_per_pass // schedule.batch_size),
            on_check=steps.check,
            on_done=partial(tell, part),
        )
    return [found[number] for number in range(len(rows))]


class _Steps:
    """How many steps of all rows are taken.

    Attributes:
        schedules: seed of a problem -> its schedule.
    """

    def __init__(self, schedules: dict[int, Schedule], on_progress: OnProgress | None) -> None:
        self.schedules, self._told = schedules, on_progress
        self._taken = dict.fromkeys(schedules, 0)

    def check(self, under_way: Sequence[Problem], sizes: Tensor) -> None:
        """Rows were looked at."""
        for problem in under_way:
            self._taken[problem.seed] += self.schedules[problem.seed].check_every
        self._tell()

    def end(self, problem: Problem) -> None:
        """A row is finished; one that stopped early leaves nothing to do either."""
        self._taken[problem.seed] = self.schedules[problem.seed].steps
        self._tell()

    def _tell(self) -> None:
        if self._told is not None:
            self._told(sum(self._taken.values()), sum(s.steps for s in self.schedules.values()))


def _row(row: tuple[Pair, int], inversion: Inversion, channels: int) -> SeedDistance:
    (source, target), seed = row
    return SeedDistance(
        source=source,
        target=target,
        seed=seed,
        distance=channels * inversion.size if inversion.valid else None,
        asr=inversion.asr,
        valid=inversion.valid,
        samples=len(inversion.problem.images),
        steps=inversion.steps,
    )
