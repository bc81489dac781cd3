"""Scanner against scanner, on the models that both have a score for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from moth_eval.paired import holm
from moth_eval.paired_areas import PairedAreas, paired_areas

from .evaluation import content_seed, finished
from .rows import Run


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two scanners on the same models.

    Attributes:
        first: name of the one.
        second: name of the other.
        areas: both areas, and whether they differ.
        left_out: models of known truth that only one of them, or neither, has a score for.
        p_holm: the p value, corrected for all comparisons of the run by Holm's procedure.
    """

    first: str
    second: str
    areas: PairedAreas
    left_out: int
    p_holm: float


def compare(run: Run, names: Sequence[str]) -> list[Comparison]:
    """Every pair of scanners that has scored models of both classes in common.

    Args:
        run: the run.
        names: scanners, and what else has rows.
    """
    found = [(a, b, *one) for a, b in combinations(names, 2) if (one := _areas(run, a, b))]
    corrected = holm([areas.p_value for _, _, areas, _ in found])
    return [
        Comparison(first=a, second=b, areas=areas, left_out=left_out, p_holm=p)
        for (a, b, areas, left_out), p in zip(found, corrected, strict=True)
    ]


def _areas(run: Run, first: str, second: str) -> tuple[PairedAreas, int] | None:
    one, other = (
        {r.model: r for r in finished(run.of(name)) if r.score is not None}
        for name in (first, second)
    )
    models = sorted(one.keys() & other.keys())
    labels = np.array([one[m].label for m in models])
    if len(set(labels.tolist())) < 2:
        return None
    a, b = (np.array([rows[m].score for m in models], np.float64) for rows in (one, other))
    labelled = {r.model for name in (first, second) for r in run.of(name) if r.label is not None}
    seed = content_seed(f"{first}\0{second}", a, b)
    return paired_areas(a, b, labels, seed=seed), len(labelled) - len(models)
