from __future__ import annotations

import numpy as np
import pytest

from moth_eval.anomaly import anomaly_indices, upward_indices
from moth_eval.own_rules import LEVEL, cut_of, index_rule, largest_upward, lead_rule


@pytest.mark.parametrize("count", [3, 5, 10, 43])
def test_as_many_clean_models_as_stated_are_above_the_cut_in_other_draws(count: int) -> None:
    drawn = np.random.default_rng(1).normal(1.0, 0.1, (20_000, count))
    down, up = (index_rule(count, "sizes", upward=upward) for upward in (False, True))
    assert down.false_alarm_rate == up.false_alarm_rate == pytest.approx(LEVEL, abs=0.001)
    share = float((anomaly_indices(drawn).max(axis=-1) > down.threshold).mean())
    assert share == pytest.approx(LEVEL, abs=0.01)
    share = float((upward_indices(drawn).max(axis=-1) > up.threshold).mean())
    assert share == pytest.approx(LEVEL, abs=0.01)


def test_the_cut_is_that_of_an_independent_simulation() -> None:
    cuts = [index_rule(count, "sizes").threshold for count in (5, 10, 20, 43, 100)]
    assert cuts == pytest.approx([5.70, 3.84, 3.55, 3.47, 3.51], rel=0.03)


def test_of_several_figures_the_largest_index_is_above_the_cut_as_often() -> None:
    drawn = np.random.default_rng(2).normal(1.0, 0.1, (4, 20_000, 8))
    rule = index_rule(8, "rows", upward=True, figures=4)
    highest = np.max([largest_upward(one) for one in drawn], axis=0)
    assert float((highest > rule.threshold).mean()) == pytest.approx(LEVEL, abs=0.01)
    assert rule.threshold > cut_of(8, largest_upward)[0]


def test_a_cut_on_the_figure_is_that_on_its_index() -> None:
    for seed in range(40):
        figures = np.random.default_rng(seed).standard_cauchy(6)
        rule = lead_rule(figures, "figure", "figures", known=True)
        assert rule is not None
        by_index = upward_indices(figures).max() > index_rule(6, "figures", upward=True).threshold
        assert (figures.max() > rule.threshold) == by_index
    assert lead_rule(np.ones(2), "figure", "figures", known=True) is None


def test_a_rate_that_is_not_known_is_none_and_every_rule_names_itself_ours() -> None:
    rule = index_rule(5, "sizes", known=False)
    assert (rule.false_alarm_rate, rule.origin) == (None, "ours")
    assert rule.source == (
        "ours: exceeded by 5 % of simulated clean models with 5 independent normal sizes"
    )
