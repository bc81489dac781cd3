"""The networks that rounds are made of: torchvision's own classes, untrained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moth_eval.errors import ArchitectureError
from moth_eval.loading.architectures import build_torchvision, torchvision_name

LEARNING_RATE_FACTORS: Mapping[str, float] = {
    "googlenet": 2.0,
    "mobilenet_v2": 3.0,
    "shufflenet_v2_x0_5": 6.0,
    "shufflenet_v2_x1_0": 6.0,
    "shufflenet_v2_x1_5": 4.0,
    "shufflenet_v2_x2_0": 4.0,
}
"""Architecture -> factor on the injector's peak learning rate, where it is not 1."""


def check_architecture(name: str) -> None:
    """Make sure that torchvision has a classification network of that name.

    Raises:
        ArchitectureError: it has none.
    """
    if torchvision_name(name) != name:
        raise ArchitectureError(
            f"unknown architecture {name!r}: expected a torchvision classification network, "
            "such as resnet18, mobilenet_v2 or shufflenet_v2_x1_0"
        )


def build(name: str, *, num_classes: int, seed: int) -> nn.Module:
    """An untrained network of `num_classes` logits; equal seeds give equal weights.

    Raises:
        ArchitectureError: torchvision has no such classification network.
    """
    check_architecture(name)
    # torchvision draws its weights from the global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_torchvision(name, num_classes=num_classes)


def smallest_side(name: str) -> int:
    """Side of the smallest images (pixels) that a network of that name is able to eat."""
    return {"inception_v3": 75, "alexnet": 63}.get(name, 32)
