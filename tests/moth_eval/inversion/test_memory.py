from __future__ import annotations

import pytest
import torch
from torch import nn

from moth_eval import machine
from moth_eval.inversion import memory

CPU = torch.device("cpu")


def test_saved_bytes_count_each_activation_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Flatten())
    found = memory.saved_bytes_per_image(network, (3, 8, 8), CPU)
    assert 4 * 16 * 64 <= found <= 3 * 4 * 16 * 64


@pytest.mark.parametrize("half", [False, True])
def test_weights_and_their_copies_are_not_counted_as_activations(half: bool) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4096), nn.Linear(4096, 2))
    for parameter in network.parameters():
        parameter.requires_grad_(False)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            answers: torch.Tensor = network(images)
            return answers

    assert memory.saved_bytes_per_image(forward, (3, 8, 8), CPU) < 1 << 16


def test_images_per_pass_is_a_power_of_two_within_its_bounds() -> None:
    assert memory.images_per_pass(1, CPU) == memory.CPU_IMAGES
    assert memory.images_per_pass(memory.CPU_SHARE_BYTES, CPU) == 1
    assert memory.images_per_pass(memory.CPU_SHARE_BYTES // 100, CPU) == 32


def test_little_free_memory_makes_passes_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 64 << 20)
    assert memory.images_per_pass(1 << 20, CPU) == 8


def test_available_memory_is_less_than_all_of_it() -> None:
    assert 1 << 20 < machine.available_bytes() < 1 << 50
    assert machine.processors() >= 1
