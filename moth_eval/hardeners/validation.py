"""The slice of the small clean set that a method keeps back to choose by."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from ..errors import HardeningError
from ..subject import Examples, Subject


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Clean images in two parts that share none.

    Attributes:
        training: what weights are trained on.
        validation: what thresholds and stopping points are chosen by.
    """

    training: Examples
    validation: Examples


def held_back(data: Examples, share: float, generator: torch.Generator) -> Slices:
    """The data with `share` of every class held back, at least one image where a class has two.

    Args:
        data: clean images; left alone.
        share: fraction in `(0, 1)`.
        generator: on the CPU; decides which.

    Raises:
        HardeningError: no class has two images, so that nothing can be held back.
    """
    labels = data.labels.cpu()
    back = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero().flatten()
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        back[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not back.any():
        raise HardeningError(
            f"expected at least two clean images of a class, to hold one back to choose by, got "
            f"{len(labels)} images of as many classes: give more images"
        )
    return Slices(training=_rows(data, ~back), validation=_rows(data, back))


def accuracy(subject: Subject, module: nn.Module, data: Examples) -> float:
    """Fraction of the images that a network of the subject's kind, in eval mode, gets right."""
    answers = replace(subject, module=module).logits(data.images).argmax(1)
    return float((answers == data.labels).float().mean())


def _rows(data: Examples, chosen: torch.Tensor) -> Examples:
    rows = chosen.to(data.images.device)
    return Examples(images=data.images[rows], labels=data.labels[chosen.to(data.labels.device)])
