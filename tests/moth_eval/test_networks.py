from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from moth_eval import networks
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network

CHECKPOINTS = [
    ("moth-resnet20/resnet20_natural.safetensors", "moth_resnet20", "cifar10", 0.919),
    ("nets/cifar10-resnet20-clean.th", "cifar_resnet20", "cifar10", 0.915),
    ("nets/cifar10-smallvgg-backdoored.pth", "small_vgg", "cifar10", 0.843),
    ("nets/gtsrb-smallvgg-backdoored.pth", "small_vgg", "gtsrb", 0.985),
]


@pytest.mark.parametrize(("file", "name", "data", "accuracy"), CHECKPOINTS)
def test_published_checkpoints_reach_their_accuracy(
    file: str, name: str, data: str, accuracy: float, shared: Path
) -> None:
    source = ArchitectureSource.parse(f"moth_eval.networks:{name}")
    network = load_network(shared / file, architecture=source).module
    with np.load(shared / data / "test.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(arrays["labels"])
    with torch.no_grad():
        hits = torch.cat([network(part).argmax(1) for part in torch.split(images, 250)]) == labels
    assert hits.float().mean().item() == pytest.approx(accuracy, abs=0.005)


@pytest.mark.parametrize("name", ["moth_resnet20", "cifar_resnet20", "small_vgg"])
def test_a_network_takes_its_number_of_classes(name: str) -> None:
    network = getattr(networks, name)(num_classes=7).eval()
    assert network(torch.zeros((2, 3, 32, 32))).shape == (2, 7)
