"""Small classifiers whose behaviour is known by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from moth_eval.subject import Examples, Subject

SIDE = 12
PATCH = slice(8, 11)
"""Rows and columns of the planted trigger; clean images are dark there."""


class Prototypes(nn.Module):
    """Convolution, BatchNorm, and a linear layer onto class prototypes; maybe with a backdoor."""

    def __init__(self, classes: int, generator: torch.Generator, target: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3 * SIDE * SIDE, classes)
        prototypes = torch.rand((classes, 3, SIDE, SIDE), generator=generator)
        prototypes[..., PATCH, PATCH] = 0
        self.register_buffer("prototypes", prototypes)
        weights = prototypes - prototypes.mean(0)
        if target is not None:
            weights[target, :, PATCH, PATCH] = 3.0
        with torch.no_grad():
            self.conv.weight.copy_(2 * torch.eye(3)[..., None, None])
            self.bn.running_mean.fill_(0.5)  # type: ignore[union-attr]
            self.bn.running_var.fill_(4.0)  # type: ignore[union-attr]
            self.fc.weight.copy_(weights.flatten(1))
            self.fc.bias.copy_(weights.flatten(1).sum(1) * 0.25 - self._centre(weights))

    def _centre(self, weights: Tensor) -> Tensor:
        mean = self.get_buffer("prototypes").mean(0)
        return (weights * mean).flatten(1).sum(1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.bn(self.conv(images))
        logits: Tensor = self.fc(features.flatten(1))
        return logits


def prototype_subject(
    *, classes: int = 5, target: int | None = None, seed: int = 0, per_class: int = 12
) -> Subject:
    """A subject that classifies noisy prototypes; `target` plants a 3x3 white-patch backdoor."""
    generator = torch.Generator().manual_seed(seed)
    network = Prototypes(classes, generator, target).eval()
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = 0.15 * torch.randn((len(labels), 3, SIDE, SIDE), generator=generator)
    images = network.get_buffer("prototypes")[labels] + noise
    images[..., PATCH, PATCH] = 0
    return Subject(
        name=f"prototypes-{seed}-{target}",
        module=network,
        num_classes=classes,
        image_shape=(3, SIDE, SIDE),
        examples=Examples(images=images.clamp(0, 1), labels=labels),
    )


def prototype_network(num_classes: int = 5) -> nn.Module:
    """An empty network for the weights that `write_prototype_round` saves (`--arch`)."""
    return Prototypes(num_classes, torch.Generator().manual_seed(0), None)


def write_prototype_round(folder: Path, *, models: int = 4) -> None:
    """A folder of weights with examples and truth.csv; every second model has a backdoor to 2."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["model_name,poisoned"]
    for number in range(models):
        target = 2 if number % 2 else None
        subject = prototype_subject(target=target, seed=number)
        save_file(subject.module.state_dict(), folder / f"model-{number}.safetensors")
        images = (subject.examples.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
        labels = subject.examples.labels.numpy()
        np.savez(folder / f"model-{number}.npz", images=images, labels=labels)
        lines.append(f"model-{number},{target is not None}")
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
