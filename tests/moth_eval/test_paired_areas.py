from __future__ import annotations

import numpy as np
import pytest

from moth_eval.errors import InputError
from moth_eval.metrics import roc_auc
from moth_eval.paired_areas import paired_areas


def scores(
    seed: int, *, models: int = 40, shift: tuple[float, float] = (1.0, 1.0), common: float = 0.8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two scanners that hang together, half of the models poisoned."""
    generator = np.random.default_rng(seed)
    truth = np.arange(models) % 2
    shared = generator.normal(size=models)
    own = generator.normal(size=(2, models))
    noise = common * shared + np.sqrt(1 - common**2) * own
    return noise[0] + shift[0] * truth, noise[1] + shift[1] * truth, truth


def test_areas_are_those_of_each_scanner_alone() -> None:
    first, second, truth = scores(0)
    found = paired_areas(first, second, truth, seed=0)
    assert found.first == pytest.approx(roc_auc(first, truth), abs=1e-12)
    assert found.second == pytest.approx(roc_auc(second, truth), abs=1e-12)
    assert found.difference == pytest.approx(found.second - found.first)
    assert (found.clean, found.poisoned) == (20, 20)


def test_the_standard_error_is_delongs() -> None:
    # By hand: 2 clean (0, 2), 2 poisoned (1, 3): areas 3/4 and, with 1 and 2 exchanged, 1.
    found = paired_areas([0, 2, 1, 3], [0, 1, 2, 3], [0, 0, 1, 1], seed=0)
    # Differences of the placements: poisoned 1/2, 0; clean 0, 1/2; each of variance 1/8.
    error = np.sqrt(0.125 / 2 + 0.125 / 2)
    assert found.difference == pytest.approx(0.25)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(0.25 - 1.959964 * error, abs=1e-6)
    assert found.interval.high == pytest.approx(0.25 + 1.959964 * error, abs=1e-6)
    assert found.detectable == pytest.approx((1.959964 + 0.8416212) * error, abs=1e-6)


def test_equal_scanners_differ_by_nothing() -> None:
    first, _, truth = scores(1)
    found = paired_areas(first, np.exp(first), truth, seed=0)
    assert (found.difference, found.p_value) == (0.0, 1.0)
    assert found.interval is None
    assert found.detectable is None


def test_scanners_of_equal_worth_are_told_apart_as_seldom_as_promised() -> None:
    trials = 300
    p_values = [
        paired_areas(*scores(seed, models=16), seed=seed, exchanges=199).p_value
        for seed in range(trials)
    ]
    # Within three standard errors of 5 %, of 300 trials.
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert np.mean(np.array(p_values) <= 0.5) >= 0.4


def test_a_better_scanner_is_found_and_its_interval_leaves_zero_out() -> None:
    found = paired_areas(*scores(3, models=120, shift=(0.2, 2.0)), seed=0)
    assert found.difference > 0.2
    assert found.p_value < 0.01
    assert found.interval is not None
    assert found.interval.low > 0
    other = paired_areas(*scores(3, models=480, shift=(0.2, 2.0)), seed=0)
    assert other.detectable is not None
    assert found.detectable is not None
    # Four times the models show half the difference.
    assert other.detectable / found.detectable == pytest.approx(0.5, rel=0.2)


def test_ties_count_half() -> None:
    found = paired_areas([1, 1, 1, 1], [0, 1, 1, 2], [0, 0, 1, 1], seed=0)
    assert (found.first, found.second) == (0.5, 0.875)


@pytest.mark.parametrize(
    ("first", "second", "truth", "message"),
    [
        ([1, 2], [1, 2, 3], [0, 1], r"got shapes \(2,\), \(3,\) and \(2,\)"),
        ([1, 2], [1, 2], [1, 1], "needs clean"),
        ([1, np.nan], [1, 2], [0, 1], "finite"),
    ],
)
def test_what_cannot_be_compared_is_an_error(
    first: list[float], second: list[float], truth: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        paired_areas(first, second, truth, seed=0)


def test_one_model_of_a_class_gives_no_interval() -> None:
    found = paired_areas([0, 1, 2], [0, 2, 1], [0, 0, 1], seed=0)
    assert found.interval is None
    assert 0 < found.p_value <= 1
