"""Published networks with clean images, for tests that look at real behaviour."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network
from moth_eval.subject import Examples, Subject

NETS = {
    "clean-resnet": ("nets/cifar10-resnet20-clean.th", "cifar_resnet20", "cifar10"),
    "backdoored-vgg": ("nets/cifar10-smallvgg-backdoored.pth", "small_vgg", "cifar10"),
}
"""Name -> file, factory in `moth_eval.networks`, data. The backdoor leads to class 8."""


def real_subject(shared: Path, name: str, *, per_class: int = 10) -> Subject:
    """A published network with the first test images of each class."""
    file, factory, data = NETS[name]
    source = ArchitectureSource.parse(f"moth_eval.networks:{factory}")
    stored = np.load(shared / data / "test.npz")
    labels = stored["labels"]
    rows = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
    chosen = np.sort(np.concatenate(rows))
    images = torch.from_numpy(stored["images"][chosen]).permute(0, 3, 1, 2).float() / 255
    return Subject(
        name=name,
        module=load_network(shared / file, architecture=source).module.eval(),
        num_classes=int(labels.max()) + 1,
        image_shape=(3, 32, 32),
        examples=Examples(images=images.contiguous(), labels=torch.from_numpy(labels[chosen])),
    )
