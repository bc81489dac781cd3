from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch

from moth_eval.errors import InputError, ScanError
from moth_eval.intervals import wilson
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.patch_curves import COLOURS, KINDS, Kind, _Search, patch_curve
from moth_eval.seeds import generator_for
from moth_eval.subject import Subject
from tests.support.subjects import SIDE, prototype_subject

PAIRS = [(0, 1), (3, 4)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prototype_subject()


def rates(subject: Subject, sizes: list[int], kind: Kind, **more: Any) -> list[float]:
    curve = patch_curve(subject, PAIRS, sizes, generator=generator_for(0), kind=kind, **more)
    assert [point.size for point in curve] == sizes
    return [point.asr for point in curve]


def test_optimised_patches_succeed_more_as_they_grow(subject: Subject) -> None:
    small, large = rates(subject, [1, 10], "optimised")
    assert small < 0.5
    assert large == 1


def test_a_crop_that_covers_the_image_is_an_example_of_the_target(subject: Subject) -> None:
    small, large = rates(subject, [1, SIDE], "crop")
    assert small < 0.5
    assert large == 1


@pytest.mark.parametrize("kind", KINDS)
def test_size_0_is_the_rate_at_which_images_as_they_are_go_to_the_target(
    subject: Subject, kind: Kind
) -> None:
    wrong = subject.examples.labels.clone()
    wrong[::3] = 1 - wrong[::3].clamp(max=1)  # a third of class 0 is called 1, and of 1 called 0
    lying = replace(subject, examples=replace(subject.examples, labels=wrong))
    [point] = patch_curve(lying, [(0, 1)], [0], generator=generator_for(0), kind=kind)
    assert 0 < point.asr < 1
    [honest] = patch_curve(subject, [(0, 1)], [0], generator=generator_for(0), kind=kind)
    assert honest.asr == 0


def test_optimised_patches_beat_solid_ones(subject: Subject) -> None:
    [solid], [optimised] = rates(subject, [8], "solid"), rates(subject, [8], "optimised")
    assert solid < 0.5 < optimised


def test_a_solid_patch_that_covers_the_image_makes_all_images_the_same(subject: Subject) -> None:
    [point] = patch_curve(subject, PAIRS, [SIDE], generator=generator_for(0), kind="solid")
    assert set(point.per_pair) <= {0.0, 1.0}


def test_a_planted_trigger_is_hit_by_a_white_patch_on_its_place() -> None:
    backdoored = prototype_subject(target=2)
    pairs = [(source, 2) for source in (0, 1, 3, 4)]
    curves = [
        patch_curve(s, pairs, [8], generator=generator_for(0), kind="solid", tries=12)
        for s in (backdoored, prototype_subject())
    ]
    assert curves[0][0].asr > curves[1][0].asr + 0.3


def test_a_point_counts_every_held_out_image_once(subject: Subject) -> None:
    [point] = patch_curve(subject, PAIRS, [6], generator=generator_for(0), kind="optimised")
    assert point.n == 2 * 6
    assert point.asr == pytest.approx(sum(point.per_pair) / 2)
    assert point.interval == wilson(round(point.asr * point.n), point.n)


def test_patches_are_measured_on_images_that_they_were_not_made_for(subject: Subject) -> None:
    search = _Search(subject, PAIRS, generator_for(0), "optimised", 1, 100)
    for source, _ in PAIRS:
        fit, held = set(search._fit[source].tolist()), set(search._held[source].tolist())
        assert len(fit) == len(held) == 6
        assert not fit & held
        assert set(subject.examples.labels[list(fit | held)].tolist()) == {source}


def test_what_works_on_the_images_of_the_choice_does_not_count(subject: Subject) -> None:
    search = _Search(subject, PAIRS[:1], generator_for(0), "solid", 1, 100)
    network = FrozenNetwork(subject)
    patches = search.patches(1, network, COLOURS)
    assert search.point(1, patches, network).asr == 0
    search._held[0] = (subject.examples.labels == 1).nonzero().flatten()
    assert search.point(1, patches, network).asr == 1


@pytest.mark.parametrize("kind", ["solid", "crop"])
def test_two_networks_meet_the_same_images_and_patches(subject: Subject, kind: Kind) -> None:
    other = replace(subject, module=prototype_subject(target=2, seed=3).module)
    searches = [_Search(s, PAIRS, generator_for(0), kind, 2, 10) for s in (subject, other)]
    first, second = (s.patches(4, FrozenNetwork(subject), COLOURS) for s in searches)
    for one, two in zip(chain(*first), chain(*second), strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
    assert all(torch.equal(searches[0]._held[k], searches[1]._held[k]) for k, _ in PAIRS)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_generators_give_equal_curves_and_leave_the_subject_alone(
    subject: Subject, kind: Kind
) -> None:
    images, state = subject.examples.images.clone(), torch.get_rng_state()
    assert rates(subject, [5], kind, tries=1) == rates(subject, [5], kind, tries=1)
    assert torch.equal(images, subject.examples.images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "round"}, "a kind out of solid, crop, optimised"),
        ({"tries": 0}, "0 tries"),
        ({"max_images": 1}, "at least two images of every source class"),
    ],
)
def test_a_curve_that_cannot_be_meant_is_refused(
    subject: Subject, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        patch_curve(subject, PAIRS, [3], generator=generator_for(0), **more)


def test_a_crop_of_a_class_without_examples_is_refused(subject: Subject) -> None:
    six = replace(subject, num_classes=6)
    with pytest.raises(InputError, match="no example of class 5 to cut a patch out of"):
        patch_curve(six, [(0, 5)], [3], generator=generator_for(0), kind="crop")


def test_a_patch_larger_than_the_image_is_refused(subject: Subject) -> None:
    with pytest.raises(ScanError, match="a side of 1 to 12 pixels"):
        patch_curve(subject, PAIRS, [13], generator=generator_for(0), kind="solid")
