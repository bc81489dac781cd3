from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moth_eval.stacked_unet import initial, transformed


def moved(weights: list[Tensor]) -> list[Tensor]:
    """The same with last kernels that change something."""
    last = torch.randn(weights[-1].shape, generator=torch.Generator().manual_seed(9)) * 0.1
    return [*weights[:-1], last]


@pytest.mark.parametrize("size", [(12, 12), (7, 9)])
def test_it_starts_as_the_map_that_changes_nothing(size: tuple[int, int]) -> None:
    images = torch.rand((2, 3, 3, *size))
    assert torch.equal(transformed(initial(3, 4, 2, [0, 1]), images), images)


def test_rows_do_not_see_each_other() -> None:
    images = torch.rand((3, 4, 3, 12, 12))
    weights = moved(initial(3, 4, 2, [0, 1, 2]))
    together = transformed(weights, images)
    assert not torch.equal(together, images)
    for row in range(3):
        alone = transformed([w[row : row + 1] for w in weights], images[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_what_becomes_of_an_image_does_not_depend_on_the_others() -> None:
    images = torch.rand((1, 5, 3, 12, 12))
    weights = moved(initial(3, 4, 2, [0]))
    torch.testing.assert_close(
        transformed(weights, images)[:, 2:3], transformed(weights, images[:, 2:3])
    )


def test_results_are_images_and_every_kernel_has_a_say() -> None:
    images = torch.rand((1, 5, 3, 12, 12))
    weights = [w.requires_grad_() for w in moved(initial(3, 4, 2, [0]))]
    found = transformed(weights, images)
    assert 0 <= float(found.detach().min()) <= float(found.detach().max()) <= 1
    slopes = torch.autograd.grad(found.sum(), weights)
    assert all(float(slope.abs().sum()) > 0 for slope in slopes)
