"""The inversion engine beside the reference loop, on the same network, pairs and images."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.problems import Problem, pair_problems
from moth_eval.inversion.schedule import Schedule
from moth_eval.seeds import derive_seed
from moth_eval.subject import Subject

from .reference import ReferenceLoop, Trace

ENGINE = Schedule(
    steps=600,
    batch_size=16,
    success_rate=0.9,
    initial_cost=1e-2,
    warm_up=False,
    patience=3,
    up=1.3,
    down=1.3**1.5,
    smoothing=0.7,
    check_every=40,
    stop_patience=600,
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both on one pair; sizes in pixels of the mask.

    Attributes:
        source: class whose images are flipped.
        target: class they are flipped to.
        reference: how the reference loop's trigger shrank.
        engine: how the engine's trigger shrank, all pairs running at once.
    """

    source: int
    target: int
    reference: Trace
    engine: Trace

    @property
    def common_size(self) -> float | None:
        """The larger of the two final sizes: what both have reached; None if one found nothing."""
        larger = max(self.reference.sizes[-1], self.engine.sizes[-1])
        return larger if math.isfinite(larger) else None


def compare(
    subject: Subject, pairs: Sequence[tuple[int, int]], *, samples: int, passes: int, seed: int
) -> list[Comparison]:
    """Run both on every pair with the same images.

    Args:
        subject: the network and its images.
        pairs: `(source, target)` classes.
        samples: images per source class.
        passes: passes of the reference loop.
        seed: decides images and initial triggers.
    """
    problems = _problems(subject, pairs, samples, seed)
    engine = _run_engine(subject, problems)
    network = subject.module.train(False)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    loop = ReferenceLoop(passes=passes)
    return [
        Comparison(
            source=source,
            target=target,
            reference=loop.invert(
                network, subject.examples.images[problem.images], target, problem.seed
            ),
            engine=trace,
        )
        for (source, target), problem, trace in zip(pairs, problems, engine, strict=True)
    ]


def _problems(
    subject: Subject, pairs: Sequence[tuple[int, int]], samples: int, seed: int
) -> list[Problem]:
    seeds = [derive_seed(seed, *pair) for pair in pairs]
    full = pair_problems(subject.examples.labels, pairs, seeds)
    return [
        Problem(target=p.target, source=p.source, seed=p.seed, images=p.images[:samples])
        for p in full
    ]


def _run_engine(subject: Subject, problems: Sequence[Problem]) -> list[Trace]:
    traces = {problem.seed: Trace() for problem in problems}
    started = time.perf_counter()

    def note(under_way: Sequence[Problem], sizes: Tensor) -> None:
        now = time.perf_counter() - started
        for problem, size in zip(under_way, sizes.tolist(), strict=True):
            traces[problem.seed].note(now, size)

    with torch.no_grad():
        network = FrozenNetwork(subject)
    invert(network, subject.examples.images, problems, ENGINE, on_check=note)
    return [traces[problem.seed] for problem in problems]
