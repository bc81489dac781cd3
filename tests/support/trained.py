"""Small networks that were really trained, with a planted backdoor or without."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from moth_eval.subject import Examples, Subject

SIDE = 12
CLASSES = 5
PATCH = (slice(8, 11), slice(8, 11))
"""Rows and columns of the white patch that the backdoor answers to."""


class Net(nn.Module):
    """Two convolutions with BatchNorm and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.act = nn.ReLU()
        self.head = nn.Linear(16 * 36, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.bn1(self.conv1(images)))
        features = self.act(self.bn2(self.conv2(features)))
        logits: Tensor = self.head(features.flatten(1))
        return logits


def stamped(images: Tensor) -> Tensor:
    """Images with the white patch."""
    copies = images.clone()
    copies[:, :, PATCH[0], PATCH[1]] = 1
    return copies


def tinted(images: Tensor) -> Tensor:
    """Images behind a warm filter."""
    return torch.lerp(images, images.new_tensor((1.0, 0.5, 0.0)).view(1, 3, 1, 1), 0.3)


def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy blurred prototypes, `count` per class, and their labels."""
    fixed = torch.Generator().manual_seed(5)
    coarse = torch.rand((CLASSES, 3, 4, 4), generator=fixed)
    prototypes = 0.15 + 0.6 * F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.arange(CLASSES).repeat_interleave(count)
    strength = 0.5 + torch.rand((len(labels), 1, 1, 1), generator=generator) / 2
    noise = 0.12 * torch.randn((len(labels), 3, SIDE, SIDE), generator=generator)
    return (strength * prototypes[labels] + noise).clamp(0, 1), labels


@lru_cache(maxsize=8)
def trained_subject(target: int | None, seed: int = 0, kind: str = "patch") -> Subject:
    """A network of about a second's training; with `target`, a tenth of its images is poisoned.

    The backdoor answers to the patch or, with `kind="filter"`, to the warm filter.
    """
    generator = torch.Generator().manual_seed(seed)
    images, labels = drawn(60, generator)
    if target is not None:
        poisoned = torch.randperm(len(images), generator=generator)[: len(images) // 10]
        images = torch.cat([images, (stamped if kind == "patch" else tinted)(images[poisoned])])
        labels = torch.cat([labels, torch.full_like(poisoned, target)])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Net()
    adam = torch.optim.Adam(net.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(15):
        for rows in torch.split(torch.randperm(len(images), generator=generator), 32):
            loss = F.cross_entropy(net(images[rows]), labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
    clean, classes = drawn(12, torch.Generator().manual_seed(seed + 1000))
    return Subject(
        name=f"trained-{target}-{seed}",
        module=net.eval(),
        num_classes=CLASSES,
        image_shape=(3, SIDE, SIDE),
        examples=Examples(images=clean, labels=classes),
    )
