"""The slice of the small clean set that a method keeps back to choose by."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        count = min(len(rows) - 1, max(1, round(share * len(rows))))
        back[rows[torch.randperm(len(rows), generator=generator)[:count]]] = True
    if not back.any():
        raise HardeningError(
            f"expected at least two clean images of a class, to hold one back to choose by, got "
            f"{len(labels)} images of as many classes: give more images"
        )
    return Slices(training=_rows(data, ~back), validation=_rows(data, back))


@torch.no_grad()
def accuracy(
    subject: Subject, module: torch.nn.Module, data: Examples, *, batch: int = 256
) -> float:
    """Fraction of the images that a network of the subject's kind, in eval mode, gets right."""
    right = [
        module(subject.preprocessing(images)).argmax(1) == labels
        for images, labels in zip(data.images.split(batch), data.labels.split(batch), strict=True)
    ]
    return float(torch.cat(right).float().mean())


def _rows(data: Examples, chosen: torch.Tensor) -> Examples:
    rows = chosen.to(data.images.device)
    return Examples(images=data.images[rows], labels=data.labels[chosen.to(data.labels.device)])
