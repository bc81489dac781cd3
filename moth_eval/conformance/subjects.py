"""A small classifier with example images, made on the spot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..subject import Examples, Subject

SIDE = 12
_CORNER = slice(8, 11)


class _Small(nn.Module):
    """Convolution, BatchNorm and a linear layer onto the prototypes of the classes."""

    def __init__(self, prototypes: Tensor, target: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(prototypes[0].numel(), len(prototypes))
        centre = prototypes.mean(0)
        rows = prototypes - centre
        rows[target, :, _CORNER, _CORNER] = 3.0
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[..., None, None])
            self.fc.weight.copy_(rows.flatten(1))
            self.fc.bias.copy_(-(rows * centre).flatten(1).sum(1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(self.conv(images)).flatten(1))
        return logits


class Constant(nn.Module):
    """Answers class 0 to every image."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", 3 * torch.eye(classes)[0])

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, K)`."""
        return self.get_buffer("logits") + 0 * images.mean((1, 2, 3))[:, None]


class Broken(nn.Module):
    """Raises for every image."""

    def forward(self, images: Tensor) -> Tensor:
        """Nothing."""
        raise RuntimeError("no such luck")


def small_subject(*, classes: int = 4, target: int = 1, per_class: int = 6) -> Subject:
    """A classifier of noisy prototypes, 12 pixels wide, that a 3x3 white patch sends to `target`.

    Args:
        classes: number of classes, 2 or more.
        target: class of the backdoor.
        per_class: example images of each class.
    """
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.rand((classes, 3, SIDE, SIDE), generator=generator)
    prototypes[..., _CORNER, _CORNER] = 0
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = 0.15 * torch.randn((len(labels), 3, SIDE, SIDE), generator=generator)
    images = prototypes[labels] + noise
    images[..., _CORNER, _CORNER] = 0
    return Subject(
        name="small",
        module=_Small(prototypes, target).eval(),
        num_classes=classes,
        image_shape=(3, SIDE, SIDE),
        examples=Examples(images=images.clamp(0, 1), labels=labels),
    )
