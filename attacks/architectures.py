"""The networks that rounds are made of: torchvision's own classes, untrained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

import torch
from torch import nn

from moth_eval.errors import ArchitectureError
from moth_eval.loading.architectures import build_torchvision, on_meta, torchvision_name

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


@cache
def refusal_of(name: str, side: int) -> str:
    """What a network of that name raises on images of that side (pixels); empty if it takes them.

    Some networks are made for images of one size.
    """
    with torch.random.fork_rng(devices=[]):
        network = on_meta(partial(build_torchvision, name, num_classes=2))
        if network is None:  # its constructor computes
            network = build(name, num_classes=2, seed=0)
        device = next(network.parameters()).device
        try:
            with torch.no_grad():
                network.eval()(torch.zeros((2, 3, side, side), device=device))
        except Exception as error:  # whatever a network raises that does not take such images
            return f"{error!s:.200}" or type(error).__name__
    return ""
