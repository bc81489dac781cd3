from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from moth_eval.errors import ScanError
from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.runner import run_scan
from moth_eval.scan import Cost, Scan, Status
from moth_eval.subject import Subject
from scanners.free_eagle import FreeEagle, _judged, dominant, favour, leaning_of, outlier
from tests.support.subjects import prototype_subject
from tests.support.trained import trained_subject


def scanned(subject: Subject, scanner: FreeEagle | None = None) -> Scan:
    return run_scan(scanner or FreeEagle(), subject, name="free-eagle", seed=0)


def test_a_planted_backdoor_scores_far_above_its_clean_twin_and_names_its_target() -> None:
    clean, backdoored = (scanned(prototype_subject(target=target)) for target in (None, 2))
    assert clean.score is not None
    assert backdoored.score is not None
    assert backdoored.score > 10 * clean.score
    assert backdoored.target == 2
    assert backdoored.evidence[0].target == 2


def test_it_names_the_target_of_trained_networks_more_often_than_not() -> None:
    named = [scanned(trained_subject(2, seed), FreeEagle(steps=300)).target for seed in range(4)]
    assert named.count(2) >= 3


def test_no_clean_image_is_looked_at() -> None:
    subject = prototype_subject(target=2)
    black = replace(subject.examples, images=torch.zeros_like(subject.examples.images))
    assert scanned(replace(subject, examples=black)).score == scanned(subject).score


def test_equal_quartiles_give_a_finite_score() -> None:
    # (max - Q3) / (Q3 - Q1) of the published code is infinite here, and undefined for all zeros.
    assert outlier(np.array([0.2, 0.2, 0.2, 0.2, 0.2, 0.9])) == pytest.approx(0.7 / 0.002)
    assert outlier(np.zeros(6)) == 0.0
    assert math.isfinite(outlier(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1e-9])))


def test_one_in_twenty_simulated_clean_models_is_above_its_cut() -> None:
    rule = scanned(prototype_subject(target=2), FreeEagle(steps=5)).rule
    assert rule is not None
    drawn = np.random.default_rng(7).normal(1.0, 0.1, (20_000, 5))
    assert float((outlier(drawn) > rule.threshold).mean()) == pytest.approx(0.05, abs=0.01)
    assert (rule.origin, rule.false_alarm_rate) == ("ours", 0.05)


def test_the_source_is_named_where_one_row_dominates_the_targets_column() -> None:
    leaning = np.full((8, 8), 0.1) + np.random.default_rng(0).random((8, 8)) * 0.01
    assert dominant(leaning, 2) is None
    leaning[5, 2] = 0.9
    assert dominant(leaning, 2) == 5
    leaning[1, 2] = 1.5
    assert dominant(leaning, 2) == 1
    leaning[:, 2] = 0.9  # a universal backdoor has no source
    assert dominant(leaning, 2) is None
    assert dominant(np.eye(4), 2) is None  # three sources have no quartiles


def test_a_source_specific_backdoor_has_its_source_named() -> None:
    layer = HiddenLayer(name="act", shape=(4,), depth=1)
    leaning = np.full((6, 6), 0.01) + np.random.default_rng(0).random((6, 6)) * 0.005
    leaning[4, 1] = 0.8
    scan = _judged(leaning, "probability", layer, Cost())
    assert (scan.source, scan.target) == (4, 1)


def test_classes_that_nothing_leans_to_count_for_the_quartiles() -> None:
    # The published code drops zeros: the quartiles of 0.1, 0.2 and 0.9 would be others.
    figures = np.array([0.0, 0.0, 0.0, 0.1, 0.2, 0.9])
    first, third = np.quantile(figures, [0.25, 0.75])
    assert outlier(figures) == pytest.approx((0.9 - third) / (third - first))


def test_what_a_class_says_of_itself_does_not_count() -> None:
    leaning = np.full((4, 4), 0.1)
    np.fill_diagonal(leaning, 0.7)
    assert favour(leaning) == pytest.approx(np.full(4, 0.1))


def test_logits_below_zero_say_as_little_as_zero() -> None:
    """As in the published code, where else what one class denies would make up for another."""
    logits = torch.tensor([[9.0, 2.0, -7.0], [1.0, 9.0, -1.0], [-3.0, 4.0, 9.0]])
    found = favour(leaning_of(logits, "logit"))
    assert found.tolist() == [0.5, 3.0, 0.0]


def test_the_score_is_one_sided() -> None:
    low, high = (np.array([0.50, 0.51, 0.52, 0.53, extreme]) for extreme in (0.0, 1.03))
    assert outlier(low) == pytest.approx(0.5)
    assert outlier(high) == pytest.approx(25)


def test_the_split_is_a_layer_that_all_goes_through_near_the_middle() -> None:
    network = OpenNetwork(trained_subject(None))
    noise = noise_like(network, 2, torch.Generator().manual_seed(0))
    for split, name in ((0.1, "bn1"), (0.4, "bn1"), (0.9, "act")):
        layer = FreeEagle(split=split)._split(network, noise)
        assert layer is not None
        assert layer.name == name


def test_values_behind_a_rectifier_stay_positive_and_are_classified_as_their_class() -> None:
    network = OpenNetwork(trained_subject(None))
    noise = noise_like(network, 2, torch.Generator().manual_seed(0))
    scanner = FreeEagle(split=0.9, steps=200, learning_rate=0.05)
    layer = scanner._split(network, noise)
    assert layer is not None
    values = scanner._values(network, layer, noise, 1)
    assert float(values.min()) == 0.0
    assert network.resumed(layer.name, values).argmax(1).tolist() == list(range(5))


def test_a_class_does_not_depend_on_those_beside_it() -> None:
    noise = torch.rand((2, 3, 12, 12))
    results = []
    for at_once in (1, 64):
        network = OpenNetwork(trained_subject(None), images_at_once=at_once)
        scanner = FreeEagle(steps=20)
        layer = scanner._split(network, noise)
        assert layer is not None
        results.append(scanner._values(network, layer, noise, 1))
    torch.testing.assert_close(results[0], results[1], atol=1e-3, rtol=1e-3)


def test_three_classes_have_no_quartiles() -> None:
    scan = scanned(prototype_subject(classes=3))
    assert scan.status is Status.INCONCLUSIVE
    assert scan.reason == "3 classes have no quartiles: expected 4"


def test_without_an_inner_layer_there_is_no_score() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    scan = scanned(replace(prototype_subject(), module=module))
    assert scan.status is Status.INCONCLUSIVE
    assert "no inner layer" in scan.reason


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps must be at least 1"),
        ("split", 1.0, "split in [0, 1)"),
        ("learning_rate", 0.0, "learning_rate must be positive"),
        ("statistic", "margin", "statistic must be one of probability, logit"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(FreeEagle(), **{field: value})
