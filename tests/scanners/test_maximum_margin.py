from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import gamma
from torch import Tensor, nn

from moth_eval.errors import ScanError
from moth_eval.own_rules import index_rule
from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject
from scanners.maximum_margin import MaximumMargin, false_alarm_rate, surprise
from tests.support.subjects import prototype_subject


def scan(subject: Subject, *, seed: int = 0, **fields: object) -> Scan:
    scanner = MaximumMargin(**fields)  # type: ignore[arg-type]
    return scanner.scan(subject, generator=torch.Generator().manual_seed(seed))


def linear_subject(rows: Tensor) -> Subject:
    """A subject whose logits are linear in two pixels."""
    subject = prototype_subject(classes=len(rows))

    class Linear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, 0, 0, :2] @ rows.T

    return replace(subject, module=Linear().eval())


def test_a_planted_backdoor_scores_above_its_clean_twin_and_its_target_is_named() -> None:
    clean, planted = (
        scan(prototype_subject(classes=6, target=target), restarts=3) for target in (None, 4)
    )
    assert clean.score is not None
    assert planted.score is not None
    assert planted.score > clean.score
    assert planted.target == 4
    assert planted.evidence[0].target == 4
    assert planted.rule is not None
    assert planted.score > planted.rule.threshold


def test_every_class_is_climbed_to() -> None:
    """Public code looks at the first five classes."""
    found = scan(prototype_subject(classes=8, target=7), restarts=2)
    assert sorted(e.target for e in found.evidence if e.target is not None) == list(range(8))
    assert found.target == 7


def test_margins_that_are_all_alike_have_an_index_of_0() -> None:
    """As of a network that returns probabilities, which all saturate."""
    found = scan(linear_subject(torch.zeros(5, 2)), steps=5, restarts=1, statistic="index")
    assert (found.status, found.score) == (Status.SCORED, 0.0)


def test_the_statistic_is_the_largest_margin_that_the_unit_box_allows() -> None:
    # Class 0 wins by 3 a + b at most; class 2 by its bias alone.
    rows = torch.tensor([[3.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [0.0, -2.0]])
    found = scan(linear_subject(rows), steps=400, learning_rate=0.05)
    margins = {e.target: e.value for e in found.evidence}
    assert margins[0] == pytest.approx(4.0, abs=1e-3)
    assert margins[1] == pytest.approx(0.0, abs=1e-3)
    assert found.target == 0


def test_a_value_at_the_border_can_come_back() -> None:
    # Every start is half grey on average, so the pixel of the second channel is first driven to 0,
    # and wanted at 1 only when the first channel is nearly white.
    class Turning(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            white, pixel = images[:, 0].mean((1, 2)), images[:, 1, 0, 0]
            own = 72 * white + torch.where(white > 0.9, 4 * pixel, -4 * pixel)
            return torch.stack([own, 0 * own, 0 * own - 1, 0 * own - 2], 1)

    subject = replace(prototype_subject(classes=4), module=Turning().eval())
    found = scan(subject, steps=200, learning_rate=0.02, restarts=2)
    assert found.evidence[0].value == pytest.approx(76.0, abs=0.01)


def test_a_class_depends_on_no_class_that_never_comes_close() -> None:
    rows = torch.tensor([[3.0, 1.0], [0.0, 0.0], [-1.0, -1.0], [0.0, -2.0]])
    far = torch.tensor([[-90.0, -90.0], [-80.0, -80.0]])
    four, six = (
        {e.target: e.value for e in scan(linear_subject(r), restarts=2, steps=5).evidence}
        for r in (rows, torch.cat([rows, far]))
    )
    # After five steps, a margin still tells where its row began.
    assert four == pytest.approx({label: six[label] for label in four}, abs=1e-5)


def test_the_optimiser_remembers_its_momentum_from_step_to_step() -> None:
    rows = torch.tensor([[3.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    without, half = (
        scan(linear_subject(rows), steps=3, restarts=1, learning_rate=1e-3, momentum=m)
        for m in (0.0, 0.5)
    )
    # Two moves along a slope of squared length 10: 1 + 1 without, 1 + 1.5 with momentum.
    gain = half.evidence[0].value - without.evidence[0].value
    assert gain == pytest.approx(0.5 * 1e-3 * 10, rel=1e-2)


def test_more_restarts_find_no_smaller_margin() -> None:
    subject = prototype_subject(classes=5, target=1)
    few, many = (
        {e.target: e.value for e in scan(subject, restarts=n, steps=30).evidence} for n in (1, 4)
    )
    assert all(many[label] >= few[label] - 1e-5 for label in few)


def test_the_p_value_is_that_of_the_largest_of_all_classes_under_the_fitted_gamma() -> None:
    margins = np.array([3.0, 3.4, 2.7, 3.1, 4.0, 2.9, 3.3, 3.2])
    fitted = gamma.fit(np.delete(margins, 4))
    p = 1 - gamma.cdf(4.0, *fitted) ** 8
    assert surprise(margins) == pytest.approx(-math.log10(p), rel=1e-3)


@pytest.mark.parametrize("classes", [5, 10])
def test_neither_the_unit_of_logits_nor_their_last_digits_decide(classes: int) -> None:
    random = np.random.default_rng(3)
    for margins in random.normal(10.0, 1.0, (20, classes)):
        noise = 1 + 1e-7 * random.normal(size=classes)
        expected = surprise(margins)
        for changed in (0.1 * margins, 3 * margins - 40, margins * noise):
            assert surprise(changed) == pytest.approx(expected, abs=0.01)


def test_far_margins_give_large_finite_scores_and_equal_ones_give_none() -> None:
    assert surprise(np.array([1.0, 1.1, 0.9, 1.0, 1e6])) <= 300
    assert surprise(np.array([1.0, 1.1, 0.9, 1.0, 1e6])) > 20
    assert surprise(np.full(6, 2.0)) == 0.0
    assert surprise(np.array([2.0, 2.0, 2.0, 2.0, 9.0])) == 300.0


def test_the_published_level_is_no_rate_of_false_alarms() -> None:
    # The fit never saw the largest margin: with few classes it alarms far more often than 5 %.
    assert false_alarm_rate(5, 0.05) > 0.3
    assert false_alarm_rate(43, 0.05) < false_alarm_rate(10, 0.05) < false_alarm_rate(5, 0.05)


def test_three_classes_are_too_few() -> None:
    found = scan(prototype_subject(classes=3))
    assert found.status is Status.INCONCLUSIVE
    assert "3 classes leave nothing to fit a distribution to" in found.reason


def test_the_index_has_a_cut_of_ours() -> None:
    found = scan(prototype_subject(classes=5, target=2), restarts=2, steps=40, statistic="index")
    assert found.rule == index_rule(5, "margins", upward=True)
    assert found.target == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"restarts": 0}, "restarts and steps must be at least 1"),
        ({"momentum": 1.0}, "momentum in"),
        ({"statistic": "mean"}, "statistic must be one of p-value, index"),
        ({"cut": 0.0}, "cut must be in"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        MaximumMargin(**fields)  # type: ignore[arg-type]
