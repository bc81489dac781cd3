from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.objective import Objective
from moth_eval.inversion.presets import SHORT
from moth_eval.inversion.problems import Inversion, Problem, pair_problems, universal_problems
from moth_eval.inversion.signed_pixels import SignedPixels
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network
from moth_eval.subject import Examples, Subject
from tests.support.subjects import PATCH, prototype_subject

SCHEDULE = replace(SHORT, steps=200)
SIGNED = SignedPixels()


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prototype_subject(target=2)


@pytest.fixture(scope="module")
def found(subject: Subject) -> list[Inversion]:
    network = FrozenNetwork(subject)
    images = subject.examples.images
    return invert(network, images, problems(subject), SCHEDULE, objective=SIGNED)


def problems(subject: Subject) -> list[Problem]:
    return universal_problems(subject.examples.labels, range(5), [10, 11, 12, 13, 14])


def measured(subject: Subject, result: Inversion) -> float:
    chosen = subject.examples.images[result.problem.images]
    stamped = SIGNED.applied(result.mask, result.pattern, chosen)
    return (subject.logits(stamped).argmax(1) == result.problem.target).float().mean().item()


def test_the_planted_trigger_is_found_where_it_is_and_has_the_fewest_pixels(
    found: list[Inversion],
) -> None:
    assert all(result.valid for result in found)
    assert min(found, key=lambda r: r.size).problem.target == 2
    assert found[2].size < 0.5 * min(r.size for r in found if r.problem.target != 2)
    assert found[2].mask[0, PATCH, PATCH].sum() > 0.8 * found[2].mask.sum()


def test_the_planted_white_patch_is_added_and_not_taken(found: list[Inversion]) -> None:
    change = 2 * found[2].pattern[:, PATCH, PATCH] - 1
    assert change.sum() > 0
    assert change.min() > -0.05


def test_the_reported_success_rate_is_that_of_the_rendered_trigger(
    subject: Subject, found: list[Inversion]
) -> None:
    for result in found:
        assert result.asr == pytest.approx(measured(subject, result), abs=1e-6)
        assert result.asr >= SCHEDULE.success_rate


def test_the_size_is_the_number_of_pixels_that_the_pattern_changes(found: list[Inversion]) -> None:
    for result in found:
        changed = (result.pattern != 0.5).any(0)
        assert result.size == changed.sum().item()
        assert torch.equal(result.mask[0], changed.float())


def test_no_change_is_fainter_than_the_smallest_one(found: list[Inversion]) -> None:
    for result in found:
        change = (2 * result.pattern - 1).abs()
        assert (change[change > 0] > SIGNED.smallest_change - 1e-6).all()


def test_a_row_of_a_batch_equals_the_same_problem_alone(subject: Subject) -> None:
    # Longer runs part: a threshold turns a difference of rounding into one of a pixel.
    schedule = replace(SCHEDULE, steps=60)
    images = subject.examples.images
    together = invert(FrozenNetwork(subject), images, problems(subject), schedule, objective=SIGNED)
    for index, problem in enumerate(problems(subject)):
        [alone] = invert(FrozenNetwork(subject), images, [problem], schedule, objective=SIGNED)
        torch.testing.assert_close(alone.pattern, together[index].pattern, atol=1e-3, rtol=1e-3)
        assert (alone.valid, alone.size) == (together[index].valid, together[index].size)


def test_pruning_takes_whole_faint_pixels_and_leaves_the_rest() -> None:
    plus = torch.tensor([[0.02, 0.5, 0.0], [0.01, 0.01, 0.0]]).view(1, 2, 1, 3)
    minus = torch.tensor([[0.0, 0.0, -3.0], [0.0, 0.0, 0.6]]).view(1, 2, 1, 3)
    pruned = SIGNED.prune((plus, minus), torch.tensor([0.1]))
    mask, pattern = SIGNED.render(pruned)
    assert mask.flatten().tolist() == [0, 1, 1]
    expected = torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.01, -0.6]]).view(1, 2, 1, 3)
    torch.testing.assert_close(2 * pattern - 1, expected)
    assert SIGNED.size(pruned).item() == 2


def test_pruned_averages_have_fewer_pixels(subject: Subject, found: list[Inversion]) -> None:
    plain = replace(SCHEDULE, average=0.0, prune=False)
    unpruned = invert(
        FrozenNetwork(subject), subject.examples.images, problems(subject), plain, objective=SIGNED
    )
    assert sum(r.size for r in found) < sum(r.size for r in unpruned)


def test_changes_of_opposite_sign_cancel_and_count_as_none() -> None:
    half = torch.full((1, 3, 2, 2), 0.5)
    images = torch.rand(1, 4, 3, 2, 2)
    assert SIGNED.size((half, half)).item() == 0
    assert torch.equal(SIGNED.stamp((half, half), images), images)


