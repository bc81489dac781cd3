from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moth_eval.errors import ScanError
from moth_eval.scan import Cost, Scan, Status
from moth_eval.subject import Subject
from scanners.k_arm import Arm, KArm, _Progress, promise
from tests.support.inversions import inversion
from tests.support.subjects import prototype_subject


def scan(subject: Subject, **fields: object) -> Scan:
    generator = torch.Generator().manual_seed(0)
    return KArm(**fields).scan(subject, generator=generator)  # type: ignore[arg-type]


def guesses(second: dict[int, int], classes: int = 5, each: int = 10) -> tuple[Tensor, Tensor]:
    """Probabilities of images whose second guess is given by their class."""
    labels = torch.arange(classes).repeat_interleave(each)
    found = torch.full((len(labels), classes), 0.01)
    found[torch.arange(len(labels)), labels] = 0.9
    for source, target in second.items():
        found[labels == source, target] = 0.5
    return found, labels


def test_a_planted_backdoor_scores_above_its_clean_twin_and_its_target_is_named() -> None:
    clean, planted = (scan(prototype_subject(classes=5, target=t)) for t in (None, 3))
    assert planted.target == 3
    assert planted.score is not None
    assert clean.score is not None
    assert planted.score > clean.score


def tried(source: int | None, size: float) -> _Progress:
    one = _Progress(arm=Arm(source, 1), images=torch.arange(3))
    one.best = inversion(1, size)
    return one


@pytest.mark.parametrize(
    ("source", "size", "back", "backdoored"),
    [
        (None, 1719.0, None, True),
        (None, 1721.0, None, False),
        (0, 999.0, 9_991.0, True),
        (0, 999.0, 9_989.0, False),
        (0, 1001.0, 50_000.0, False),
        (0, 100.0, 1_001.0, True),
        (0, 999.0, None, True),
    ],
)
def test_its_cut_is_that_of_the_published_bounds_on_images_of_224_pixels(
    source: int | None, size: float, back: float | None, backdoored: bool
) -> None:
    one = tried(source, size)
    ways = {} if back is None else {one.arm: tried(1, back)}
    found = KArm()._judged([one], ways, 224.0 * 224, Cost(), left_out=0)
    assert found.score is not None
    assert found.rule is not None
    assert (found.score > found.rule.threshold) == backdoored
    assert (found.rule.origin, found.rule.false_alarm_rate) == ("published", None)


def test_an_arm_beyond_its_bounds_is_not_hidden_by_a_higher_score_within_its_own() -> None:
    universal, pair = tried(None, 1500.0), tried(0, 1200.0)
    found = KArm()._judged([universal, pair], {}, 224.0 * 224, Cost(), left_out=0)
    assert found.source is None  # the universal one, which is the one beyond its bound
    assert found.score is not None
    assert found.rule is not None
    assert found.score > found.rule.threshold


def test_on_other_images_the_bounds_are_shares_and_the_cut_is_ours() -> None:
    found = KArm()._judged([tried(None, 4.0)], {}, 144.0, Cost(), left_out=0)
    assert found.score is not None
    assert found.rule is not None
    assert found.rule.origin == "ours"
    assert found.score > found.rule.threshold == pytest.approx(math.log(224 * 224 / 1720))


def test_a_class_that_all_images_hold_second_is_an_arm_for_all_classes() -> None:
    arms = KArm(least_arms=0).screened(*guesses({0: 2, 1: 2, 3: 2, 4: 2}))
    assert arms == [Arm(None, 2)]


def test_a_class_that_one_class_holds_second_is_an_arm_for_that_class() -> None:
    # Class 2 for the images of 1 alone: for all images together it reaches no share.
    probabilities, labels = guesses({1: 2})
    probabilities[labels != 1] += (
        torch.rand((40, 5), generator=torch.Generator().manual_seed(0)) * 0.1
    )
    assert KArm(least_arms=0).screened(probabilities, labels) == [Arm(1, 2)]


def test_no_more_than_three_sources_per_target() -> None:
    probabilities, labels = guesses({0: 5, 1: 5, 2: 5, 3: 5}, classes=6)
    probabilities[labels == 4] = torch.eye(6)[4] + torch.rand(10, 6) * 1e-3
    arms = KArm(global_share=1.0, least_arms=0).screened(probabilities, labels)
    assert sum(arm.target == 5 for arm in arms) == 3


