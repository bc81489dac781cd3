"""From a subject's images to inversion problems, and from inversions to the triggers of a scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .inversion.problems import Inversion, Problem, pair_problems, universal_problems
from .scan import Trigger
from .seeds import derive_seed

SIZE_HAS_NO_RULE = (
    "statistic=size compares models with one another, so that its cut has to come from clean models"
)


def problems_of(
    labels: Tensor, num_classes: int, generator: torch.Generator, *, pairs: bool
) -> list[Problem]:
    """A problem per target class, or per ordered pair of classes, each with a seed of its own.

    Args:
        labels: int64 `(N,)`, the classes of the pool's images.
        num_classes: K.
        generator: gives the number that all seeds are derived from.
        pairs: whether sources are told apart.
    """
    base = int(torch.randint(2**62, (), generator=generator))
    classes = range(num_classes)
    if not pairs:
        seeds = [derive_seed(base, "any", target) for target in classes]
        return universal_problems(labels, classes, seeds)
    present = sorted(set(labels.tolist()))
    found = [(source, target) for source in present for target in classes if source != target]
    return pair_problems(labels, found, [derive_seed(base, *pair) for pair in found])


def trigger_of(inversion: Inversion) -> Trigger:
    """What came of an inversion, as a scan keeps it."""
    return Trigger(
        target=inversion.problem.target,
        source=inversion.problem.source,
        mask=inversion.mask,
        pattern=inversion.pattern,
        size=inversion.size,
        asr=inversion.asr,
        valid=inversion.valid,
    )


def remark_on(triggers: Sequence[Trigger], success_rate: float) -> str:
    """How many triggers do not work; empty if all do."""
    missing = sum(not trigger.valid for trigger in triggers)
    if not missing:
        return ""
    return f"{missing} of {len(triggers)} triggers missed a success rate of {success_rate:g}"
