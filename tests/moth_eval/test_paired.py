from __future__ import annotations

import pytest
import torch
from scipy.stats import binom

from moth_eval.errors import InputError
from moth_eval.paired import paired_accuracy


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
