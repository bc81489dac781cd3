"""Triggers that drive chosen neurons: a patch within a bounded area, or a linear filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .bounded_masks import BoundedMasks
from .hidden_layers import OpenNetwork
from .similarity import ssim
from .stimulation import Neuron

OTHERS = 1e-4
"""Weight of all other channels of the neuron's layer, as published."""

Parameters = list[Tensor]
"""Tensors whose first dimension is the row; the optimiser changes them in place."""


class NeuronTrigger(Protocol):
    """What the loop needs of a kind of trigger. R rows, B images each."""

    def initial(self, shape: tuple[int, int, int], seeds: Sequence[int]) -> Parameters:
        """Parameters of one row per seed for images `(C, H, W)`, on the CPU."""
        ...

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Images `(R, B, C, H, W)` with the triggers, in `[0, 1]`; differentiable."""
        ...

    def penalty(self, stamped: Tensor, images: Tensor) -> Tensor:
        """What a row pays for how it changes its images `(R, B, C, H, W)`: `(R,)`."""
        ...

    def step(self, parameters: Parameters) -> None:
        """Take one step along the gradients of the parameters, in place."""
        ...


@dataclass(kw_only=True)
class PatchTrigger:
    """Stamp `(1 - m) * x + m * p` with a mask whose sum never exceeds an area.

    Attributes:
        area: largest sum of the mask (pixels).
        learning_rate: of mask logits and colours.
    """

    area: float
    learning_rate: float

    def __post_init__(self) -> None:
        self._masks: BoundedMasks | None = None
        self._adam: torch.optim.Adam | None = None

    def initial(self, shape: tuple[int, int, int], seeds: Sequence[int]) -> Parameters:
        """Every pixel equally on, as far as the area goes, and random colours."""
        channels, height, width = shape
        drawn = [
            torch.randn((channels, height, width), generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
        even = BoundedMasks((len(seeds), 1, height, width), self.area, torch.device("cpu"))
        return [even.logits.detach(), torch.stack(drawn)]

    def rendered(self, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Masks `(R, 1, H, W)` and patterns `(R, C, H, W)` in `[0, 1]`."""
        return parameters[0].sigmoid(), (parameters[1].tanh() + 1) / 2

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Stamped images."""
        mask, pattern = self.rendered(parameters)
        return torch.lerp(images, pattern[:, None], mask[:, None])

    def penalty(self, stamped: Tensor, images: Tensor) -> Tensor:
        """None: the area is kept by what a step does."""
        return stamped.new_zeros(len(stamped))

    @torch.no_grad()
    def step(self, parameters: Parameters) -> None:
        """Adam for the colours; the pixels of a mask compete for its area."""
        mask, pattern = parameters
        if self._adam is None or self._masks is None:
            self._adam = torch.optim.Adam([pattern], lr=self.learning_rate, betas=(0.5, 0.9))
            self._masks = BoundedMasks(tuple(mask.shape), self.area, mask.device)
        self._adam.step()
        assert mask.grad is not None  # noqa: S101 - the loop took it
        self._masks.step(mask.grad, self.learning_rate)
        mask.copy_(self._masks.logits)


@dataclass(kw_only=True)
class FilterTrigger:
    """A linear map of every pixel and the extremes and mean around it to new colours.

    Attributes:
        learning_rate: of Adam.
        window: side of the square around a pixel (pixels, 12 as published).
        weight: of the similarity to the image before; 1,000, which is the published 10 against a
            hundredth of what drives the neuron.
        least_similarity: mean SSIM below which the weight is a thousand times that; published: 0.2.
    """

    learning_rate: float
    least_similarity: float
    window: int = 12
    weight: float = 1000.0

    def __post_init__(self) -> None:
        self._adam: torch.optim.Adam | None = None

    def initial(self, shape: tuple[int, int, int], seeds: Sequence[int]) -> Parameters:
        """The map that changes nothing: `(4 C, C)` for each row."""
        channels = shape[0]
        identity = torch.cat([torch.eye(channels), torch.zeros((3 * channels, channels))])
        return [identity.expand(len(seeds), -1, -1).clone()]

    def stamp(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Filtered images."""
        seen = self._seen(images.flatten(0, 1))
        seen = seen.view(*images.shape[:2], *seen.shape[1:])
        return torch.einsum("rbfhw,rfc->rbchw", seen, parameters[0]).clamp(0, 1)

    def _seen(self, images: Tensor) -> Tensor:
        """Each pixel, and largest, smallest and mean value around it: `(N, 4 C, H, W)`."""
        side = min(self.window, *images.shape[-2:])
        before, after = (side - 1) // 2, side // 2
        margin = (before, after, before, after)
        padded = F.pad(images, margin, mode="replicate")
        high = F.max_pool2d(padded, side, 1)
        low = -F.max_pool2d(-padded, side, 1)
        return torch.cat([images, high, low, F.avg_pool2d(padded, side, 1)], dim=1)

    def penalty(self, stamped: Tensor, images: Tensor) -> Tensor:
        """Minus the similarity, weighted; much more where the images are past recognition."""
        alike = ssim(stamped.flatten(0, 1), images.flatten(0, 1)).view(stamped.shape[:2]).mean(1)
        factor = torch.where(alike < self.least_similarity, 1000.0, 1.0)
        return -self.weight * factor.detach() * alike

    @torch.no_grad()
    def step(self, parameters: Parameters) -> None:
        """Adam, and every weight within plus and minus 1."""
        if self._adam is None:
            self._adam = torch.optim.Adam(parameters, lr=self.learning_rate)
        self._adam.step()
        parameters[0].clamp_(-1, 1)


