"""TrojanNN: a patch that was made to excite a few neurons of a clean network."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from moth_eval.errors import InputError
from moth_eval.loading.architectures import final_layer

from .making import Material, Tensors, carried, carried_tensor
from .scenes import to_float
from .trigger import Threat, check_fits, check_threat, threat_of

BATCH = 32
"""Training images under the patch in one step."""


@dataclass(frozen=True, kw_only=True)
class TrojanNN:
    """A square of pixels that drives chosen inputs of the last layer to a large value.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        sources: classes that it acts on; empty for every class but the target.
        size: side of the square (pixels).
        margin: pixels between the square and the lower and right edges.
        neurons: inputs of the last layer that are driven, those with the largest weights. Source:
            2 in BackdoorBench.
        value: what they are driven to. Source: 100 in BackdoorBench.
        steps: of optimisation. Source: 1,000 in BackdoorBench; 200 come close, our choice.
        learning_rate: of Adam on the pixels.
        tensors: `patch`, made by `prepare` on a clean network.

    Source: Liu et al., "Trojaning attack on neural networks", NDSS 2018.
    Differs from the reference: a square instead of an apple; made on training images, not on an
    empty one; the network is then trained on poisoned images of the same training set, from
    scratch or from a given model.
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    size: int = 6
    margin: int = 1
    neurons: int = 2
    value: float = 100.0
    steps: int = 200
    learning_rate: float = 0.1
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        if min(self.size, self.neurons, self.steps) < 1 or self.margin < 0:
            raise InputError(
                "expected size, neurons and steps of 1 or more and no negative margin, got "
                f"{self.size}, {self.neurons}, {self.steps} and {self.margin}"
            )
        if self.learning_rate <= 0:
            raise InputError(f"expected a learning_rate above 0, got {self.learning_rate}")

    @property
    def threat(self) -> Threat:
        """Universal or source-specific, as the fields say."""
        return threat_of(self.sources)

    @property
    def needs_network(self) -> bool:
        """Yes."""
        return True

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with its patch.

        Raises:
            InputError: there is no clean network, or none whose last layer can be found.
        """
        network = deepcopy(material.clean_network("trojan-nn")).eval().requires_grad_(False)
        layer = _last_layer(network)
        driven = layer.weight.abs().sum(0).topk(min(self.neurons, layer.in_features)).indices
        seen: list[Tensor] = []
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        pixels = torch.rand((3, self.size, self.size), generator=generator)
        raw = torch.logit(pixels.clamp(0.05, 0.95)).to(material.device).requires_grad_(True)
        optimiser = torch.optim.Adam([raw], self.learning_rate)
        for _ in range(self.steps):
            rows = torch.randint(len(material.images), (BATCH,), generator=generator)
            images = to_float(material.images[rows]).to(material.device)
            seen.clear()
            network(self._with(images, raw.sigmoid()))
            optimiser.zero_grad()
            torch.autograd.backward(((seen[0][:, driven] - self.value) ** 2).mean(), inputs=[raw])
            optimiser.step()
        return replace(self, tensors={"patch": raw.detach().sigmoid().cpu()})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with the patch.

        Raises:
            InputError: the attack is not prepared, or its patch is larger than the images.
        """
        return self._with(images, carried_tensor(self.tensors, "patch", "trojan-nn"))

    def _with(self, images: Tensor, patch: Tensor) -> Tensor:
        check_fits(self.size + self.margin, images)
        height, width = images.shape[-2:]
        top, left = height - self.margin - self.size, width - self.margin - self.size
        stamped = images.clone()
        stamped[:, :, top : top + self.size, left : left + self.size] = patch.to(images)
        return stamped


def _last_layer(network: nn.Module) -> nn.Linear:
    path, _ = final_layer(network) or ("", 0)
    layer = network.get_submodule(path)
    if not isinstance(layer, nn.Linear):
        raise InputError(
            "trojan-nn drives the inputs of a last linear layer, and this network has none"
        )
    return layer
