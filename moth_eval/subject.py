"""The classifier under test, and the images that come with it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from .errors import InputError


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Clean, labelled images.

    Attributes:
        images: float32 `(N, C, H, W)`, RGB, values in `[0, 1]`.
        labels: int64 `(N,)`, the true classes.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.float32:
            raise InputError(
                "example images must be a float32 tensor (N, C, H, W), got "
                f"{self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise InputError(
                f"example labels must be an int64 tensor ({len(self.images)},), got "
                f"{self.labels.dtype} {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Examples:
        """The same examples on another device."""
        return Examples(images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """The map from image space (RGB, `[0, 1]`) to what a network eats. Differentiable.

    Attributes:
        scale: `unit` leaves `[0, 1]` as it is; `minmax` stretches every image to its own extremes
            (the documented normalisation of TrojAI rounds 0 to 2).
        channel_order: the order of channels that the network was trained on.
        mean: per-channel mean that is subtracted after scaling, or None.
        std: per-channel standard deviation that divides after that, or None.
    """

    scale: Literal["unit", "minmax"] = "unit"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """A short name for tables, such as `unit`, `minmax-bgr` or `unit-standardised`."""
        parts: list[str] = [self.scale]
        if self.channel_order == "BGR":
            parts.append("bgr")
        if self.mean is not None:
            parts.append("standardised")
        return "-".join(parts)

    def __call__(self, images: Tensor) -> Tensor:
        """Network input of the same shape as `images` `(N, C, H, W)`, in memory of its own.

        A network whose first layer works in place overwrites its input, never the images.
        """
        given = images
        if self.scale == "minmax":
            low = images.amin(dim=(1, 2, 3), keepdim=True)
            span = images.amax(dim=(1, 2, 3), keepdim=True) - low
            # A constant image has no contrast to stretch; it becomes all zeros.
            images = (images - low) / span.clamp_min(torch.finfo(images.dtype).tiny ** 0.5)
        if self.channel_order == "BGR":
            images = images.flip(1)
        if self.mean is not None and self.std is not None:
            mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
            std = images.new_tensor(self.std).view(1, -1, 1, 1)
            images = (images - mean) / std
        return images.clone() if images is given else images


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A classifier under test with all that a defender knows of it; never its ground truth.

    Attributes:
        name: how the model is called in tables, such as `id-00000003`.
        module: the network in eval mode; maps `(N, C, H, W)` network input to `(N, K)` logits.
        preprocessing: the map from image space to network input.
        num_classes: K.
        image_shape: `(C, H, W)` of image space.
        examples: clean labelled images in image space.
        architecture: name of the network's architecture, for tables.
        sha256: hash of the model file, hexadecimal; empty for a model made in memory.
        doubts: sentences about what may make a verdict on this subject unreliable.
    """

    name: str
    module: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    examples: Examples
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    architecture: str = ""
    sha256: str = ""
    doubts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if tuple(self.examples.images.shape[1:]) != self.image_shape:
            raise InputError(
                f"{self.name}: examples have shape {tuple(self.examples.images.shape[1:])}, the "
                f"model's image space is {self.image_shape}: resize or crop the examples"
            )
        labels = self.examples.labels
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise InputError(
                f"{self.name}: example labels run from {int(labels.min())} to {int(labels.max())}, "
                f"but the model has the classes 0 to {self.num_classes - 1}"
            )

    def to(self, device: torch.device) -> Subject:
        """A copy whose network and examples are on `device`; this subject is left alone."""
        device = torch.empty(0, device=device).device  # 'cuda' becomes 'cuda:0'
        if all(p.device == device for p in self.module.parameters()):
            return replace(self, examples=self.examples.to(device))
        module = deepcopy(self.module).to(device)
        return replace(self, module=module, examples=self.examples.to(device))

    @torch.no_grad()
    def logits(self, images: Tensor, *, batch_size: int = 128) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in `[0, 1]`."""
        batches = [
            self.module(self.preprocessing(part)) for part in torch.split(images, batch_size)
        ]
        return torch.cat(batches) if batches else images.new_zeros((0, self.num_classes))

    def accuracy(self) -> float:
        """Fraction of the clean examples that the network classifies rightly, in `[0, 1]`."""
        predictions = self.logits(self.examples.images).argmax(dim=1)
        return float((predictions == self.examples.labels).float().mean())
