"""The networks that rounds are made of: torchvision's own classes, untrained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from moth_eval.errors import ArchitectureError

LEARNING_RATE_FACTORS: Mapping[str, float] = {}
"""Architecture -> factor on the injector's peak learning rate, where it is not 1."""

EXTRA_ARGUMENTS: Mapping[str, Mapping[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
"""Without auxiliary heads these return plain logits, as in the TrojAI rounds."""


def known_architectures() -> list[str]:
    """Every torchvision classification network, sorted."""
    from torchvision import models

    return sorted(models.list_models(module=models))


def check_architecture(name: str) -> None:
    """Make sure that torchvision has a classification network of that name.

    Raises:
        ArchitectureError: it has none.
    """
    if name not in known_architectures():
        raise ArchitectureError(
            f"unknown architecture {name!r}: expected a torchvision classification network, "
            "such as resnet18, mobilenet_v2 or shufflenet_v2_x1_0"
        )


def build(name: str, *, num_classes: int, seed: int) -> nn.Module:
    """An untrained network of `num_classes` logits; equal seeds give equal weights.

    Raises:
        ArchitectureError: torchvision has no such classification network.
    """
    from torchvision import models

    check_architecture(name)
    # torchvision draws its weights from the global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = models.get_model(
            name, weights=None, num_classes=num_classes, **EXTRA_ARGUMENTS.get(name, {})
        )
    return network


def smallest_side(name: str) -> int:
    """Side of the smallest images (pixels) that a network of that name is able to eat."""
    return {"inception_v3": 75, "alexnet": 63}.get(name, 32)
