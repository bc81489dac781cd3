"""Which of many images take part."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(labels: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `most` images, int64 in rising order, evenly over the classes.

    Args:
        labels: int64 `(N,)`, on the CPU.
        most: how many.
        generator: decides which ones of a class.
    """
    order = torch.randperm(len(labels), generator=generator)
    rank = torch.zeros_like(labels)
    for label in sorted(set(labels.tolist())):
        members = order[labels[order] == label]
        rank[members] = torch.arange(len(members))
    by_rank = torch.argsort(rank[order], stable=True)
    return order[by_rank][:most].sort().values


def classes_left_out(used: int, num_classes: int) -> str:
    """How many classes take no part for want of images, in words; empty if all do."""
    missing = num_classes - used
    return f"{missing} of {num_classes} classes have no images" if missing else ""


def halves(labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Every other image of each class, and the rest; of an odd number the first have one more.

    Args:
        labels: int64 `(N,)`.
        rows: indices of those to halve.
    """
    behind = torch.zeros(len(rows), dtype=torch.bool)
    for label in sorted(set(labels[rows].tolist())):
        behind[(labels[rows] == label).nonzero().flatten()[1::2]] = True
    return rows[~behind], rows[behind]
