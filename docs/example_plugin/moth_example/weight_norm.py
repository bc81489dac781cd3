"""A scanner of weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject


@dataclass(frozen=True, kw_only=True)
class WeightNorm:
    """Scores how far the largest row of the last layer stands out.

    Attributes:
        order: of the norm.
    """

    order: float = 2.0

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        layers = [m for m in subject.module.modules() if isinstance(m, torch.nn.Linear)]
        if not layers:
            return Scan(status=Status.INCONCLUSIVE, reason="the network has no linear layer")
        norms = torch.linalg.vector_norm(layers[-1].weight.detach(), self.order, dim=1)
        score = float((norms.max() - norms.mean()) / norms.std())
        return Scan(status=Status.SCORED, score=score, target=int(norms.argmax()))
