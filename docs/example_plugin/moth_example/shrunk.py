"""A hardener that needs no images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch

from moth_eval.hardening import SILENT, Hardening, HardeningStatus, Journal
from moth_eval.subject import Examples, Subject


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """Multiplies every weight by one factor.

    Attributes:
        factor: above 0.
    """

    factor: float = 0.9

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """The hardening of one subject."""
        subject.logits(data.images[:1])  # a network that cannot be run is not worth hardening
        module = deepcopy(subject.module).eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(self.factor)
        return Hardening(
            status=HardeningStatus.HARDENED, module=module, images_used=len(data.images)
        )
