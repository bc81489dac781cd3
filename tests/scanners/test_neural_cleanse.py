from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from moth_eval.anomaly import anomaly_indices
from moth_eval.errors import ScanError
from moth_eval.inversion import presets
from moth_eval.inversion.problems import Inversion, Problem
from moth_eval.own_rules import index_rule
from moth_eval.runner import run_scan
from moth_eval.scan import Scan, Status
from scanners.neural_cleanse import PAPER, NeuralCleanse
from tests.support.subjects import prototype_subject


def inversion(target: int, size: float, *, valid: bool = True) -> Inversion:
    mask = torch.zeros((1, 20, 20))
    problem = Problem(target=target, images=torch.arange(3), seed=target)
    return Inversion(
        problem=problem, mask=mask, pattern=torch.zeros((3, 20, 20)), size=size,
        asr=1.0 if valid else 0.5, valid=valid, steps=1,
    )  # fmt: skip


def judged(*sizes: float | None, scanner: NeuralCleanse | None = None) -> Scan:
    """The scan of inversions of these sizes; None: an invalid one, and a small one at that."""
    found = [inversion(t, s or 0.1, valid=s is not None) for t, s in enumerate(sizes)]
    return (scanner or NeuralCleanse()).judge(found, (3, 20, 20))


def test_a_planted_backdoor_scores_far_above_a_clean_twin_and_names_its_target() -> None:
    scans = [
        run_scan(NeuralCleanse(), prototype_subject(target=target), name="nc", seed=0)
        for target in (None, 2)
    ]
    clean, backdoored = (scan.score for scan in scans)
    assert clean is not None
    assert backdoored is not None
    assert backdoored > 3 * clean
    assert scans[1].target == 2
    assert scans[1].smallest is not None
    assert scans[1].smallest.size < 9


def test_the_score_is_the_anomaly_index_of_the_smallest_trigger() -> None:
    scan = judged(40, 11, 52, 47, 60)
    assert scan.target == 1
    assert scan.score == pytest.approx(anomaly_indices(np.array([40.0, 11, 52, 47, 60])).max())


def test_logarithms_keep_one_large_size_from_hiding_a_small_one() -> None:
    found = [inversion(t, size) for t, size in enumerate((173.0, 102.0, 19.0, 38.0, 115.0))]
    plain, logarithmic = (
        NeuralCleanse(statistic=statistic).judge(found, (3, 20, 20)).score
        for statistic in ("index", "log-index")
    )
    assert plain is not None
    assert logarithmic is not None
    assert plain < 1 < 2 < logarithmic


def test_the_size_statistic_compares_models_and_has_no_cut() -> None:
    scanner = NeuralCleanse(statistic="size")
    scan = judged(173.0, None, 20.0, 38.0, 115.0, scanner=scanner)
    assert scan.score == pytest.approx(math.log(400 / 20))
    assert (scan.target, scan.rule) == (2, None)
    assert "1 of 5 triggers missed" in scan.reason
    assert judged(None, None, None, scanner=scanner).status is Status.INCONCLUSIVE


def test_only_the_index_of_sizes_has_the_published_cut() -> None:
    sizes = (40.0, 11.0, 52.0, 47.0, 60.0)
    scanners = (NeuralCleanse(), NeuralCleanse(cut=3), NeuralCleanse(statistic="log-index"))
    rules = [judged(*sizes, scanner=scanner).rule for scanner in scanners]
    assert [r and (r.origin, r.threshold) for r in rules[:2]] == [("published", 2), ("given", 3)]
    assert rules[2] == index_rule(5, "logarithms of trigger sizes")


def test_two_triggers_are_too_few_for_an_index() -> None:
    """Pairs of three classes with images of one class alone."""
    scan = judged(40.0, 11.0)
    assert scan.status is Status.INCONCLUSIVE
    assert "needs at least 3 classes to compare, got 2" in scan.reason


def test_a_statistic_that_is_none_is_refused() -> None:
    with pytest.raises(ScanError, match="statistic must be one of index, log-index, size"):
        NeuralCleanse(statistic="mean")  # type: ignore[arg-type]


def test_an_invalid_trigger_is_never_the_small_one() -> None:
    scan = judged(None, 41, 52, 47, 60)
    assert scan.target == 1
    assert "1 of 5 triggers missed" in scan.reason
    assert scan.score == pytest.approx(anomaly_indices(np.array([400.0, 41, 52, 47, 60])).max())


