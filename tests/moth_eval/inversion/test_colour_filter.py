from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moth_eval.inversion.colour_filter import ColourFilter

PALETTE = torch.rand((50, 3), generator=torch.Generator().manual_seed(0))
FILTERS = ColourFilter(palette=PALETTE)


def numbers(offset: float = 0.0, power: float = 1.0, mix: Tensor | None = None) -> Tensor:
    columns = torch.tensor([[offset, power]]).repeat(3, 1)
    columns[:, 1].log_()
    return torch.cat([torch.eye(3) if mix is None else mix, columns], dim=1)[None]


def test_the_filter_that_changes_nothing_leaves_images_and_has_no_size() -> None:
    images = torch.rand((1, 4, 3, 5, 5)).clamp_min(0.01)
    torch.testing.assert_close(FILTERS.stamp((numbers(),), images), images)
    assert float(FILTERS.size((numbers(),))[0]) < 1e-4


def test_colours_go_through_power_mix_and_offset_in_this_order() -> None:
    swap = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    images = torch.rand((1, 2, 3, 4, 4)).clamp_min(0.01)
    found = FILTERS.stamp((numbers(0.1, 2.0, swap),), images)
    expected = (images**2)[:, :, [1, 0, 2]] + 0.1
    torch.testing.assert_close(found, expected.clamp(0, 1))


def test_the_size_is_how_far_the_palette_moves() -> None:
    assert float(FILTERS.size((numbers(0.3),))[0]) == pytest.approx(0.3, rel=1e-4)
    moved = (PALETTE**2 - PALETTE).square().mean().sqrt()
    assert float(FILTERS.size((numbers(0.0, 2.0),))[0]) == pytest.approx(float(moved), rel=1e-3)


def test_a_share_of_a_filter_is_smaller_and_none_of_it_is_nothing() -> None:
    parameters = (torch.cat([numbers(0.3), numbers(0.1, 0.5)]),)
    half = FILTERS.scaled(parameters, 0.5)
    assert (FILTERS.size(half) < FILTERS.size(parameters)).all()
    torch.testing.assert_close(FILTERS.scaled(parameters, 0.0)[0][0], numbers()[0])


def test_a_clipped_colour_can_come_back() -> None:
    parameter = numbers(2.0).requires_grad_()
    FILTERS.stamp((parameter,), torch.rand((1, 2, 3, 4, 4))).sum().backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    assert (parameter.grad[0, :, 3] > 0).all()


def test_what_is_rendered_can_be_resumed_and_applied() -> None:
    generator = torch.Generator().manual_seed(3)
    parameters = tuple(p[None] for p in FILTERS.initial((3, 4, 4), generator))
    mask, pattern = FILTERS.render(parameters)
    assert pattern.shape == (1, 3, 50, 1)
    torch.testing.assert_close(FILTERS.resumed(mask[0], pattern[0])[0], parameters[0][0])
    images = torch.rand((6, 3, 4, 4))
    torch.testing.assert_close(
        FILTERS.applied(mask[0], images), FILTERS.stamp(parameters, images[None])[0]
    )
