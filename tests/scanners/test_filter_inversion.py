from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moth_eval.anomaly import upward_indices
from moth_eval.errors import ScanError
from moth_eval.inversion.colour_filter import ColourFilter
from moth_eval.inversion.problems import Inversion, Problem
from moth_eval.own_rules import index_rule
from moth_eval.runner import run_scan
from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject
from scanners.filter_inversion import BANK, FilterInversion
from tests.support.subjects import prototype_subject
from tests.support.trained import trained_subject

FILTERS = ColourFilter(palette=torch.rand((9, 3)))
IMAGES = torch.rand((4, 3, 12, 12), generator=torch.Generator().manual_seed(0))


def scanned(subject: Subject, scanner: FilterInversion | None = None) -> Scan:
    return run_scan(scanner or FilterInversion(), subject, name="filters", seed=0)


def inversion(target: int, size: float, *, asr: float = 1.0) -> Inversion:
    return Inversion(
        problem=Problem(target=target, images=torch.arange(4), seed=0),
        mask=torch.cat([torch.eye(3), torch.zeros((3, 2))], 1)[None],
        pattern=torch.zeros((3, 9, 1)),
        size=size,
        asr=asr,
        valid=asr >= 0.9,
        steps=1,
    )


def judged(*inversions: Inversion) -> Scan:
    return FilterInversion().judge(inversions, FILTERS, IMAGES)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_trained_filter_backdoor_scores_above_its_clean_twin_and_names_its_target(
    seed: int,
) -> None:
    clean, backdoored = (
        scanned(subject)
        for subject in (trained_subject(None, seed), trained_subject(2, seed, "filter"))
    )
    assert clean.score is not None
    assert backdoored.score is not None
    assert backdoored.score > clean.score + 0.1
    assert backdoored.target == 2


def test_what_it_shows_of_a_filter_is_true() -> None:
    scan = scanned(trained_subject(2, 0, "filter"))
    figures = {e.what.partition(" (")[0]: e for e in scan.evidence if e.target == 2}
    assert figures["success rate of the filter"].value >= 0.9
    assert 0.3 < figures["similarity to the image before"].value < 1
    shift = figures["shift of colours"]
    assert scan.score == pytest.approx(-math.log(shift.value))
    assert shift.pictures is not None
    assert float((shift.pictures[1] - shift.pictures[0]).abs().mean()) < 2 * shift.value


def test_the_score_is_of_the_faintest_filter_that_works() -> None:
    scan = judged(inversion(0, 0.01, asr=0.5), inversion(1, 0.3), inversion(2, 0.2))
    assert (scan.score, scan.target) == (pytest.approx(math.log(5)), 2)
    assert scan.reason == "1 of 3 filters missed a success rate of 0.9"
    assert [e.target for e in scan.evidence if e.what.startswith("success")] == [2, 1, 0]


@pytest.mark.parametrize(("last", "above"), [(0.25, False), (0.001, True)])
def test_its_cut_is_an_anomaly_index_of_the_logarithms_of_sizes(last: float, above: bool) -> None:
    sizes = [0.3, 0.25, 0.4, 0.35, last]
    scan = judged(*(inversion(n, size) for n, size in enumerate(sizes)))
    index = upward_indices(-np.log(sizes)).max()
    assert scan.score is not None
    assert scan.rule is not None
    assert (scan.score > scan.rule.threshold) == above == (index > index_rule(5, "").threshold)
    assert (scan.rule.origin, scan.rule.false_alarm_rate) == ("ours", 0.05)


def test_where_few_classes_have_a_filter_the_rate_of_its_cut_is_not_known() -> None:
    few = judged(*(inversion(n, 0.3, asr=1.0 if n < 2 else 0.5) for n in range(5)))
    assert few.rule is not None
    assert few.rule.false_alarm_rate is None
    assert judged(inversion(0, 0.3), inversion(1, 0.2)).rule is None


@pytest.mark.parametrize(("size", "above"), [(0.9, False), (0.05, True)])
def test_a_gross_filter_among_many_that_fail_is_not_above_the_cut(size: float, above: bool) -> None:
    """Failures leave no spread: by a share of the largest any filter that works would be."""
    scan = judged(*(inversion(n, size, asr=1.0 if n == 3 else 0.5) for n in range(10)))
    assert (scan.target, scan.score) == (3, pytest.approx(-np.log(size)))
    assert scan.rule is not None
    assert (scan.score > scan.rule.threshold) == above


def test_where_no_filter_works_the_score_is_below_all_that_do() -> None:
    near, far = (judged(inversion(0, 0.01, asr=asr)) for asr in (0.8, 0.2))
    loud = judged(inversion(0, 5.0))
    assert near.score is not None
    assert far.score is not None
    assert loud.score is not None
    assert far.score < near.score < 0 <= loud.score
    assert (near.target, near.status) == (None, Status.SCORED)


def test_the_bank_is_off_by_default_and_called_an_oracle_everywhere() -> None:
    assert not FilterInversion().bank
    plain = scanned(trained_subject(2, 0, "filter"))
    assert not any("oracle" in e.what for e in plain.evidence)
    scan = scanned(trained_subject(2, 0, "filter"), FilterInversion(bank=True))
    assert scan.reason.startswith("oracle: ")
    assert len(scan.evidence) == len(BANK)
    assert all(e.what.startswith("oracle: ") for e in scan.evidence)
    assert (scan.score, scan.target) == (1.0, 2)
    (planted,) = (e for e in scan.evidence if " warm " in e.what)
    assert (planted.target, planted.value) == (2, 1.0)


def test_the_bank_counts_no_image_of_the_target_class() -> None:
    class Brightness(nn.Module):
        """Class 1 for bright images, else class 0."""

        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean((1, 2, 3)) - 0.5
            return torch.stack([-mean, mean], 1)

    subject = prototype_subject(classes=2, per_class=2)
    images = torch.full((4, 3, 12, 12), 0.4)
    images[2:] = 0.95
    subject = replace(
        subject,
        module=Brightness().eval(),
        examples=replace(subject.examples, images=images),
    )
    scan = scanned(subject, FilterInversion(bank=True))
    found = {e.what.split(" that ")[1].split()[0]: (e.target, e.value) for e in scan.evidence}
    assert found["bright"] == (1, 1.0)
    assert found["dark"] == (0, 0.0)
    assert found["negative"][1] == 1.0


@pytest.mark.parametrize("name", sorted(BANK))
def test_known_filters_change_images_and_keep_them_images(name: str) -> None:
    found = BANK[name](IMAGES)
    assert found.shape == IMAGES.shape
    assert torch.isfinite(found).all()
    assert float((found.clamp(0, 1) - IMAGES).abs().mean()) > 0.02


def test_the_bank_needs_three_channels() -> None:
    class First(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2]

    subject = prototype_subject(classes=2, per_class=2)
    grey = replace(
        subject,
        module=First().eval(),
        image_shape=(1, 12, 12),
        examples=replace(subject.examples, images=subject.examples.images[:, :1].contiguous()),
    )
    scan = scanned(grey, FilterInversion(bank=True))
    assert scan.status is Status.INCONCLUSIVE
    assert scan.reason == "the known filters are for 3 channels, got 1"
    assert scanned(grey, FilterInversion(steps=20)).status is Status.SCORED


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("success_rate", 0.0, "success_rate must be in (0, 1]"),
        ("steps", 0, "at least 1"),
        ("learning_rate", -1.0, "learning_rate must be positive"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(FilterInversion(), **{field: value})
