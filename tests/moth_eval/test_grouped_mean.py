from __future__ import annotations

import numpy as np
import pytest

from moth_eval.errors import InputError
from moth_eval.grouped_mean import grouped_mean


def test_every_group_counts_once_however_many_figures_it_holds() -> None:
    mean, _ = grouped_mean([[1.0], [3.0, 5.0, 7.0]])
    assert mean == pytest.approx(3.0)


def test_too_few_units_give_a_mean_but_no_interval() -> None:
    assert grouped_mean([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]]) == (pytest.approx(4.0), None)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_figures_that_all_agree_give_no_interval_without_width(value: float) -> None:
    models = [[value]] * 4 + [[value * 3 / 3]] * 4
    assert grouped_mean(models) == (pytest.approx(value), None)


def test_the_interval_holds_the_mean_and_says_what_was_drawn() -> None:
    mean, bounds = grouped_mean([[1.0], [2.0], [4.0], [9.0]])
    assert bounds is not None
    assert 1 <= bounds.low < mean < bounds.high <= 9
    assert bounds.method == "expanded percentile bootstrap over 4 models"
    _, seeds = grouped_mean([[1.0, 2.0, 4.0, 9.0]])
    assert seeds is not None
    assert seeds.method == "expanded percentile bootstrap over 4 seeds"


def test_more_seeds_of_the_same_models_do_not_make_the_interval_narrower() -> None:
    few = [[1.0], [2.0], [4.0], [9.0], [3.0]]
    _, one = grouped_mean(few)
    _, many = grouped_mean([group * 50 for group in few])
    assert one is not None
    assert many is not None
    assert many.width == pytest.approx(one.width)


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for seed in range(200):
        _, bounds = grouped_mean(generator.normal(size=(8, 1)).tolist(), seed=seed, resamples=500)
        hits += bounds is not None and bounds.low <= 0 <= bounds.high
    assert 0.9 <= hits / 200 <= 0.99


@pytest.mark.parametrize("groups", [[], [[1.0], []]])
def test_a_mean_of_nothing_is_refused(groups: list[list[float]]) -> None:
    with pytest.raises(InputError, match="leave groups without figures out"):
        grouped_mean(groups)