def test_the_likeliest_classes_are_arms_whatever_the_screening_says() -> None:
    # Without them the published code indexes an empty list here.
    found = torch.rand((50, 5), generator=torch.Generator().manual_seed(0)).softmax(1)
    labels = torch.arange(5).repeat_interleave(10)
    arms = KArm(least_arms=2).screened(found, labels)
    assert [arm.source for arm in arms] == [None, None]
    assert KArm(least_arms=0).screened(found, labels) == []
    beside = KArm(least_arms=2).screened(*guesses({0: 2, 1: 2, 3: 2, 4: 2}))
    assert [arm.source for arm in beside] == [None, None]
    assert beside[0].target == 2


def test_the_likeliest_classes_come_before_pairs() -> None:
    """With 43 classes there may be more pairs than visits."""
    probabilities, labels = guesses({1: 2})
    probabilities[labels != 1] += (
        torch.rand((40, 5), generator=torch.Generator().manual_seed(0)) * 0.1
    )
    arms = KArm(least_arms=2).screened(probabilities, labels)
    assert [arm.source for arm in arms] == [None, None, 1]


def test_suspicions_beyond_half_the_budget_are_said_to_be_left_out() -> None:
    found = scan(prototype_subject(classes=5), rounds=2, arms_at_once=2, least_arms=5)
    assert re.search(r"[1-9] of [1-9] suspicions are beyond half the budget", found.reason)
    assert len(found.triggers) == 2
    assert "budget" not in scan(prototype_subject(classes=5), rounds=8, arms_at_once=2).reason


def test_without_any_arm_the_score_is_the_lowest_and_says_why() -> None:
    subject = prototype_subject(classes=9)
    fields = {"least_arms": 0, "global_share": 1.0, "local_share": 1.0}
    unsure = replace(subject, module=_Random().eval())
    found = scan(unsure, **fields)
    assert (found.status, found.score, found.target) == (Status.SCORED, 0.0, None)
    assert found.reason == "the pre-screening leaves no arm"


def test_a_quarter_of_many_classes_is_looked_at_and_two_of_few() -> None:
    # The fifth guess of twenty classes counts, the sixth does not.
    labels = torch.zeros(10, dtype=torch.int64)
    ranked = torch.linspace(1, 0.05, 20).repeat(10, 1)
    arms = KArm(local_share=1.0, global_share=1.0, least_arms=0).screened(ranked, labels)
    assert {arm.target for arm in arms} == {1, 2, 3, 4}


def test_fast_shrinking_and_small_arms_promise_more() -> None:
    assert promise(0.1, 3, 4) > promise(0.4, 3, 4)
    assert promise(0.1, 3, 4) > promise(0.1, 3, 20)
    assert promise(1.0, 0, 1) == pytest.approx(0.0016)


def test_visits_go_where_triggers_shrink() -> None:
    subject = prototype_subject(classes=6, target=1)
    fields = {"global_share": 0.0, "rounds": 12, "arms_at_once": 2, "random_share": 0.0}
    found = scan(subject, **fields)
    assert {t.target for t in found.triggers} == set(range(6))
    assert found.target == 1
    # Two arms a round of 25 steps on 16 images, and what measuring costs.
    assert found.cost.backward_passes == 12 * 2 * 25 * 16


def test_a_pair_counts_only_as_far_as_the_way_back_is_harder() -> None:
    # Every pair of classes is an arm, and clean classes lie as near one way as the other.
    subject = prototype_subject(classes=4)
    fields = {"global_share": 1.0, "local_share": 0.0, "least_arms": 0, "rounds": 20}
    both, one_way = (scan(subject, **fields, symmetric=s) for s in (True, False))
    assert all(t.source is not None for t in both.triggers)
    assert both.score is not None
    assert one_way.score is not None
    assert both.score < one_way.score
    assert both.evidence
    assert one_way.evidence == ()


def test_arms_that_never_flip_anything_are_dropped() -> None:
    subject = replace(prototype_subject(classes=4), module=_Zero().eval())
    found = scan(subject, rounds=10, arms_at_once=4, patience=2)
    # Two visits of each arm; then eight of the only one that flips anything.
    assert found.cost.backward_passes == (2 * 4 + 8) * 25 * 16
    assert found.target == 0


class _Zero(torch.nn.Module):
    """Answers class 0 to everything."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([3.0, 0.0, 0.0, 0.0]) + 0 * images.mean((1, 2, 3))[:, None]


class _Random(torch.nn.Module):
    """Guesses by single pixels, so that no class is often among the first."""

    def forward(self, images: Tensor) -> Tensor:
        return (images[:, 0, 0, :9] * 1e4).sin()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounds": 0}, "counts of at least 1 and no negative least_arms, got rounds=0"),
        ({"least_arms": -1}, "got least_arms=-1"),
        ({"random_share": 2.0}, "shares and rates in"),
        ({"success_rate": 0.0}, "shares and rates in"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        KArm(**fields)  # type: ignore[arg-type]
