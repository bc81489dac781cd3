from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moth_eval.errors import InputError
from moth_eval.metrics import (
    SWEEP,
    brier,
    confusion_sweep,
    cross_entropies,
    cross_entropy,
    cross_entropy_halfwidth,
    roc_auc,
    roc_curve,
    tpr_at_fpr,
)

ANSWERS = [0.9, 0.2, 0.35, math.nan, 0.0, 1.0, 0.05, 0.351]
TRUTH = [1, 0, 1, 1, 1, 0, 0, 0]

labelled_scores = st.lists(
    st.tuples(st.integers(-5, 5).map(float), st.integers(0, 1)), min_size=2, max_size=30
).filter(lambda rows: len({label for _, label in rows}) == 2)


def test_cross_entropy_equals_what_trojai_computes() -> None:
    assert cross_entropy(ANSWERS, TRUTH) == pytest.approx(7.227144197814771, abs=1e-12)
    assert cross_entropy_halfwidth(ANSWERS, TRUTH) == pytest.approx(8.165993630133194, abs=1e-12)


def test_each_models_cross_entropy_equals_what_trojai_computes() -> None:
    expected = [0.10536052, 0.22314355, 1.04982212, 0.69314718]
    expected += [27.63102112, 27.63104324, 0.05129329, 0.43232256]
    assert cross_entropies(ANSWERS, TRUTH) == pytest.approx(expected, abs=5e-9)


def test_brier_score_equals_what_trojai_computes() -> None:
    assert brier(ANSWERS, TRUTH) == pytest.approx(0.356025125, abs=1e-12)


def test_roc_area_equals_what_trojai_computes() -> None:
    answered = [0.5 if math.isnan(p) else p for p in ANSWERS]
    assert roc_auc(answered, TRUTH) == pytest.approx(0.5, abs=1e-12)


def test_no_answer_costs_as_much_as_a_coin_toss() -> None:
    assert cross_entropy([math.nan], [1]) == pytest.approx(math.log(2))
    assert brier([math.nan], [0]) == 0.25


def test_sweep_keeps_the_rounding_of_the_reference_thresholds() -> None:
    assert SWEEP.size == 101
    assert str(SWEEP[35]) == "0.35000000000000003"
    row = confusion_sweep(ANSWERS, TRUTH)[35]
    assert (row.tp, row.fp, row.fn, row.tn) == (2, 2, 2, 2)


def test_sweep_starts_with_everything_detected_and_always_adds_up() -> None:
    rows = confusion_sweep(ANSWERS, TRUTH)
    assert (rows[0].tpr, rows[0].fpr) == (1.0, 1.0)
    assert all(r.tp + r.fp + r.fn + r.tn == len(TRUTH) for r in rows)


def test_rates_of_an_absent_class_are_nan() -> None:
    row = confusion_sweep([0.2, 0.9], [0, 0])[50]
    assert math.isnan(row.tpr)
    assert row.fpr == 0.5


def test_roc_area_of_one_class_is_nan() -> None:
    assert math.isnan(roc_auc([1.0, 2.0], [1, 1]))


def test_roc_curve_of_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="got only clean ones"):
        roc_curve([1.0, 2.0], [0, 0])


def test_true_positive_rate_is_conservative_at_a_small_false_positive_rate() -> None:
    scores, truth = [1, 2, 3, 4, 2.5, 3.5, 5, 6], [0, 0, 0, 0, 1, 1, 1, 1]
    assert tpr_at_fpr(scores, truth, 0.10) == 0.5
    assert tpr_at_fpr(scores, truth, 0.25) == 0.75


def test_a_tie_between_clean_and_poisoned_is_not_split() -> None:
    assert tpr_at_fpr([1, 2, 2, 2], [0, 0, 1, 1], 0.1) == 0.0


@given(labelled_scores)
def test_roc_area_is_the_share_of_pairs_in_order(rows: list[tuple[float, int]]) -> None:
    clean = np.array([s for s, label in rows if not label])
    poisoned = np.array([s for s, label in rows if label])[:, None]
    pairs = (poisoned > clean).mean() + 0.5 * (poisoned == clean).mean()
    assert roc_auc(*zip(*rows, strict=True)) == pytest.approx(pairs)


@given(labelled_scores, st.floats(0, 1))
def test_rate_at_a_limit_is_a_point_of_the_curve(
    rows: list[tuple[float, int]], limit: float
) -> None:
    scores, truth = zip(*rows, strict=True)
    curve = roc_curve(scores, truth)
    assert tpr_at_fpr(scores, truth, limit) in curve.tpr[curve.fpr <= limit + 1e-9]


@pytest.mark.parametrize(
    ("values", "truth", "message"),
    [
        ([], [], "at least one"),
        ([0.5], [0, 1], "as many probabilities as truth values"),
        ([0.5], [2], "0 .clean. or 1"),
        ([1.5], [1], r"must lie in \[0, 1\]"),
    ],
)
def test_probabilities_that_make_no_sense_are_refused(
    values: list[float], truth: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        cross_entropy(values, truth)


def test_a_score_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="1 of 2 scores are not finite"):
        roc_auc([math.nan, 1.0], [0, 1])
