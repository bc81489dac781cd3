"""A task that a tiny network learns in a second: the class is the colour of a square."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from attacks.injector import Splits
from attacks.scenes import Scenes
from moth_eval.seeds import generator_for

SIDE = 12
HUES = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]])


def toy_scenes(per_class: int, *, seed: int, classes: int = 4) -> Scenes:
    """Squares of the class's colour in the middle of grey noise."""
    generator = generator_for("toy", seed)
    labels = torch.arange(classes).repeat(per_class)
    images = 0.5 + 0.1 * torch.randn((len(labels), 3, SIDE, SIDE), generator=generator)
    images[:, :, 3:9, 3:9] += HUES[labels][:, :, None, None] - 0.5
    foregrounds = torch.zeros((len(labels), SIDE, SIDE), dtype=torch.bool)
    foregrounds[:, 3:9, 3:9] = True
    return Scenes(
        images=(images.clamp(0, 1) * 255).round().to(torch.uint8),
        labels=labels,
        foregrounds=foregrounds,
    )


def toy_splits(classes: int = 4) -> Splits:
    """100, 40 and 50 scenes per class."""
    return Splits(
        training=toy_scenes(100, seed=1, classes=classes),
        validation=toy_scenes(40, seed=2, classes=classes),
        test=toy_scenes(50, seed=3, classes=classes),
    )


def toy_network(seed: int, classes: int = 4) -> nn.Module:
    """Two convolutions, a pooling and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return toy_factory(classes)


def toy_factory(num_classes: int = 4) -> nn.Module:
    """The same network for `--arch tests.support.toy_task:toy_factory`."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(288, num_classes),
    )


def brightness_factory(num_classes: int = 2) -> nn.Module:
    """Tells bright images from dark ones by the sign of their mean, once it is trained."""
    layers = (nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(1, num_classes))


def write_toy_data(path: Path, per_class: int, *, seed: int) -> Path:
    """Scenes of the task as an `.npz`."""
    scenes = toy_scenes(per_class, seed=seed)
    images = scenes.images.permute(0, 2, 3, 1).numpy()
    np.savez(path, images=images, labels=scenes.labels.numpy())
    return path
