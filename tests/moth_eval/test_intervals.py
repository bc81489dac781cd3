from __future__ import annotations

import numpy as np
import pytest

from moth_eval.errors import InputError
from moth_eval.intervals import auc_interval, bootstrap, newcombe, roc_band, wilson
from moth_eval.metrics import roc_auc, roc_curve


def normal_scores(n: int, *, shift: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    return generator.normal(size=n), generator.normal(shift, 1, size=n)


def area(clean: np.ndarray, poisoned: np.ndarray) -> float:
    return roc_auc([*clean, *poisoned], [0] * len(clean) + [1] * len(poisoned))


@pytest.mark.parametrize("n", [2, 8, 20, 60])
def test_interval_holds_the_observed_area(n: int) -> None:
    clean, poisoned = normal_scores(n)
    interval = auc_interval(clean, poisoned, seed=1)
    assert 0 <= interval.low <= area(clean, poisoned) <= interval.high <= 1


def test_interval_is_wider_with_fewer_models() -> None:
    widths = [auc_interval(*normal_scores(n), seed=1).width for n in (5, 15, 60, 400)]
    assert widths == sorted(widths, reverse=True)


def test_interval_does_not_depend_on_the_order_of_models() -> None:
    clean, poisoned = normal_scores(30)
    backwards = auc_interval(clean[::-1], poisoned[::-1], seed=3)
    assert backwards == auc_interval(clean, poisoned, seed=3)


def test_perfect_separation_of_few_models_is_not_certainty() -> None:
    interval = auc_interval([0, 1, 2, 3], [4, 5, 6, 7], seed=1)
    assert interval.high == 1.0
    assert interval.low < 0.75
    assert interval.method == "Newcombe score"


def test_perfect_separation_of_many_models_still_has_a_width() -> None:
    interval = auc_interval(np.arange(50), np.arange(50) + 100, seed=1)
    assert 0.9 < interval.low < 1.0 == interval.high


def test_equal_scores_of_many_models_are_not_certainty_either() -> None:
    many = auc_interval([1.0] * 20, [1.0] * 20, seed=1)
    assert many.low < 0.4 < 0.6 < many.high
    assert many == newcombe(0.5, 20, 20)


def test_large_classes_use_the_bootstrap() -> None:
    clean, poisoned = normal_scores(40)
    assert auc_interval(clean, poisoned, seed=5) == bootstrap(clean, poisoned, seed=5)


def test_bootstrap_and_score_interval_agree_for_many_models() -> None:
    clean, poisoned = normal_scores(300)
    first = bootstrap(clean, poisoned, seed=1)
    second = newcombe(area(clean, poisoned), 300, 300)
    assert (first.low, first.high) == pytest.approx((second.low, second.high), abs=0.012)


def test_score_interval_is_symmetric_in_the_direction_of_the_score() -> None:
    above, below = newcombe(0.9, 12, 30), newcombe(0.1, 12, 30)
    assert (above.low, above.high) == pytest.approx((1 - below.high, 1 - below.low))


def test_score_interval_solves_its_own_equation() -> None:
    low = newcombe(1.0, 5, 5).low
    spread = (1 - low) / (2 - low) + low / (1 + low)
    error = np.sqrt(low * (1 - low) * (1 + 4 * spread) / 25)
    assert 1 - low == pytest.approx(1.959964 * error, rel=1e-6)


def test_score_interval_covers_the_true_area_of_few_models() -> None:
    generator, shift, hits = np.random.default_rng(0), 2.326174, 0  # true area 0.95
    for _ in range(400):
        clean, poisoned = generator.normal(size=6), generator.normal(shift, 1, size=6)
        interval = auc_interval(clean, poisoned, seed=0)
        hits += interval.low <= 0.95 <= interval.high
    assert 0.92 <= hits / 400 <= 1.0


def test_band_holds_the_curve_at_most_rates() -> None:
    clean, poisoned = normal_scores(40)
    curve = roc_curve([*clean, *poisoned], [0] * 40 + [1] * 40)
    grid = np.linspace(0, 1, 41)
    low, high = roc_band(clean, poisoned, grid, seed=1, resamples=300)
    own = np.array([curve.tpr[curve.fpr <= x + 1e-9].max() for x in grid])
    assert ((low <= own) & (own <= high)).mean() > 0.95
    assert low[-1] == high[-1] == 1.0


def test_band_never_falls() -> None:
    low, high = roc_band(*normal_scores(10), np.linspace(0, 1, 21), seed=1, resamples=200)
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()


def test_wilson_interval_matches_the_textbook() -> None:
    interval = wilson(1, 10)
    assert (interval.low, interval.high) == pytest.approx((0.017876, 0.404150), abs=1e-5)


def test_wilson_interval_of_no_success_is_not_zero_width() -> None:
    assert wilson(0, 10).high == pytest.approx(0.277533, abs=1e-5)


def test_rate_without_trials_is_refused() -> None:
    with pytest.raises(InputError, match="at least one trial"):
        wilson(0, 0)


def test_interval_without_clean_models_is_refused() -> None:
    with pytest.raises(InputError, match="got 0 clean and 2 poisoned"):
        auc_interval([], [1.0, 2.0], seed=0)


def test_area_outside_its_range_is_refused() -> None:
    with pytest.raises(InputError, match=r"area in \[0, 1\]"):
        newcombe(1.2, 3, 3)