def test_a_change_too_faint_for_an_8_bit_image_counts_as_none_but_may_grow() -> None:
    faint = torch.full((1, 3, 1, 1), 0.9 / 255).requires_grad_()
    visible = torch.full((1, 3, 1, 1), 1.1 / 255).requires_grad_()
    nothing, images = torch.zeros(1, 3, 1, 1), torch.full((1, 1, 3, 1, 1), 0.5)
    assert SIGNED.size((faint, nothing)).item() == 0
    assert torch.equal(SIGNED.stamp((faint, nothing), images), images)
    assert SIGNED.size((visible, nothing)).item() == 1
    [gradient] = torch.autograd.grad(SIGNED.stamp((faint, nothing), images).sum(), (faint,))
    assert (gradient == 1).all()


def test_stamped_images_stay_in_their_range() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = tuple(3 * torch.randn((2, 3, 4, 4), generator=generator) for _ in range(2))
    stamped = SIGNED.stamp(raw, torch.rand((2, 5, 3, 4, 4), generator=generator))
    assert stamped.min() == 0
    assert stamped.max() == 1


def test_the_size_counts_exactly_and_still_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    raw = tuple(torch.randn((1, 3, 32, 32), generator=generator).requires_grad_() for _ in "+-")
    size = SIGNED.size(raw)
    assert size.item() == SIGNED.render(raw)[0].sum().item()
    gradients = torch.autograd.grad(size.sum(), raw)
    assert all((g >= 0).all() and (g.amax(1) > 0).all() for g in gradients)


def test_a_resumed_trigger_is_the_same_one_and_every_pixel_can_move(
    found: list[Inversion],
) -> None:
    mask, pattern = found[0].mask, found[0].pattern
    leaves = tuple(p[None].requires_grad_() for p in SIGNED.resumed(mask, pattern))
    again = SIGNED.render(leaves)
    torch.testing.assert_close(again[0][0], mask)
    torch.testing.assert_close(again[1][0], pattern)
    weight = torch.rand(1, 1, *pattern.shape)
    grey = torch.full((1, 1, *pattern.shape), 0.5)
    [up, down] = torch.autograd.grad((SIGNED.stamp(leaves, grey) * weight).sum(), leaves)
    inside = (pattern - 0.5).abs()[None] < 0.25
    assert (up[inside] > 0).all()
    assert (down[inside] < 0).all()


def test_a_pixel_that_is_switched_off_keeps_a_share_of_the_gradient() -> None:
    raw = tuple(torch.tensor([0.5, -2.0, 3.0]).view(1, 3, 1, 1).requires_grad_() for _ in "+-")
    grey = torch.full((1, 1, 3, 1, 1), 0.5)
    up, down = torch.autograd.grad(SIGNED.stamp(raw, grey).sum(), raw)
    assert up.flatten().tolist() == pytest.approx([1, SIGNED.leak, SIGNED.leak])
    assert down.flatten().tolist() == pytest.approx([-1, -SIGNED.leak, -SIGNED.leak])


def test_going_on_from_a_trigger_never_ends_at_a_larger_one(
    subject: Subject, found: list[Inversion]
) -> None:
    [fresh] = [problem for problem in problems(subject) if problem.target == 3]
    start = replace(fresh, start=(found[3].mask, found[3].pattern), initial_cost=found[3].cost)
    [again] = invert(
        FrozenNetwork(subject), subject.examples.images, [start], SCHEDULE, objective=SIGNED
    )
    assert again.valid
    assert again.size <= 1.1 * found[3].size


@pytest.mark.slow
def test_on_a_real_network_fewer_pixels_change_than_by_mask_and_pattern(shared: Path) -> None:
    source = ArchitectureSource.parse("moth_eval.networks:moth_resnet20")
    file = shared / "moth-resnet20" / "resnet20_natural.safetensors"
    with np.load(shared / "cifar10" / "test.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(arrays["labels"])
    subject = Subject(
        name="resnet20",
        module=load_network(file, architecture=source).module,
        num_classes=10,
        image_shape=(3, 32, 32),
        examples=Examples(images=images, labels=labels),
    )

    def changed(objective: Objective | None) -> float:
        problems = pair_problems(labels, [(6, 2), (1, 4)], [1, 2])
        found = invert(FrozenNetwork(subject), images, problems, SHORT, objective=objective)
        assert all(result.valid for result in found)
        total = 0.0
        for result in found:
            clean = images[result.problem.images]
            if objective is None:
                stamped = torch.lerp(clean, result.pattern, result.mask)
            else:
                stamped = SIGNED.applied(result.mask, result.pattern, clean)
            by_pixel = (stamped - clean).abs().amax(1) >= SIGNED.smallest_change
            total += by_pixel.sum((1, 2)).float().mean().item()
        return total

    assert changed(SIGNED) < 0.9 * changed(None)
