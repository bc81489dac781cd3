from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from moth_eval.errors import InputError, ScanError
from moth_eval.scan import Evidence, Scan, Status, Trigger
from moth_eval.subject import Examples, Preprocessing, Subject
from tests.support.subjects import prototype_subject


def trigger(target: int, size: float, *, valid: bool = True) -> Trigger:
    return Trigger(
        target=target, mask=torch.zeros((1, 2, 2)), pattern=torch.zeros((3, 2, 2)), size=size,
        asr=1.0, valid=valid,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros((2, 3, 4, 4), dtype=torch.uint8), torch.tensor([0, 1]), "float32 tensor"),
        (torch.zeros((3, 4, 4)), torch.tensor([0]), "float32 tensor"),
        (torch.zeros((2, 3, 4, 4)), torch.tensor([0]), "int64 tensor"),
        (torch.zeros((1, 3, 4, 4)), torch.tensor([0.0]), "int64 tensor"),
    ],
)
def test_examples_of_the_wrong_kind_are_refused(
    images: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Examples(images=images, labels=labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": (3, 8, 8)}, "resize or crop the examples"),
        ({"num_classes": 3}, "labels run from 0 to 4, but the model has the classes 0 to 2"),
    ],
)
def test_a_subject_whose_examples_do_not_fit_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    good = prototype_subject()
    fields = {**vars(good), **changes}
    with pytest.raises(InputError, match=message):
        Subject(**fields)


def test_logits_do_not_depend_on_the_batch_size() -> None:
    subject = prototype_subject()
    images = subject.examples.images
    torch.testing.assert_close(subject.logits(images), subject.logits(images, batch_size=7))
    assert subject.accuracy() == 1.0


def test_minmax_stretches_every_image_to_its_own_extremes_and_survives_constant_ones() -> None:
    images = torch.stack([torch.linspace(0.2, 0.6, 12).view(3, 2, 2), torch.full((3, 2, 2), 0.5)])
    stretched = Preprocessing(scale="minmax")(images)
    torch.testing.assert_close(stretched[0], torch.linspace(0, 1, 12).view(3, 2, 2))
    assert stretched[1].abs().max() == 0


def test_channels_are_swapped_before_they_are_standardised() -> None:
    image = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1)
    network_input = Preprocessing(
        channel_order="BGR", mean=(0.9, 0.5, 0.1), std=(0.5, 1.0, 2.0)
    )(image)  # fmt: skip
    assert network_input.abs().max() < 1e-6


def test_preprocessing_lets_gradients_through() -> None:
    images = torch.rand((2, 3, 4, 4), requires_grad=True)
    Preprocessing(scale="minmax", mean=(0.5,) * 3, std=(0.2,) * 3)(images)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("preprocessing", "name"),
    [
        (Preprocessing(), "unit"),
        (Preprocessing(scale="minmax", channel_order="BGR"), "minmax-bgr"),
        (Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3), "unit-standardised"),
    ],
)
def test_preprocessing_has_a_name_for_tables(preprocessing: Preprocessing, name: str) -> None:
    assert preprocessing.name == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"status": Status.SCORED}, "only 'scored' has one"),
        ({"status": Status.FAILED, "score": 1.0, "reason": "x"}, "only 'scored' has one"),
        ({"status": Status.SCORED, "score": float("nan")}, "must be finite"),
        ({"status": Status.SCORED, "score": float("inf")}, "must be finite"),
        ({"status": Status.INCONCLUSIVE}, "needs a reason"),
    ],
)
def test_a_scan_has_a_finite_score_or_a_reason(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ScanError, match=message):
        Scan(**fields)


def test_the_smallest_trigger_is_a_valid_one_of_the_suspected_target() -> None:
    triggers = (trigger(0, 9), trigger(1, 1, valid=False), trigger(1, 5), trigger(2, 3))
    assert Scan(status=Status.SCORED, score=1, target=1, triggers=triggers).smallest == triggers[2]
    assert Scan(status=Status.SCORED, score=1, triggers=triggers).smallest == triggers[3]
    assert Scan(status=Status.SCORED, score=1).smallest is None


def test_the_smallest_trigger_is_one_of_the_suspected_pair_if_a_source_is_named() -> None:
    triggers = tuple(
        replace(trigger(2, size), source=source) for source, size in ((1, 30), (3, 8), (1, 40))
    )
    found = Scan(status=Status.SCORED, score=1, target=2, source=1, triggers=triggers)
    assert found.smallest is triggers[0]
    other = Scan(status=Status.SCORED, score=1, target=2, source=4, triggers=triggers)
    assert other.smallest is triggers[1]


def test_evidence_is_a_finite_figure_with_an_image_before_and_after() -> None:
    pictures = torch.zeros(2, 3, 4, 4)
    seen = Evidence(what="largest margin (logits)", value=2.5, target=1, pictures=pictures)
    assert (seen.value, seen.target, seen.source) == (2.5, 1, None)
    with pytest.raises(ScanError, match="evidence must be finite, got inf as 'margin'"):
        Evidence(what="margin", value=math.inf)
    with pytest.raises(ScanError, match=r"before and after, got \(3, 4, 4\)"):
        Evidence(what="filter", value=1.0, pictures=pictures[0])
