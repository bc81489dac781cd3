from __future__ import annotations

import pytest
import torch

from moth_eval import pictures as module
from moth_eval.errors import InputError
from moth_eval.pictures import Pictures, check_room, to_bytes


def pictures(images: torch.Tensor) -> Pictures:
    return Pictures(images=images, labels=torch.arange(len(images)))


def test_bytes_become_floats_in_memory_of_their_own() -> None:
    given = pictures(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1))
    examples = given.take(torch.tensor([2, 1])).examples()
    assert examples.images.flatten().tolist() == pytest.approx([1.0, 0.2])
    assert examples.labels.tolist() == [2, 1]
    assert given.images.flatten().tolist() == [0, 51, 255]


def test_examples_lie_row_by_row_however_their_bytes_do() -> None:
    last = torch.zeros((2, 4, 4, 3), dtype=torch.uint8)
    assert pictures(last.permute(0, 3, 1, 2)).examples().images.is_contiguous()


def test_every_byte_comes_back_from_its_float() -> None:
    every = torch.arange(256).to(torch.uint8).view(-1, 1, 1, 1)
    assert torch.equal(to_bytes(pictures(every).examples().images), every)
    assert to_bytes(every) is every


def test_only_pictures_of_equal_channels_are_grey() -> None:
    grey = torch.randint(0, 256, (1200, 1, 2, 2), dtype=torch.uint8).expand(-1, 3, -1, -1)
    found = pictures(grey).grey()
    assert found is not None
    assert found.image_shape == (1, 2, 2)
    spoilt = grey.clone()
    spoilt[1100, 2, 1, 1] += 1
    assert pictures(spoilt).grey() is None


def test_more_floats_than_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pictures(torch.zeros((4, 3, 8, 8), dtype=torch.uint8))
    monkeypatch.setattr(module, "available_bytes", lambda: 2 * given.images.numel() * 4)
    check_room(given)
    monkeypatch.setattr(module, "available_bytes", lambda: 2 * given.images.numel() * 4 - 1)
    with pytest.raises(InputError, match=r"4 images of shape \(3, 8, 8\) are .*\(--first, --share"):
        check_room(given)
