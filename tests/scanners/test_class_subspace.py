from __future__ import annotations

import pytest
import torch

from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.inversion.subspace import SubspaceNetwork, class_directions
from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject
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
    layer = OpenNetwork(subject).layers()[-1]
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
