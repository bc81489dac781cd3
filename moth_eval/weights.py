"""What can be asked of a network's weights."""

from __future__ import annotations

from torch import nn

DIVERGED = "the training diverged, weights are not finite: try a smaller learning rate"
"""What is said of a method whose network is not `are_finite`."""


def are_finite(module: nn.Module) -> bool:
    """Whether every weight and every buffer that is saved with them is a finite number."""
    return all(bool(values.isfinite().all()) for values in module.state_dict().values())
