from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moth_eval.hidden_layers import OpenNetwork
from moth_eval.neuron_inversion import FilterTrigger, PatchTrigger, invert_neurons
from moth_eval.similarity import ssim
from moth_eval.stimulation import Neuron
from tests.support.subjects import PATCH, prototype_subject


@pytest.fixture(scope="module")
def network() -> OpenNetwork:
    return OpenNetwork(prototype_subject(target=2))


def neuron(network: OpenNetwork, channel: int, target: int = 2) -> Neuron:
    (layer,) = network.stimulable()
    return Neuron(layer=layer, channel=channel, target=target, lead=1.0, peak=1.0)


def inverted(network: OpenNetwork, channels: list[int], *, steps: int = 30) -> list[Tensor]:
    examples = prototype_subject(target=2).examples
    images = examples.images[:8][None].repeat(len(channels), 1, 1, 1, 1)
    return invert_neurons(
        network,
        [neuron(network, channel) for channel in channels],
        images,
        PatchTrigger(area=9.0, learning_rate=0.1),
        seeds=channels,
        steps=steps,
        logit_weight=101.0,
    )


def test_a_patch_never_exceeds_its_area_and_finds_the_planted_place(network: OpenNetwork) -> None:
    mask, _ = PatchTrigger(area=9.0, learning_rate=0.1).rendered(inverted(network, [0, 1]))
    assert (mask.sum((1, 2, 3)) < 9.01).all()
    inside = mask[..., PATCH, PATCH].sum((1, 2, 3))
    assert (inside > 0.8 * mask.sum((1, 2, 3))).all()


def test_a_row_does_not_depend_on_those_beside_it(network: OpenNetwork) -> None:
    together = inverted(network, [0, 1, 2], steps=5)
    alone = inverted(network, [1], steps=5)
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one, atol=1e-4, rtol=1e-3)


def test_a_filter_starts_as_the_one_that_changes_nothing() -> None:
    trigger = FilterTrigger(learning_rate=0.1, least_similarity=0.5)
    images = torch.rand((2, 3, 3, 14, 14))
    start = trigger.initial((3, 14, 14), [0, 1])
    assert start[0].shape == (2, 12, 3)
    torch.testing.assert_close(trigger.stamp(start, images), images)


def test_a_filter_mixes_each_pixel_with_extremes_and_mean_around_it() -> None:
    trigger = FilterTrigger(learning_rate=0.1, least_similarity=0.5, window=3)
    images = torch.rand((1, 1, 3, 5, 5))
    for block, expected in enumerate((images[0, 0, :, 1:4, 1:4].amax((1, 2)),), start=1):
        weights = torch.zeros((1, 12, 3))
        weights[0, 3 * block : 3 * block + 3] = torch.eye(3)
        stamped = trigger.stamp([weights], images)
        torch.testing.assert_close(stamped[0, 0, :, 2, 2], expected)


def test_a_filter_pays_a_thousandfold_past_recognition() -> None:
    trigger = FilterTrigger(learning_rate=0.1, least_similarity=0.5)
    images = torch.rand((2, 2, 3, 14, 14))
    other = images.clone()
    other[1] = torch.rand((2, 3, 14, 14))
    equal, unlike = trigger.penalty(other, images).tolist()
    assert equal == pytest.approx(-1000.0, rel=1e-4)
    alike = float(ssim(other[1], images[1]).mean())
    assert alike < 0.5
    assert unlike == pytest.approx(-1e6 * alike, rel=1e-4)


def test_similarity_is_one_of_equal_images_and_falls_with_noise() -> None:
    images = torch.rand((3, 3, 20, 16))
    torch.testing.assert_close(ssim(images, images), torch.ones(3))
    noisy = (images + 0.1 * torch.randn(images.shape)).clamp(0, 1)
    assert (ssim(noisy, images) < 0.99).all()
    assert (ssim(1 - images, images) < 0).all()
