"""A network that counts what goes through it and its copies."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn


class Counted(nn.Module):
    """A network, and how many images its copies have seen."""

    def __init__(self, network: nn.Module) -> None:
        nn.Module.__init__(self)
        self.network = network
        self.seen = torch.zeros(())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        answers: torch.Tensor = self.network(images)
        return answers

    def __deepcopy__(self, memo: Any) -> Counted:
        copy = Counted(deepcopy(self.network, memo))
        copy.seen = self.seen
        return copy
