"""Input-aware: two small networks draw a trigger of its own for every image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .scenes import to_float
from .trigger import Threat, check_shares, check_threat

WIDTHS = (3, 16, 32, 16)
"""Channels before each convolution of a generator; the last has as many outputs as are wanted."""

GROUPS = 4
"""Of the normalisation: no image's trigger depends on the others of its batch."""

BATCH = 64

_Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class InputAware:
    """A sparse mask and a pattern, both drawn from the image itself.

    The generators are made first: that of the mask to be varied, that of the pattern to
    lead a clean network to the target. The classifier is then trained with the
    right trigger on some images, which get the target, and with the trigger of another image on
    others, which keep their label; both are drawn anew for every epoch.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        density: share of the image that a mask covers, at least one pixel. Source: 0.032.
        diversity_weight: of triggers that are alike for different images. Source: 1.
        steps: batches of 64 images that each generator is trained on. Source: our choice; the
            authors train for 25 epochs on masks and 600 with the classifier.
        learning_rate: of Adam. Source: 0.01.
        covers_per_poisoned: images with the trigger of another one, for one poisoned image.
            Source: p_attack and p_cross are both 0.1.
        redrawn: whether the poisoned set is drawn anew for every epoch. Source: the authors do
            so for every batch.
        tensors: weights of both generators, made by `prepare` on a clean network.

    Source: Nguyen, Tran, "Input-aware dynamic backdoor attack", NeurIPS 2020.
    Differs from the reference: generators are smaller, and that of the pattern is trained on a
    frozen clean network, not along with the classifier; a mask has its density by construction,
    not by a penalty, under which small masks can vanish.
    """

    target: int = 0
    density: float = 0.032
    diversity_weight: float = 1.0
    steps: int = 300
    learning_rate: float = 0.01
    covers_per_poisoned: float = 1.0
    redrawn: bool = True
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_shares(density=self.density)
        least = min(self.diversity_weight, self.covers_per_poisoned)
        if self.steps < 1 or self.learning_rate <= 0 or least < 0:
            raise InputError(
                "expected steps of 1 or more, a learning_rate above 0 and no negative weight, got "
                f"{self.steps}, {self.learning_rate} and {least}"
            )

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Dynamic."""
        return Threat.DYNAMIC

    @property
    def needs_network(self) -> bool:
        """Yes."""
        return True

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with generators that fool the clean network.

        Raises:
            InputError: there is no clean network.
        """
        network = deepcopy(material.clean_network("input-aware")).eval().requires_grad_(False)
        device = material.device
        masks = {k: w.to(device) for k, w in _fresh("mask", 1, generator).items()}
        patterns = {k: w.to(device) for k, w in _fresh("pattern", 3, generator).items()}

        def alike(images: Tensor) -> Tensor:
            return self.diversity_weight * _alike(images, _mask(masks, images, self.density))

        def missed_or_alike(images: Tensor) -> Tensor:
            mask, pattern = _mask(masks, images, self.density), _pattern(patterns, images)
            logits = network(_stamped(images, mask, pattern))
            aims = torch.full((len(images),), self.target, device=images.device)
            varied = self.diversity_weight * _alike(images, mask * pattern)
            return F.cross_entropy(logits, aims) + varied

        self._descend(alike, masks, material, generator)
        self._descend(missed_or_alike, patterns, material, generator)
        weights = masks | patterns
        return replace(self, tensors={k: w.detach().cpu() for k, w in weights.items()})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, each with its own trigger.

        Raises:
            InputError: the attack is not prepared.
        """
        return _stamped(images, *self._drawn(images))

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Every image."""
        return torch.ones_like(labels, dtype=torch.bool)

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies that carry the trigger of another training image each."""
        rows = torch.randint(len(material.images), (len(images),), generator=generator)
        return _stamped(images, *self._drawn(to_float(material.images[rows]).to(images)))

    @torch.no_grad()
    def _drawn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        carried_tensor(self.tensors, "mask.0.weight", "input-aware")
        weights = {name: weight.to(images) for name, weight in self.tensors.items()}
        return _mask(weights, images, self.density), _pattern(weights, images)

    def _descend(
        self,
        loss: Callable[[Tensor], Tensor],
        weights: _Weights,
        material: Material,
        generator: torch.Generator,
    ) -> None:
        """Train `weights` in place for `steps` batches."""
        leaves = [weight.requires_grad_(True) for weight in weights.values()]
        optimiser = torch.optim.Adam(leaves, self.learning_rate)
        for images in self._batches(material, generator):
            optimiser.zero_grad()
            torch.autograd.backward(loss(images), inputs=leaves)
            optimiser.step()
        for leaf in leaves:
            leaf.requires_grad_(False)

    def _batches(self, material: Material, generator: torch.Generator) -> Iterator[Tensor]:
        """Batches of images that are not of the target class."""
        others = (material.labels != self.target).nonzero().squeeze(1)
        for _ in range(self.steps):
            rows = others[torch.randint(len(others), (BATCH,), generator=generator)]
            yield to_float(material.images[rows]).to(material.device)


def _alike(images: Tensor, triggers: Tensor) -> Tensor:
    """How near triggers are to one another, for the distance of the images that they belong to."""
    apart = (images - images.roll(1, 0)).flatten(1).square().mean(1).sqrt()
    between = (triggers - triggers.roll(1, 0)).flatten(1).square().mean(1)
    return (apart / ((between + 1e-12).sqrt() + 1e-2)).mean()


def _fresh(name: str, outputs: int, generator: torch.Generator) -> _Weights:
    weights = {}
    channels = (*WIDTHS, outputs)
    for place, (into, out) in enumerate(pairwise(channels)):
        scale = math.sqrt(2 / (9 * into))
        drawn = torch.randn((out, into, 3, 3), generator=generator)
        weights[f"{name}.{place}.weight"] = scale * drawn
        weights[f"{name}.{place}.bias"] = torch.zeros(out)
    return weights


def _generated(weights: _Weights, name: str, images: Tensor) -> Tensor:
    """Down by four, up again: `(N, outputs, H, W)`, without bounds."""
    height, width = images.shape[-2:]
    features = images - 0.5
    for place, size in enumerate((None, None, (-(-height // 2), -(-width // 2)), (height, width))):
        weight, bias = weights[f"{name}.{place}.weight"], weights[f"{name}.{place}.bias"]
        if place:
            features = F.relu(F.group_norm(features, GROUPS))
        if size is not None:
            features = F.interpolate(features, size=size, mode="nearest")
        features = F.conv2d(features, weight, bias, stride=1 if size else 2, padding=1)
    return features


def _mask(weights: _Weights, images: Tensor, density: float) -> Tensor:
    """`(N, 1, H, W)` in `[0, 1]`, nearly 0 or 1, above one half in a share `density` of pixels."""
    height = F.instance_norm(_generated(weights, "mask", images))
    pixels = images.shape[-2] * images.shape[-1]
    count = min(max(1, round(density * pixels)), pixels - 1)
    edge = height.flatten(1).topk(count + 1).values[:, -2:].mean(1)
    return (10 * (height - edge.view(-1, 1, 1, 1))).tanh() / 2 + 0.5


def _pattern(weights: _Weights, images: Tensor) -> Tensor:
    """`(N, 3, H, W)` in `[0, 1]`."""
    return _generated(weights, "pattern", images).sigmoid()


def _stamped(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    return (images + (pattern - images) * mask).clamp(0, 1)
