"""What a hardening did to a model: accuracy and class distances, each measured once and kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from moth_eval.distance import DistanceProtocol, class_distances
from moth_eval.distance_increase import distance_increase
from moth_eval.distance_table import ClassDistances, Pair, SeedDistance
from moth_eval.errors import RunError
from moth_eval.hardening_records import (
    AccuracyRecord,
    DistanceChange,
    IncreaseRecord,
    MeasuredLine,
    PairRecord,
)
from moth_eval.paired import paired_accuracy
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples, Subject

from .harden_journal import Lines

OnShare = Callable[[float], None]
"""Told what share of the work is done, in `[0, 1]`."""


class Measurements:
    """Measures models on the same test images, and keeps every result as a line of a file."""

    def __init__(self, path: Path, test: Examples, protocol: DistanceProtocol) -> None:
        """Pick up what was measured before.

        Args:
            path: the file; made if it is not there.
            test: what to measure on.
            protocol: how distances are measured.

        Raises:
            RunError: the file is damaged.
        """
        self._lines = Lines(path)
        self._test, self._protocol = test, protocol
        self._kept = [_line(line, path) for line in self._lines.content]

    def right(self, subject: Subject) -> Tensor:
        """Which test images a model classifies rightly: bool `(N,)`, on the CPU."""
        for line in self._of(subject):
            if line.right is not None and len(line.right) == len(self._test):
                return torch.tensor([answer == "1" for answer in line.right])
        answers = subject.logits(self._test.images).argmax(1) == self._test.labels
        text = "".join("01"[answer] for answer in answers.tolist())
        self._keep(MeasuredLine(sha256=subject.sha256, right=text))
        return answers.cpu()

    def distances(
        self, subject: Subject, pairs: tuple[Pair, ...], *, on_share: OnShare
    ) -> ClassDistances:
        """The class distances of a model on the test images.

        Args:
            subject: the model.
            pairs: `(source, target)` classes, at least one.
            on_share: told of the progress.
        """

        def keep(row: SeedDistance, _: object) -> None:
            self._keep(MeasuredLine(sha256=subject.sha256, **asdict(row)))

        return class_distances(
            replace(subject, examples=self._test),
            self._protocol,
            pairs=pairs,
            done=[row for line in self._of(subject) for row in _row(line)],
            on_pair=keep,
            on_progress=lambda taken, steps: on_share(taken / steps),
        )

    def _of(self, subject: Subject) -> Iterator[MeasuredLine]:
        return (line for line in self._kept if line.sha256 == subject.sha256)

    def _keep(self, line: MeasuredLine) -> None:
        self._lines.append(line.model_dump_json().encode())
        self._kept.append(line)


def draw_pairs(test: Examples, num_classes: int, count: int, seed: int) -> tuple[Pair, ...]:
    """At most `count` different pairs of classes whose source has test images, in order.

    Args:
        test: the test images.
        num_classes: K.
        count: pairs wanted.
        seed: decides which.
    """
    present = sorted(set(test.labels.tolist()))
    pairs = [(a, b) for a in present for b in range(num_classes) if a != b]
    order = torch.randperm(len(pairs), generator=generator_for(seed, "pairs"))
    return tuple(sorted(pairs[place] for place in order[:count].tolist()))


def accuracy_record(before: Tensor, after: Tensor) -> AccuracyRecord:
    """Both accuracies, compared image by image; bool `(N,)` each."""
    return AccuracyRecord.model_validate(asdict(paired_accuracy(before, after)))


def distance_change(before: ClassDistances, after: ClassDistances, *, seed: int) -> DistanceChange:
    """How far apart the classes are, before and after.

    Both means are over the pairs that have a distance on both sides: a pair for which no trigger is
    left, the best that can become of it, would otherwise change the one and not the other.

    Args:
        before: of the original.
        after: of the new model: the same pairs by the same protocol.
        seed: decides the resamples of the intervals.
    """
    increase = None
    if any(before.distance(*pair) > 0 for pair in after.best):
        found = distance_increase(before, after, seed=seed)
        increase = IncreaseRecord.model_validate(asdict(found))
    common = [pair for pair in before.best if pair in after.best]
    return DistanceChange(
        mean_before=_mean([before.distance(*pair) for pair in common or before.best]),
        mean_after=_mean([after.distance(*pair) for pair in common or after.best]),
        failed_before=before.failed,
        failed_after=after.failed,
        increase=increase,
        pairs=tuple(
            PairRecord(
                source=pair[0],
                target=pair[1],
                before=_number(before.distance(*pair)),
                after=_number(after.distance(*pair)),
            )
            for pair in before.by_pair
        ),
    )


def _mean(distances: Sequence[float]) -> float | None:
    return sum(distances) / len(distances) if distances else None


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _row(line: MeasuredLine) -> Iterator[SeedDistance]:
    """The distance in a line, if it holds one."""
    if line.source is not None and line.target is not None and line.seed is not None:
        yield SeedDistance(
            source=line.source,
            target=line.target,
            seed=line.seed,
            distance=line.distance,
            asr=line.asr,
            valid=line.valid,
            samples=line.samples,
            steps=line.steps,
        )


def _line(raw: bytes, path: Path) -> MeasuredLine:
    try:
        return MeasuredLine.model_validate_json(raw)
    except ValidationError as error:
        raise RunError(
            f"{path} holds a damaged line ({error.errors()[0]['msg']}): delete the file, then "
            "everything in it is measured again"
        ) from error
