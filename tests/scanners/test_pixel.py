from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moth_eval.errors import ScanError
from moth_eval.inversion.signed_pixels import SignedPixels
from moth_eval.own_rules import index_rule
from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject
from scanners.pixel import PAPER, Pixel
from tests.support.inversions import inversion
from tests.support.subjects import prototype_subject


def scan(subject: Subject, **fields: object) -> Scan:
    generator = torch.Generator().manual_seed(0)
    return Pixel(**fields).scan(subject, generator=generator)  # type: ignore[arg-type]


def test_a_planted_patch_needs_the_fewest_pixels_and_its_class_is_named() -> None:
    clean, planted = (scan(prototype_subject(classes=5, target=t)) for t in (None, 3))
    assert planted.target == 3
    assert planted.score is not None
    assert clean.score is not None
    assert planted.score > clean.score


def test_what_is_counted_are_changed_pixels_that_flip_every_image_again() -> None:
    subject = prototype_subject(classes=4, target=1)
    found = scan(subject)
    best = found.smallest
    assert best is not None
    assert best.size == float((best.mask > 0).sum()) == float(best.mask.sum())
    others = subject.examples.images[subject.examples.labels != best.target]
    stamped = SignedPixels().applied(best.mask, best.pattern, others)
    flipped = subject.module(subject.preprocessing(stamped)).argmax(1) == best.target
    assert float(flipped.float().mean()) == pytest.approx(best.asr, abs=0.05)


def test_pairs_of_classes_get_a_trigger_each() -> None:
    subject = prototype_subject(classes=3, target=2)
    found = scan(subject, label_specific=True)
    assert {(t.source, t.target) for t in found.triggers} == {
        (a, b) for a in range(3) for b in range(3) if a != b
    }
    assert found.target == 2
    assert found.source in (0, 1)


def test_a_trigger_that_does_not_work_counts_as_the_whole_image_and_never_as_small() -> None:
    made = [inversion(0, 20), inversion(1, 2, valid=False), inversion(2, 22), inversion(3, 5)]
    found = Pixel().judge(made, (3, 8, 8))
    assert found.target == 3
    assert found.reason == (
        "1 of 4 triggers missed a success rate of 0.9 and count as the whole image"
    )
    assert found.rule is not None
    assert found.rule.false_alarm_rate is None
    none = [replace(one, valid=False) for one in made[:2]]
    assert Pixel().judge([*none, *made[2:]], (3, 8, 8)).status is Status.INCONCLUSIVE


def test_the_statistics_order_models_by_their_smallest_trigger() -> None:
    sizes = (20.0, 22.0, 18.0, 21.0)
    for statistic in ("log-index", "index", "size"):
        scanner = Pixel(statistic=statistic)  # type: ignore[arg-type]
        scores = [
            scanner.judge(
                [*(inversion(n, s) for n, s in enumerate(sizes)), inversion(4, last)], (3, 8, 8)
            ).score
            for last in (19.0, 6.0, 1.0)
        ]
        assert scores == sorted(scores), statistic  # type: ignore[type-var]
        assert len(set(scores)) == 3


def test_an_index_has_a_cut_of_ours_and_a_size_none() -> None:
    made = [inversion(n, size) for n, size in enumerate((20.0, 22.0, 18.0, 21.0, 4.0))]
    rules = {
        statistic: Pixel(statistic=statistic).judge(made, (3, 8, 8)).rule  # type: ignore[arg-type]
        for statistic in ("log-index", "index", "size")
    }
    assert rules == {
        "log-index": index_rule(5, "logarithms of numbers of pixels"),
        "index": index_rule(5, "numbers of pixels"),
        "size": None,
    }


def test_two_classes_can_be_compared_with_other_models_only() -> None:
    subject = prototype_subject(classes=2, target=1)
    found = scan(subject)
    assert found.status is Status.INCONCLUSIVE
    assert "at least 3 classes to compare, got 2: use statistic=size" in found.reason
    assert scan(subject, statistic="size").status is Status.SCORED


def test_the_published_schedule_moves_its_cost_once_per_pass_of_three_batches() -> None:
    passes, images = PAPER.steps / PAPER.steps_per_move, PAPER.steps_per_move * PAPER.batch_size
    assert (passes, images) == (1000, 96)
    assert PAPER.check_every * PAPER.stop_patience >= PAPER.steps
    assert PAPER.batches == [32] * PAPER.check_every


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "slow"}, "preset must be one of fast, paper"),
        ({"success_rate": 0.0}, "success_rate must be in"),
        ({"max_images": 0}, "max_images must be at least 1"),
        ({"statistic": "mean"}, "statistic must be one of"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        Pixel(**fields)  # type: ignore[arg-type]
