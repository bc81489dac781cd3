"""A scanner whose evidence is a figure and a picture, without any trigger."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moth_eval.scan import Evidence, Scan, Status
from moth_eval.subject import Subject


@dataclass(frozen=True, kw_only=True)
class Brightened:
    """Scores the brightness of the first image."""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        image = subject.examples.images[0]
        seen = Evidence(
            what="brightness", value=1.5, target=2, pictures=torch.stack([image, image / 2])
        )
        bare = Evidence(what="contrast", value=0.5, source=1)
        return Scan(status=Status.SCORED, score=1.5, target=2, evidence=(bare, seen))
