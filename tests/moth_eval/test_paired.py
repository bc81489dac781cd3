from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binom

from moth_eval.errors import InputError
from moth_eval.paired import corrected_together, holm, paired_accuracy, paired_difference


def answers(lost: int, gained: int, both: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    before = [True] * lost + [False] * gained + [True] * both + [False] * neither
    after = [False] * lost + [True] * gained + [True] * both + [False] * neither
    return torch.tensor(before), torch.tensor(after)


def test_counts_accuracies_and_p_value_are_those_worked_out_by_hand() -> None:
    result = paired_accuracy(*answers(lost=8, gained=2, both=70, neither=20))
    assert (result.before, result.after) == (pytest.approx(0.78), pytest.approx(0.72))
    assert (result.lost, result.gained, result.n) == (8, 2, 100)
    assert result.p_value == pytest.approx(2 * binom.cdf(2, 10, 0.5))
    # (2 - 8) / 102, plus and minus 1.96 sqrt((11 / 102 - 0.0588^2) / 102)
    assert result.difference.low == pytest.approx(-0.12151, abs=1e-4)
    assert result.difference.high == pytest.approx(0.00387, abs=1e-4)


def test_equal_answers_are_no_evidence_of_a_difference() -> None:
    result = paired_accuracy(*answers(lost=0, gained=0, both=30, neither=5))
    assert result.p_value == 1
    assert result.difference.low < 0 < result.difference.high


def test_the_same_accuracies_can_come_from_very_different_evidence() -> None:
    few = paired_accuracy(*answers(lost=6, gained=0, both=90, neither=4))
    many = paired_accuracy(*answers(lost=36, gained=30, both=30, neither=4))
    assert few.after - few.before == pytest.approx(many.after - many.before)
    assert few.p_value < 0.05 < many.p_value


def test_answers_on_different_numbers_of_images_are_refused() -> None:
    with pytest.raises(InputError, match="on the same images"):
        paired_accuracy(torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool))


def test_the_sign_flip_test_of_a_few_models_is_the_one_counted_by_hand() -> None:
    result = paired_difference([0.9, 0.8, 0.7, 0.9], [0.1, 0.2, 0.1, 0.0])
    assert result.mean == pytest.approx(-0.725)
    assert result.p_value == pytest.approx(2 / 2**4)
    assert result.models == 4
    assert result.interval is not None
    assert result.interval.low <= -0.725 <= result.interval.high <= 0


def test_methods_that_do_the_same_do_not_differ_and_one_model_shows_nothing() -> None:
    same = paired_difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (same.mean, same.p_value) == (0, 1)
    one = paired_difference([0.9], [0.1])
    assert (one.p_value, one.interval) == (None, None)


def test_many_models_are_tested_by_drawn_flips_and_always_alike() -> None:
    first = [0.01 * place for place in range(20)]
    second = [value - 0.1 - 0.001 * place for place, value in enumerate(first)]
    results = {paired_difference(first, second).p_value for _ in range(2)}
    assert len(results) == 1
    assert 0 < (results.pop() or 1) <= 0.001


def test_figures_of_different_models_are_not_compared() -> None:
    with pytest.raises(InputError, match="for the same models"):
        paired_difference([0.1], [0.1, 0.2])


def test_correction_together_does_not_pay_for_what_methods_have_in_common() -> None:
    differences = {f"m{place}": -0.1 - 0.01 * place for place in range(8)}
    alike = [differences, {m: 2 * d for m, d in differences.items()}, dict(differences)]
    assert corrected_together(alike) == pytest.approx([2 / 2**8] * 3)
    assert holm([2 / 2**8] * 3)[0] == pytest.approx(6 / 2**8)


def test_correction_together_keeps_the_family_to_its_level() -> None:
    """Of 200 families of 6 methods that do nothing, about a twentieth has one below 0.05."""
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        table = generator.normal(size=(6, 8)) + generator.normal(size=8)
        groups = [{str(model): float(d) for model, d in enumerate(row)} for row in table]
        found = [p for p in corrected_together(groups) if p is not None]
        assert len(found) == 6
        assert all(p >= paired_difference([0] * 8, list(g.values())).p_value - 1e-9
                   for p, g in zip(found, groups, strict=True))  # fmt: skip
        hits += min(found) <= 0.05
    assert hits <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_correction_together_takes_methods_with_fewer_models_and_none_with_one() -> None:
    whole = {f"m{place}": 0.1 for place in range(6)}
    part = {f"m{place}": 0.1 for place in range(3)}
    found = corrected_together([whole, part, {"m0": 0.1}, dict.fromkeys(whole, 0.0)])
    assert found[0] == pytest.approx(2 / 2**6)
    assert found[1] is not None and found[1] >= 2 / 2**3
    assert found[2:] == (None, 1.0)
    assert corrected_together([]) == ()
    for models in (14, 20, 40):
        [many] = corrected_together([{str(place): 1.0 for place in range(models)}])
        plain = paired_difference([0.0] * models, [1.0] * models).p_value
        assert many == pytest.approx(2 / 10_000) == plain


def test_holm_is_as_in_a_worked_example_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()
