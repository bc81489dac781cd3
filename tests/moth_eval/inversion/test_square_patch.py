from __future__ import annotations

import pytest
import torch

from moth_eval.errors import ScanError
from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.problems import pair_problems
from moth_eval.inversion.square_patch import SquarePatch, random_square
from moth_eval.patch_curves import COLOURS
from tests.support.subjects import prototype_subject

SHAPE = (3, 12, 12)


def test_only_the_colours_of_a_square_are_optimised() -> None:
    subject = prototype_subject()
    seeds = [1, 2]
    problems = pair_problems(subject.examples.labels, [(0, 1), (3, 4)], seeds)
    patch = SquarePatch(side=5)
    found = invert(
        FrozenNetwork(subject), subject.examples.images, problems, COLOURS, objective=patch
    )
    for seed, result in zip(seeds, found, strict=True):
        frame, colours = patch.initial(SHAPE, torch.Generator().manual_seed(seed))
        assert torch.equal(result.mask, frame)
        assert result.size == 25
        assert not torch.allclose(result.pattern, (colours.tanh() + 1) / 2, atol=0.1)
        chosen = subject.examples.images[result.problem.images]
        stamped = torch.lerp(chosen, result.pattern, result.mask)
        hits = subject.logits(stamped).argmax(1) == result.problem.target
        assert result.asr == pytest.approx(hits.float().mean().item(), abs=1e-6)


def test_nothing_outside_the_square_is_stamped() -> None:
    patch = SquarePatch(side=4)
    parameters = tuple(p[None] for p in patch.initial(SHAPE, torch.Generator().manual_seed(3)))
    images = torch.rand(1, 2, *SHAPE)
    changed = (patch.stamp(parameters, images) != images).any(2)
    assert torch.equal(changed, parameters[0].bool().expand_as(changed))


def test_a_frame_gets_a_gradient_of_zero_and_so_never_moves() -> None:
    patch = SquarePatch(side=4)
    start = patch.initial(SHAPE, torch.Generator().manual_seed(3))
    leaves = tuple(p[None].requires_grad_() for p in start)
    frame, colours = torch.autograd.grad(
        (patch.stamp(leaves, torch.rand(1, 2, *SHAPE)).sum(), patch.size(leaves).sum()), leaves
    )
    assert not frame.any()
    assert colours.any()


def test_a_resumed_patch_is_the_same_one() -> None:
    patch = SquarePatch(side=3)
    mask = random_square(3, SHAPE, torch.Generator().manual_seed(1))
    pattern = 0.1 + 0.8 * torch.rand(SHAPE)
    again = patch.render(tuple(p[None] for p in patch.resumed(mask, pattern)))
    torch.testing.assert_close(again[0][0], mask)
    torch.testing.assert_close(again[1][0], pattern)


@pytest.mark.parametrize("side", [1, 5, 12])
def test_a_random_square_has_its_area_and_lies_inside(side: int) -> None:
    for seed in range(20):
        mask = random_square(side, SHAPE, torch.Generator().manual_seed(seed))
        assert mask.sum() == side**2
        rows, columns = mask[0].any(1).sum(), mask[0].any(0).sum()
        assert (rows, columns) == (side, side)


def test_squares_of_many_seeds_reach_every_pixel() -> None:
    masks = [random_square(4, SHAPE, torch.Generator().manual_seed(s)) for s in range(300)]
    assert torch.stack(masks).sum(0).min() > 0


@pytest.mark.parametrize("side", [0, 13])
def test_a_square_that_does_not_fit_is_refused(side: int) -> None:
    with pytest.raises(ScanError, match="a side of 1 to 12 pixels"):
        random_square(side, SHAPE, torch.Generator())
