from __future__ import annotations

import numpy as np
import pytest

from moth_eval.metrics import cross_entropy
from moth_eval.platt import fit_logistic
from reports import calibration
from reports.calibration import Example, calibrate, fit
from tests.support.runs import sha


def examples(clean: list[float], poisoned: list[float]) -> list[Example]:
    rows = [(s, 0) for s in clean] + [(s, 1) for s in poisoned]
    return [
        Example(name=f"m{i}", sha256=sha(f"m{i}"), score=s, label=label)
        for i, (s, label) in enumerate(rows)
    ]


def test_no_probability_comes_from_a_fit_that_saw_its_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = examples([1, 2, 3, 4, 2.5], [3, 4, 5, 6, 7, 8])
    seen: dict[str, set[str]] = {}

    class Spy:
        def __init__(self, known: list[Example]) -> None:
            self.known = {e.sha256 for e in known}

        def probability(self, score: float) -> float:
            (name,) = [e.name for e in given if e.score == score and e.name not in seen][:1]
            seen[name] = self.known
            return 0.5

    monkeypatch.setattr(calibration, "fit", Spy)
    assert set(calibrate(given).by_name) == {e.name for e in given}
    assert len(seen) == len(given)
    for one in given:
        twins = [e for e in given if e.score == one.score]
        assert all(e.sha256 not in seen[e.name] for e in twins)


def test_noise_is_not_rewarded() -> None:
    generator = np.random.default_rng(3)
    losses = []
    for _ in range(8):
        given = examples(list(generator.normal(size=6)), list(generator.normal(size=6)))
        answers = calibrate(given).by_name
        losses.append(
            cross_entropy([answers[e.name] for e in given], [e.label or 0 for e in given])
        )
    assert np.mean(losses) > np.log(2)


def test_copies_of_a_file_are_never_on_both_sides() -> None:
    given = examples([1.0, 2.0, 3.0, 4.0], [3.0, 4.5, 5.0, 6.0])
    copy = Example(name="copy", sha256=given[0].sha256, score=1.0, label=0)
    answers = calibrate([*given, copy]).by_name
    assert answers["copy"] == answers["m0"]


def test_a_better_score_is_never_less_probable() -> None:
    upside_down = fit(examples([5.0, 6.0, 7.0], [1.0, 2.0, 3.0]))
    assert upside_down.slope == 0.0
    assert upside_down.probability(1.0) == pytest.approx(0.5)


def test_separable_scores_give_finite_confidence() -> None:
    curve = fit(examples([0.0, 1.0, 2.0], [10.0, 11.0, 12.0]))
    # Platt's targets for three models of a class: 4/5 and 1/5.
    assert curve.probability(11.0) == pytest.approx(0.8, abs=0.02)
    assert curve.probability(1.0) == pytest.approx(0.2, abs=0.02)


def test_equal_scores_give_the_softened_share_of_poisoned_models() -> None:
    curve = fit(examples([2.0, 2.0], [2.0, 2.0]))
    assert curve.probability(2.0) == pytest.approx(0.5)


@pytest.mark.parametrize("value", [0.1, 0.3, -1e6 + 0.1])
def test_scores_that_are_equal_but_for_rounding_are_equal(value: float) -> None:
    labels = [0, 1, 0, 1, 0, 1]
    curve = fit_logistic([value] * 6, labels)
    assert curve.probability(value) == pytest.approx(0.5, abs=0.01)
    assert curve.probability(value + 1e-3) == pytest.approx(0.5, abs=0.01)


def test_equal_scores_say_nothing_of_others() -> None:
    curve = fit_logistic([0.0] * 8, [0, 1] * 4)
    assert curve.slope == 0.0
    assert curve.probability(50.0) == pytest.approx(0.5)
    assert fit_logistic([2.0] * 4, [1, 1, 1, 0]).probability(2.0) == pytest.approx(
        (3 * 4 / 5 + 1 / 3) / 4
    )


def test_scores_may_be_tiny() -> None:
    curve = fit_logistic([1e-10, 2e-10, 3e-10, 8e-10, 9e-10, 1e-9], [0, 0, 0, 1, 1, 1])
    assert curve.probability(1e-10) < 0.4
    assert curve.probability(1e-9) > 0.6


def test_models_of_unknown_truth_get_a_probability_too() -> None:
    unknown = Example(name="new", sha256=sha("new"), score=9.0, label=None)
    answers = calibrate([*examples([1.0, 2.0], [8.0, 9.0]), unknown]).by_name
    assert answers["new"] > 0.5


@pytest.mark.parametrize(
    ("clean", "poisoned"), [([], []), ([1.0], [2.0, 3.0]), ([1.0, 2.0], [3.0])]
)
def test_too_few_models_give_a_reason_instead(clean: list[float], poisoned: list[float]) -> None:
    answers = calibrate(examples(clean, poisoned))
    assert not answers.by_name
    assert f"there are {len(clean)} clean and {len(poisoned)} poisoned" in answers.note


def test_answers_do_not_depend_on_the_order_of_models() -> None:
    given = examples([1.0, 2.0, 3.0, 4.0], [3.0, 4.5, 5.0, 6.0])
    forwards, backwards = calibrate(given).by_name, calibrate(given[::-1]).by_name
    assert forwards == pytest.approx(backwards, abs=1e-6)
