from __future__ import annotations

import pytest

from benchmarks.harden_measure import distance_change
from moth_eval.distance_table import ClassDistances, SeedDistance


def distances(*found: float | None) -> ClassDistances:
    rows = [
        SeedDistance(
            source=place, target=place + 1, seed=1, distance=one, asr=1.0, valid=one is not None,
            samples=10, steps=10,
        )
        for place, one in enumerate(found)
    ]  # fmt: skip
    return ClassDistances(num_classes=len(found) + 1, rows=tuple(rows))


def test_a_pair_that_no_trigger_is_left_for_changes_neither_mean() -> None:
    """The closest pair hardened beyond reach must not make the model look better before."""
    change = distance_change(distances(10, 20, 30), distances(None, 40, 60), seed=0)
    assert (change.mean_before, change.mean_after) == (25, 50)
    assert (change.failed_before, change.failed_after) == ((), ((0, 1),))
    assert change.increase is not None
    assert change.increase.ratio_of_means == pytest.approx(1.0)
    assert [pair.before for pair in change.pairs] == [10, 20, 30]


def test_without_a_common_pair_each_mean_is_that_of_its_side() -> None:
    change = distance_change(distances(10, None), distances(None, 40), seed=0)
    assert (change.mean_before, change.mean_after, change.increase) == (10, 40, None)
