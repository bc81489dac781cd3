from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.inversion.subspace import SubspaceNetwork, class_directions
from moth_eval.scan import Scan, Status
from moth_eval.subject import Examples, Subject
from scanners.class_subspace import ClassSubspace
from tests.support.inversions import inversion
from tests.support.subjects import prototype_subject


def scan(subject: Subject, **fields: object) -> Scan:
    generator = torch.Generator().manual_seed(0)
    return ClassSubspace(**fields).scan(subject, generator=generator)  # type: ignore[arg-type]


def test_a_planted_backdoor_scores_above_its_clean_twin_and_its_target_is_named() -> None:
    clean, planted = (scan(prototype_subject(classes=5, target=t)) for t in (None, 3))
    assert planted.target == 3
    assert planted.score is not None
    assert clean.score is not None
    assert planted.score > clean.score


def test_the_price_turns_triggers_away_from_the_classes_own_directions() -> None:
    subject = prototype_subject(classes=4)
    free, priced = (scan(subject, weight=w) for w in (0.0, 30.0))
    leans = [{e.target: e.value for e in found.evidence} for found in (free, priced)]
    assert sum(leans[1].values()) < sum(leans[0].values())
    sizes = [sum(t.size for t in found.triggers if t.valid) for found in (free, priced)]
    missing = [sum(not t.valid for t in found.triggers) for found in (free, priced)]
    assert (missing[1], sizes[1]) > (missing[0], sizes[0])


def test_directions_lead_from_all_other_classes_to_the_own() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    origins, directions = class_directions(features, torch.tensor([0, 0, 1]), 3)
    assert origins.tolist() == [[0.0, 2.0], [2.0, 0.0], [0.0, 0.0]]
    assert directions[0].tolist() == pytest.approx([2**-0.5, -(2**-0.5)])
    assert directions[2].tolist() == [0.0, 0.0]


def test_the_gradient_is_that_of_the_stated_loss() -> None:
    subject = prototype_subject(classes=4)
    layer = OpenNetwork(subject).last_weighted()
    assert layer == "fc"
    network = SubspaceNetwork(subject, layer, weight=5.0)
    images, targets = subject.examples.images[:2], torch.tensor([2, 3])
    gradient, _ = network.input_gradient(images, targets)

    def loss(at: torch.Tensor) -> float:
        opened = OpenNetwork(subject)
        cross = torch.nn.functional.cross_entropy(opened.logits(at), targets, reduction="sum")
        leans = [max(0.0, network.lean(at[i : i + 1], int(t))) ** 2 for i, t in enumerate(targets)]
        return float(cross) + 5.0 * sum(leans)

    step = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    slope = (loss(images + step) - loss(images - step)) / 2
    assert slope == pytest.approx(float((gradient * step).sum()), rel=0.05, abs=1e-4)


def test_classes_without_a_trigger_are_what_the_method_expects_of_clean_ones() -> None:
    made = [inversion(n, 9.0, valid=n == 2) for n in range(5)]
    found = ClassSubspace().judge(made, [0.0] * 5, (3, 8, 8))
    assert (found.status, found.target) == (Status.SCORED, 2)
    assert found.reason == (
        "4 of 5 triggers missed a success rate of 0.99 and count as the whole image"
    )
    nothing = [inversion(n, 9.0, valid=False) for n in range(5)]
    assert ClassSubspace().judge(nothing, [0.0] * 5, (3, 8, 8)).status is Status.INCONCLUSIVE


def test_a_class_without_images_is_not_compared() -> None:
    """It has no direction and pays no price: its trigger would be far smaller than all others."""
    whole = prototype_subject(classes=8)
    examples = whole.examples
    kept = examples.labels != 2
    some = Examples(images=examples.images[kept], labels=examples.labels[kept])
    found = scan(replace(whole, examples=some))
    assert found.reason.startswith("1 of 8 classes have no images")
    assert {t.target for t in found.triggers} == {0, 1, 3, 4, 5, 6, 7}
    assert {e.target for e in found.evidence} == {t.target for t in found.triggers}
    assert found.target in {t.target for t in found.triggers}


def test_more_classes_than_images_at_most_leave_none_out() -> None:
    found = scan(prototype_subject(), max_images=2)
    assert len(found.triggers) == prototype_subject().num_classes
    assert "no images" not in found.reason


def test_too_few_classes_with_images_leave_nothing_to_compare() -> None:
    whole = prototype_subject(classes=5)
    kept = whole.examples.labels < 2
    some = Examples(images=whole.examples.images[kept], labels=whole.examples.labels[kept])
    found = scan(replace(whole, examples=some))
    assert (found.status, found.triggers) == (Status.INCONCLUSIVE, ())
    assert "at least 3 classes to compare, got 2" in found.reason
    one = Examples(images=some.images[:3], labels=some.labels[:3])
    alone = scan(replace(whole, examples=one), statistic="size")
    assert alone.reason == "expected images of at least two classes, got 1"


@pytest.mark.parametrize(("size", "above"), [(700.0, False), (12.0, True)])
def test_where_most_triggers_fail_only_a_small_one_is_above_the_cut(
    size: float, above: bool
) -> None:
    """Failures leave no spread: by a share of the median any trigger that works would be."""
    made = [inversion(n, size + 20 * n, valid=n < 4) for n in range(10)]
    found = ClassSubspace().judge(made, [0.0] * 10, (3, 32, 32))
    assert found.score is not None
    assert found.rule is not None
    assert (found.score > found.rule.threshold) == above


def test_one_failure_more_does_not_move_the_scale() -> None:
    sizes = [700.0, 720.0, 740.0, 760.0, 780.0, 800.0, 850.0, 900.0, 950.0, 1000.0]
    scores = []
    for failing in (4, 5, 6):
        made = [inversion(n, s, valid=n < 10 - failing) for n, s in enumerate(sizes)]
        score = ClassSubspace().judge(made, [0.0] * 10, (3, 32, 32)).score
        assert score is not None
        scores.append(score)
    assert max(scores) < 2


def test_the_rate_of_its_cut_is_known_where_most_classes_have_a_trigger() -> None:
    for valid, rate in ((3, 0.05), (2, None)):
        made = [inversion(n, 9.0 + n, valid=n < valid) for n in range(5)]
        rule = ClassSubspace().judge(made, [0.0] * 5, (3, 8, 8)).rule
        assert rule is not None
        assert (rule.origin, rule.false_alarm_rate) == ("ours", rate)
    assert ClassSubspace(statistic="size").judge(made, [0.0] * 5, (3, 8, 8)).rule is None


def test_two_classes_are_too_few() -> None:
    found = scan(prototype_subject(classes=2))
    assert found.status is Status.INCONCLUSIVE
    assert "at least 3 classes to compare, got 2" in found.reason


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": -1.0}, "weight must be finite"),
        ({"max_images": 0}, "max_images at least 1"),
        ({"statistic": "mean"}, "statistic must be one of log-index, size"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        ClassSubspace(**fields)  # type: ignore[arg-type]
