"""Finished inversions with a size of one's own, for tests of how scanners judge them."""

from __future__ import annotations

import torch

from moth_eval.inversion.problems import Inversion, Problem


def inversion(target: int, size: float, *, valid: bool = True) -> Inversion:
    """An inversion on images of 8 pixels; what it looks like plays no part."""
    return Inversion(
        problem=Problem(target=target, images=torch.arange(3), seed=0),
        mask=torch.zeros(1, 8, 8), pattern=torch.zeros(3, 8, 8), size=size, asr=1.0, valid=valid,
        steps=1,
    )  # fmt: skip