def invert_neurons(
    network: OpenNetwork,
    neurons: Sequence[Neuron],
    images: Tensor,
    trigger: NeuronTrigger,
    *,
    seeds: Sequence[int],
    steps: int,
    logit_weight: float,
) -> Parameters:
    """Parameters `(R, ...)` of triggers that drive the neurons, one row each, all at once.

    A row's result depends on its neuron, images and seed only (up to rounding).

    Args:
        network: the frozen network.
        neurons: the R neurons.
        images: `(R, B, C, H, W)` in `[0, 1]`, those of each row.
        trigger: the kind of trigger; its state is used up.
        seeds: one per row.
        steps: how many, each on all of a row's images.
        logit_weight: of the target's logit above all others.
    """
    parameters = [p.to(network.device) for p in trigger.initial(network.image_shape, seeds)]
    at_once = max(1, network.images_per_pass // images.shape[1])
    for parameter in parameters:
        parameter.requires_grad_()
    for _ in range(steps):
        slopes = [torch.zeros_like(p) for p in parameters]
        for first in range(0, len(neurons), at_once):
            part = slice(first, first + at_once)
            with torch.enable_grad():
                stamped = trigger.stamp([p[part] for p in parameters], images[part])
                drive = _drive(network, neurons[part], stamped, logit_weight)
                loss = trigger.penalty(stamped, images[part]) - drive
            for slope, more in zip(
                slopes, torch.autograd.grad(loss.sum(), parameters), strict=True
            ):
                slope += more
            network.backward_passes += stamped.shape[0] * stamped.shape[1]
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = slope
        trigger.step(parameters)
    return [p.detach() for p in parameters]


def _drive(
    network: OpenNetwork, neurons: Sequence[Neuron], stamped: Tensor, logit_weight: float
) -> Tensor:
    """How hard stamped images `(R, B, C, H, W)` drive their neurons: `(R,)`.

    In peaks of its layer: the sum of the neuron's map before and behind a rectifier, less the same
    of all other channels, weighted by `OTHERS`.
    """
    with network.reading({neuron.layer.name for neuron in neurons}) as seen:
        logits = network(stamped.flatten(0, 1)).view(*stamped.shape[:2], -1)
    driven = []
    for row, neuron in enumerate(neurons):
        each = seen[neuron.layer.name]
        values = each.view(*stamped.shape[:2], *each.shape[1:])[row] / neuron.peak
        both = (values + values.relu()).movedim(neuron.layer.channel_axis, 1)
        both = both.reshape(*both.shape[:2], -1).sum(2)
        own = both[:, neuron.channel]
        total = own - OTHERS * (both.sum(1) - own)
        if logit_weight:
            others = logits[row].clone()
            others[:, neuron.target] = -torch.inf
            total = total + logit_weight * (logits[row, :, neuron.target] - others.amax(1))
        driven.append(total.mean())
    return torch.stack(driven)
