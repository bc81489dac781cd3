from __future__ import annotations

import pytest
import torch

from moth_eval.bounded_masks import BoundedMasks, within


def test_masks_start_even_and_use_the_whole_bound() -> None:
    values = BoundedMasks((2, 1, 6, 6), 9.0, torch.device("cpu")).values()
    torch.testing.assert_close(values, torch.full((2, 1, 6, 6), 0.25))


def test_what_helps_most_takes_the_place_of_the_rest() -> None:
    masks = BoundedMasks((2, 30), 3.0, torch.device("cpu"))
    use = torch.full((2, 30), 0.1)
    use[0, :3] = 1.0
    use[1, 10:13] = 1.0
    for _ in range(60):
        (slope,) = torch.autograd.grad(-(use * masks.values()).sum(), masks.logits)
        masks.step(slope, 0.1)
        assert (masks.values().sum(1) <= 3.001).all()
    # Every element helps, so that Adam alone would switch all of them on alike.
    values = masks.values().detach()
    assert float(values[0, :3].sum()) > 2.5
    assert float(values[1, 10:13].sum()) > 2.5


@pytest.mark.parametrize("most", [0.5, 4.0])
def test_logits_are_shifted_only_where_the_sum_is_too_large(most: float) -> None:
    logits = torch.stack([torch.full((8,), -6.0), torch.linspace(-1, 4, 8)])
    shifted = within(logits, most)
    assert torch.equal(shifted[0], logits[0])
    assert float(shifted[1].sigmoid().sum()) == pytest.approx(most, rel=1e-2)
    torch.testing.assert_close(shifted[1] - shifted[1, :1], logits[1] - logits[1, :1])