def test_without_a_valid_trigger_there_is_no_score() -> None:
    scan = judged(None, None, None, None, None)
    assert (scan.status, scan.score) == (Status.INCONCLUSIVE, None)
    assert "5 of 5 triggers missed a success rate of 0.99" in scan.reason


def test_missing_triggers_are_no_evidence() -> None:
    scan = judged(None, None, None, 200, 210)
    assert (scan.status, scan.score) == (Status.INCONCLUSIVE, None)
    assert "3 of 5 triggers missed a success rate of 0.99: no median" in scan.reason


def test_the_published_cut_comes_with_its_false_alarm_rate_for_these_classes() -> None:
    rule = judged(40, 11, 52, 47, 60).rule
    assert rule is not None
    assert rule.threshold == 2.0
    assert rule.false_alarm_rate == pytest.approx(0.275, abs=0.015)
    assert "5 independent normal trigger sizes" in rule.source


@pytest.mark.parametrize("statistic", ["index", "log-index"])
def test_the_rate_of_false_alarms_is_not_known_where_a_trigger_fails(statistic: str) -> None:
    scanner = NeuralCleanse(statistic=statistic)  # type: ignore[arg-type]
    whole, failing = (judged(40, 11, 52, 47, last, scanner=scanner).rule for last in (60, None))
    assert whole is not None
    assert failing is not None
    assert whole.false_alarm_rate is not None
    assert failing.false_alarm_rate is None
    assert failing.threshold == whole.threshold


def test_label_specific_triggers_are_inverted_for_every_ordered_pair() -> None:
    subject = prototype_subject(classes=3, target=2, per_class=6)
    scan = run_scan(NeuralCleanse(label_specific=True), subject, name="nc", seed=0)
    pairs = {(t.source, t.target) for t in scan.triggers}
    assert pairs == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert scan.target == 2
    assert scan.source in (0, 1)


def test_images_of_the_target_class_are_not_counted_as_flipped() -> None:
    subject = prototype_subject(classes=3, per_class=6)
    scan = run_scan(NeuralCleanse(success_rate=0.01), subject, name="nc", seed=0)
    images, labels = subject.examples.images, subject.examples.labels
    for trigger in scan.triggers:
        others = images[labels != trigger.target]
        hits = subject.logits(torch.lerp(others, trigger.pattern, trigger.mask)).argmax(1)
        expected = (hits == trigger.target).float().mean().item()
        assert trigger.asr == pytest.approx(expected, abs=1e-6)


def test_the_result_does_not_depend_on_unused_images_order_of_scans_or_global_state() -> None:
    subject = prototype_subject(target=1)
    one = run_scan(NeuralCleanse(), subject, name="nc", seed=3)
    torch.manual_seed(99)
    other = run_scan(NeuralCleanse(), subject, name="nc", seed=3)
    assert one.score == other.score
    assert run_scan(NeuralCleanse(), subject, name="nc", seed=4).score != one.score


def test_two_classes_are_too_few() -> None:
    subject = prototype_subject(classes=2)
    found = NeuralCleanse().scan(subject, generator=torch.Generator())
    assert found.status is Status.INCONCLUSIVE
    assert "at least 3 classes to compare, got 2: use statistic=size" in found.reason
    by_size = replace(NeuralCleanse(), statistic="size")
    assert by_size.scan(subject, generator=torch.Generator()).status is Status.SCORED


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("preset", "slow", "preset must be one of fast, paper"),
        ("max_images", 0, "at least 1"),
        ("success_rate", 2.0, "must be in (0, 1]"),
        ("cut", float("nan"), "cut finite"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(NeuralCleanse(), **{field: value})


def test_the_published_schedule_moves_its_cost_once_per_pass() -> None:
    assert (PAPER.steps, PAPER.steps_per_move, PAPER.up, PAPER.patience) == (31_000, 31, 2.0, 5)
    assert presets.UNIVERSAL.steps_per_move == 1
    assert presets.UNIVERSAL.steps < PAPER.steps / 50


@pytest.mark.slow
def test_the_published_schedule_names_the_same_target_with_a_trigger_of_the_same_size() -> None:
    subject = prototype_subject(target=2)
    fast, paper = (
        run_scan(NeuralCleanse(preset=preset), subject, name="nc", seed=0)
        for preset in ("fast", "paper")
    )
    assert fast.target == paper.target == 2
    assert fast.smallest is not None
    assert paper.smallest is not None
    assert fast.smallest.size == pytest.approx(paper.smallest.size, rel=0.3)
    assert fast.cost.backward_passes < paper.cost.backward_passes / 5
