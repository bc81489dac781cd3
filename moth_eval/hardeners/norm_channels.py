"""The channels of all BatchNorm layers of a network in one row, to be masked or silenced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .flow import BATCH_NORMS
from .trainer import Trainer, normalised_by


@dataclass(frozen=True, kw_only=True)
class NormChannels:
    """The channels of the BatchNorm layers that have weights of their own.

    Attributes:
        sizes: channels of each layer by the name of its module, in order.
    """

    sizes: Mapping[str, int]

    @staticmethod
    def of(network: nn.Module) -> NormChannels:
        """Those of this network; none where it has no such layer."""
        found = {
            name: module.num_features
            for name, module in network.named_modules()
            if isinstance(module, BATCH_NORMS) and module.affine
        }
        return NormChannels(sizes=found)

    @property
    def count(self) -> int:
        """Channels in all."""
        return sum(self.sizes.values())

    def logits(
        self, network: nn.Module, inputs: Tensor, weight_factors: Tensor, bias_factors: Tensor
    ) -> Tensor:
        """Logits with every channel's weight and bias multiplied; the network is left alone.

        Every BatchNorm normalises by the batch, so that what is multiplied in one layer does not
        add up from layer to layer: under running statistics, noise kills deep networks.

        Args:
            network: of the same kind, in eval mode; dropout stays out.
            inputs: what the network eats.
            weight_factors: `(count,)`.
            bias_factors: `(count,)`.
        """
        sizes = list(self.sizes.values())
        changed = {name: buffer.clone() for name, buffer in network.named_buffers()}
        for name, by, plus in zip(
            self.sizes,
            torch.split(weight_factors, sizes),
            torch.split(bias_factors, sizes),
            strict=True,
        ):
            module = network.get_submodule(name)
            changed[f"{name}.weight"] = module.get_parameter("weight").detach() * by
            changed[f"{name}.bias"] = module.get_parameter("bias").detach() * plus
        with by_batch(network, len(inputs)):
            logits: Tensor = functional_call(network, changed, (inputs,))
        return logits

    def answers(
        self, trainer: Trainer, inputs: Tensor, weight_factors: Tensor, bias_factors: Tensor
    ) -> Tensor:
        """`logits` of the network in training, at the precision of its recipe."""
        with trainer.passes(inputs.device):
            found = self.logits(trainer.network, inputs, weight_factors, bias_factors)
        return found.float()

    @torch.no_grad()
    def silence(self, network: nn.Module, silent: Tensor) -> None:
        """Make channels the same for every image: their weight becomes zero, the bias stays.

        Args:
            network: of the same kind; changed.
            silent: bool `(count,)`.
        """
        parts = torch.split(silent, list(self.sizes.values()))
        for name, part in zip(self.sizes, parts, strict=True):
            weight = network.get_submodule(name).get_parameter("weight")
            weight[part.to(weight.device)] = 0


@contextmanager
def by_batch(network: nn.Module, images: int) -> Iterator[None]:
    """Within it, every BatchNorm of a network in eval mode normalises by a batch of `images`."""
    norms = [module for module in network.modules() if isinstance(module, BATCH_NORMS)]
    for norm in norms:
        norm.train()
    try:
        with normalised_by(images):
            yield
    finally:
        for norm in norms:
            norm.eval()
