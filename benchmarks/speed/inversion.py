"""The inversion engine beside the reference loop, on the same network, pairs and images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import PRECISIONS, FrozenNetwork, Precision
from moth_eval.inversion.presets import SHORT
from moth_eval.inversion.problems import Problem, pair_problems
from moth_eval.seeds import derive_seed
from moth_eval.subject import Subject

from .reference import ReferenceLoop, Trace


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both on one pair; sizes in pixels of the mask.

    Attributes:
        source: class whose images are flipped.
        target: class they are flipped to.
        reference: how the reference loop's trigger shrank.
        engine: how the engine's trigger shrank, all pairs running at once; per precision.
    """

    source: int
    target: int
    reference: Trace
    engine: Mapping[Precision, Trace]

    def common_size(self, precision: Precision) -> float | None:
        """The larger of the two final sizes: what both have reached; None if one found nothing."""
        larger = max(self.reference.sizes[-1], self.engine[precision].sizes[-1])
        return larger if math.isfinite(larger) else None

    def seconds(self, precision: Precision) -> tuple[float, float] | None:
        """When the loop and the engine had a trigger of the common size (s)."""
        size = self.common_size(precision)
        if size is None:
            return None
        loop, engine = self.reference.seconds_to(size), self.engine[precision].seconds_to(size)
        return None if loop is None or engine is None else (loop, engine)


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
    engine = {precision: _run_engine(subject, problems, precision) for precision in PRECISIONS}
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
            engine={precision: traces[index] for precision, traces in engine.items()},
        )
        for index, ((source, target), problem) in enumerate(zip(pairs, problems, strict=True))
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


def _run_engine(subject: Subject, problems: Sequence[Problem], precision: Precision) -> list[Trace]:
    traces = {problem.seed: Trace() for problem in problems}
    started = time.perf_counter()

    def note(under_way: Sequence[Problem], sizes: Tensor) -> None:
        now = time.perf_counter() - started
        for problem, size in zip(under_way, sizes.tolist(), strict=True):
            traces[problem.seed].note(now, size)

    with torch.no_grad():
        network = FrozenNetwork(subject, precision=precision)
    invert(network, subject.examples.images, problems, SHORT, on_check=note)
    for trace in traces.values():
        trace.ends.append(time.perf_counter() - started)
    return [traces[problem.seed] for problem in problems]
