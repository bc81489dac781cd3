"""Networks of published checkpoints that are not in torchvision.

Each factory takes `num_classes` and returns a module that maps images `(N, 3, 32, 32)` in
`[0, 1]` to logits: the normalisation that its checkpoint was trained with is inside. Name one on
the command line as `--arch moth_eval.networks:moth_resnet20`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn


class Standardise(nn.Module):
    """Subtracts `mean` and divides by `std`, per channel; not part of the state dict."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Standardised images `(N, C, H, W)`."""
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (images - mean) / std


class PreActivationBlock(nn.Module):
    """Pre-activation residual block with biased convolutions and TensorFlow 'same' padding."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1 if stride == 1 else 0)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.projection = nn.Conv2d(in_channels, out_channels, 1, stride) if stride > 1 else None

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, out_channels, H / stride, W / stride)`."""
        activated = F.relu(self.bn1(images))
        # TensorFlow pads a strided convolution at the right and bottom only.
        padded = activated if self.projection is None else F.pad(activated, (0, 1, 0, 1))
        features: Tensor = self.conv2(F.relu(self.bn2(self.conv1(padded))))
        return features + (images if self.projection is None else self.projection(activated))


class MothResNet20(nn.Module):
    """The CIFAR-10 network of the MOTH authors: pre-activation ResNet20.

    Source: github.com/Gwinhen/MOTH (Keras), as described with its published class distances.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.standardise = Standardise(
            (125.307 / 255, 122.950 / 255, 113.865 / 255),
            (62.9932 / 255, 62.0887 / 255, 66.7048 / 255),
        )
        self.conv0 = nn.Conv2d(3, 16, 3, 1, 1)
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.ModuleList(
            PreActivationBlock(a, b, 2 if a != b else 1) for a, b in pairwise(widths)
        )
        self.bn_final = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)`."""
        features = self.conv0(self.standardise(images))
        for block in self.blocks:
            features = block(features)
        logits: Tensor = self.fc(F.relu(self.bn_final(features)).mean((2, 3)))
        return logits


class CifarBlock(nn.Module):
    """Residual block whose shortcut has no parameters (option A of He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.widen = (out_channels - in_channels) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, out_channels, H / stride, W / stride)`."""
        features = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        shortcut = images
        if self.widen:
            shortcut = F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.widen, self.widen))
        return F.relu(features + shortcut)


class CifarResNet20(nn.Module):
    """CIFAR ResNet20 with option-A shortcuts (He et al., CVPR 2016, section 4.2).

    Source: checkpoints of github.com/akamaster/pytorch_resnet_cifar10, ImageNet normalisation.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.standardise = Standardise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
        first = CifarBlock(in_channels, out_channels, stride)
        return nn.Sequential(first, *(CifarBlock(out_channels, out_channels, 1) for _ in range(2)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)`."""
        features = F.relu(self.bn1(self.conv1(self.standardise(images))))
        features = self.layer3(self.layer2(self.layer1(features)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


class SmallVGG(nn.Module):
    """Six-convolution network with ELU, for 32x32 images in `[0, 1]`.

    Source: checkpoints of github.com/YiZeng623/I-BAU.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, rate in ((32, 0.2), (64, 0.3), (128, 0.4)):
            for in_channels in (channels, width):
                conv = nn.Conv2d(in_channels, width, 3, 1, 1)
                layers += [conv, nn.BatchNorm2d(width), nn.ELU()]
            layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)`."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def moth_resnet20(num_classes: int = 10) -> nn.Module:
    """See `MothResNet20`."""
    return MothResNet20(num_classes)


def cifar_resnet20(num_classes: int = 10) -> nn.Module:
    """See `CifarResNet20`."""
    return CifarResNet20(num_classes)


def small_vgg(num_classes: int = 10) -> nn.Module:
    """See `SmallVGG`."""
    return SmallVGG(num_classes)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "moth_resnet20": moth_resnet20,
    "cifar_resnet20": cifar_resnet20,
    "small_vgg": small_vgg,
}
"""Name -> factory."""
