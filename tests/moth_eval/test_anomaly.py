from __future__ import annotations

import numpy as np
import pytest

from moth_eval.anomaly import anomaly_indices, false_alarm_rate, upward_indices


def test_the_index_is_that_of_the_published_formula() -> None:
    indices = anomaly_indices(np.array([10.0, 50.0, 60.0, 70.0, 80.0]))
    assert indices == pytest.approx(np.array([50, 10, 0, -10, -20]) / (1.4826 * 10))


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two() -> None:
    assert anomaly_indices(np.array([1.0, 2.0, 4.0, 9.0]))[1] == pytest.approx(1 / (1.4826 * 1.5))


def test_equal_sizes_give_a_finite_index_of_zero() -> None:
    assert anomaly_indices(np.full(5, 7.0)).tolist() == [0] * 5


def test_one_small_size_among_equal_ones_is_finite_and_large() -> None:
    assert anomaly_indices(np.array([1.0, 100, 100, 100]))[0] == pytest.approx(99)


@pytest.mark.parametrize(
    ("classes", "rate"), [(5, 0.275), (10, 0.330), (20, 0.447), (43, 0.638), (100, 0.879)]
)
def test_the_cut_of_two_alarms_as_often_as_an_independent_simulation_says(
    classes: int, rate: float
) -> None:
    assert false_alarm_rate(classes, 2.0) == pytest.approx(rate, abs=0.015)


def test_a_higher_cut_alarms_less_often() -> None:
    assert false_alarm_rate(10, 3.84) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("place", [-100.0, 0.0, 100.0])
def test_figures_of_either_sign_have_the_same_upward_index(place: float) -> None:
    figures = np.array([1.0, 2.0, 4.0, 9.0, 3.0]) + place
    assert upward_indices(figures)[3] == pytest.approx(6 / 1.4826)  # median 3, spread 1
    assert upward_indices(np.full(4, place)).tolist() == [0] * 4
    alike = upward_indices(np.array([2.0, 2.0, 2.0, 2.0, 9.0]) + place)
    assert alike.tolist() == pytest.approx([0, 0, 0, 0, 100])
