from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moth_eval.errors import InputError
from moth_eval.metrics import defense_effectiveness, stamped_rates

CLASSES = st.integers(0, 4)
ANSWERS = st.lists(st.tuples(CLASSES, CLASSES), min_size=1, max_size=40)
RATE = st.floats(0, 1)


@given(ANSWERS, CLASSES)
def test_success_rate_and_robust_accuracy_never_exceed_1_together(
    answers: list[tuple[int, int]], target: int
) -> None:
    found, labels = (np.array(column) for column in zip(*answers, strict=True))
    if (labels == target).all():
        return
    rates = stamped_rates(found, labels, np.full_like(labels, target))
    assert 0 <= rates.asr <= rates.asr + rates.ra <= 1
    assert rates.counted == (labels != target).sum()


def test_images_of_the_target_class_are_not_counted() -> None:
    labels = np.repeat(np.arange(10), 10)
    rates = stamped_rates(labels, labels, np.zeros_like(labels))  # a perfect classifier
    assert (rates.asr, rates.ra, rates.counted) == (0, 1, 90)


def test_a_model_that_takes_stamped_images_for_a_third_class_shows_in_the_robust_accuracy() -> None:
    labels, target = np.array([0, 1, 2]), np.array([3, 3, 3])
    rates = stamped_rates([4, 4, 4], labels, target)
    assert (rates.asr, rates.ra) == (0, 0)


def test_every_class_counts_where_each_is_moved_to_the_next() -> None:
    labels = np.array([0, 1, 2])
    rates = stamped_rates([1, 2, 2], labels, (labels + 1) % 3)
    assert (rates.asr, rates.ra, rates.counted) == (pytest.approx(2 / 3), pytest.approx(1 / 3), 3)


@pytest.mark.parametrize(
    ("found", "labels", "wanted", "message"),
    [
        ([1], [0, 1], [1, 1], "a true and a wanted class for every"),
        ([1, 1], [1, 1], [1, 1], "expected images of classes that it moves"),
    ],
)
def test_answers_that_show_nothing_are_refused(
    found: list[int], labels: list[int], wanted: list[int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stamped_rates(found, labels, wanted)


@given(RATE, RATE)
def test_a_defence_that_changes_nothing_is_worth_one_half(accuracy: float, asr: float) -> None:
    assert (
        defense_effectiveness(
            accuracy_before=accuracy, accuracy_after=accuracy, asr_before=asr, asr_after=asr
        )
        == 0.5
    )


@given(RATE, RATE, RATE, RATE)
def test_effectiveness_lies_in_0_to_1(a: float, b: float, c: float, d: float) -> None:
    value = defense_effectiveness(accuracy_before=a, accuracy_after=b, asr_before=c, asr_after=d)
    assert 0 <= value <= 1


@pytest.mark.parametrize(
    ("after", "expected"),
    [((0.9177, 0.0084), 0.9645), ((0.8882, 0.0196), 0.9442), ((0.5722, 0.0090), 0.7914)],
)
def test_effectiveness_agrees_with_published_rows(
    after: tuple[float, float], expected: float
) -> None:
    # BadNets row of the FT-SAM paper's Table 1: 91.82 and 93.79 % before.
    value = defense_effectiveness(
        accuracy_before=0.9182, accuracy_after=after[0], asr_before=0.9379, asr_after=after[1]
    )
    assert value == pytest.approx(expected, abs=1e-4)
