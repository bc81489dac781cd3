from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from attacks.inject import parse_attack
from attacks.injector import Injector
from attacks.training import Recipe, fit
from moth_eval.errors import InputError
from tests.support.toy_task import toy_scenes

ONE_EPOCH = Recipe(epochs=1, batch_size=8, shift=0)


class Viewed(nn.Module):
    """Flattens by `view`, as many networks do, which fails on channels that lie last."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.layer = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(288, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(self.convolution(images).view(len(images), -1))  # type: ignore[no-any-return]


class Failing(nn.Module):
    """Raises what it is given."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.weight, self.error = nn.Parameter(torch.zeros(1)), error

    def forward(self, images: Tensor) -> Tensor:
        raise self.error


def trained(network: nn.Module, recipe: Recipe = ONE_EPOCH) -> int:
    scenes = toy_scenes(4, seed=1)
    return fit(
        network, scenes.images, scenes.labels, recipe=recipe, seed=0, good_enough=lambda _: False
    )


def test_a_network_that_views_what_a_convolution_gives_is_trained_all_the_same() -> None:
    network = Viewed()
    before = network.convolution.weight.detach().clone()
    assert trained(network) == 1
    assert not torch.equal(network.convolution.weight, before)
    assert network.convolution.weight.is_contiguous()


def test_other_networks_are_trained_with_channels_last() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    trained(network)
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[operator, union-attr]


def test_what_a_network_raises_in_training_is_an_input_error_with_its_message() -> None:
    with pytest.raises(InputError, match=r"batches of shape \(8, 3, 12, 12\): ValueError\('odd'"):
        trained(Failing(ValueError("odd")))


def test_a_batch_of_one_image_that_cannot_be_normalised_is_said() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten()
    )
    with pytest.raises(InputError, match=r"more than 1 value per channel.*; raise the batch size"):
        trained(network, Recipe(epochs=1, batch_size=1))


def test_a_lack_of_memory_is_no_mistake_of_the_network() -> None:
    with pytest.raises(MemoryError):
        trained(Failing(MemoryError()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "expected epochs and batch_size of 1 or more"),
        ({"learning_rate": math.nan}, "finite learning_rate above 0, got 5, 32 and nan"),
        ({"learning_rate": math.inf}, "finite learning_rate above 0, got 5, 32 and inf"),
        ({"crop": -1}, "no shift, crop or weight_decay below 0"),
        ({"weight_decay": math.nan}, "a finite weight_decay"),
        ({"warm_up": math.nan}, r"expected warm_up in \[0, 1\], got nan"),
        ({"half_size": 2.0}, r"expected half_size in \[0, 1\], got 2.0"),
    ],
)
def test_impossible_recipes_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field",
    [
        "least_clean_accuracy", "least_asr", "most_bystander_asr", "most_accuracy_loss",
        "most_twin_asr",
    ],
)  # fmt: skip
def test_thresholds_that_are_no_shares_are_refused_before_any_training(field: str) -> None:
    for threshold in (math.nan, -0.1, 1.1):
        with pytest.raises(InputError, match=rf"expected {field} in \[0, 1\], got"):
            Injector(**{field: threshold})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "attack", ["trojan-nn:value=nan", "input-aware:learning_rate=inf", "patch:colour=1+nan+0"]
)
def test_parameters_of_attacks_are_finite(attack: str) -> None:
    with pytest.raises(InputError, match="takes finite numbers"):
        parse_attack(attack)
