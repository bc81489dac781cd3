"""Pixel: inverts triggers that change few pixels, and looks for a class that needs very few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from moth_eval.anomaly import LEAST_CLASSES, anomaly_indices, no_index
from moth_eval.choosing import spread
from moth_eval.errors import ScanError
from moth_eval.inversion import presets
from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.problems import Inversion
from moth_eval.inversion.schedule import Schedule
from moth_eval.inversion.signed_pixels import SignedPixels
from moth_eval.inverted import SIZE_HAS_NO_RULE, problems_of, remark_on, trigger_of
from moth_eval.own_rules import index_rule
from moth_eval.scan import Cost, Rule, Scan, Status
from moth_eval.subject import Subject

PAPER = Schedule(
    steps=3000,
    batch_size=32,
    success_rate=0.9,
    initial_cost=1e-3,
    warm_up=False,
    patience=10,
    up=1.5,
    down=1.5**1.5,
    steps_per_move=3,
    smoothing=0.0,
    check_every=30,
    stop_patience=100,
)
"""1,000 passes over 100 images, one move of the cost each, and no early stop.

What the published code calls a step is a pass: three batches of 32, and the last 4 images wait.
"""

FAST = replace(presets.SHORT, steps=400, success_rate=0.9, initial_cost=1e-3)
"""Ours: the cost moves at every step, averages are tried, and settled rows end."""

SCHEDULES = {"fast": FAST, "paper": PAPER}

Statistic = Literal["log-index", "index", "size"]


@dataclass(frozen=True, kw_only=True)
class Pixel:
    """Inverts for every class a pattern to add and one to take away that touch few pixels.

    There is no mask to learn: a smooth count of changed pixels is kept small. It finds patches as
    Neural Cleanse does, and faint additive ones that a mask does not fit.

    Source: Tao et al., "Better Trigger Inversion Optimization in Backdoor Scanning", CVPR 2022,
    and its published code (github.com/Gwinhen/PixelBackdoor).

    Differs from the reference:
        * all classes are inverted at once, a trigger counts only if its success rate holds on all
          images, and rows that no longer shrink end;
        * images of the target class take no part in its inversion;
        * the published code has no decision rule: the statistics are those of our Neural Cleanse,
          on numbers of pixels, and the cut on an index is ours;
        * see `moth_eval.inversion.signed_pixels.SignedPixels` for how patterns are kept.

    Attributes:
        preset: `fast` (ours) or `paper` (the published schedule).
        label_specific: one trigger per ordered pair of classes instead of one per target class.
        success_rate: fraction of images that a trigger must flip, in `(0, 1]` (published: 0.9).
        max_images: clean images used at most, spread over the classes (published: 100).
        statistic: what is scored. `log-index` (ours) is the anomaly index of the logarithms of the
            numbers of pixels, `index` that of the numbers. `size` (ours) is the logarithm of the
            image's pixels over the smallest number: it compares models, not classes of one.
    """

    preset: Literal["fast", "paper"] = "fast"
    label_specific: bool = False
    success_rate: float = 0.9
    max_images: int = 100
    statistic: Statistic = "log-index"

    def __post_init__(self) -> None:
        if self.preset not in SCHEDULES:
            raise ScanError(f"preset must be one of {', '.join(SCHEDULES)}, got {self.preset!r}")
        if not 0 < self.success_rate <= 1:
            raise ScanError(f"success_rate must be in (0, 1], got {self.success_rate}")
        if self.max_images < 1:
            raise ScanError(f"max_images must be at least 1, got {self.max_images}")
        if self.statistic not in get_args(Statistic):
            raise ScanError(
                f"statistic must be one of {', '.join(get_args(Statistic))}, got {self.statistic!r}"
            )

    def without_rule(self) -> str:
        """Why these settings give no cut; empty if they give one."""
        return SIZE_HAS_NO_RULE if self.statistic == "size" else ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject; inconclusive where an index has too few classes to compare.

        Raises:
            ScanError: no example images outside some class.
        """
        if self.statistic != "size" and subject.num_classes < LEAST_CLASSES:
            return Scan(status=Status.INCONCLUSIVE, reason=no_index(subject.num_classes))
        labels = subject.examples.labels.cpu()
        chosen = spread(labels, self.max_images, generator)
        images = subject.examples.images[chosen.to(subject.examples.images.device)]
        problems = problems_of(
            labels[chosen], subject.num_classes, generator, pairs=self.label_specific
        )
        network = FrozenNetwork(subject)
        schedule = replace(SCHEDULES[self.preset], success_rate=self.success_rate)
        inversions = invert(network, images, problems, schedule, objective=SignedPixels())
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        return replace(self.judge(inversions, subject.image_shape), cost=cost)

    def judge(self, inversions: Sequence[Inversion], shape: tuple[int, int, int]) -> Scan:
        """Score and triggers from finished inversions on images `(C, H, W)`.

        A class without a valid trigger enters with all pixels of the image; half of them leave no
        median to compare with.
        """
        triggers = tuple(map(trigger_of, inversions))
        missing = sum(not trigger.valid for trigger in triggers)
        remark = remark_on(triggers, self.success_rate)
        by_index = self.statistic != "size"
        if by_index and len(triggers) < LEAST_CLASSES:
            remark = no_index(len(triggers))
            return Scan(status=Status.INCONCLUSIVE, reason=remark, triggers=triggers)
        if missing == len(triggers) or (by_index and 2 * missing >= len(triggers)):
            return Scan(status=Status.INCONCLUSIVE, reason=remark, triggers=triggers)
        pixels = float(shape[1] * shape[2])
        sizes = np.array([max(t.size, 1.0) if t.valid else pixels for t in triggers])
        suspect = triggers[int(np.argmin(sizes))]
        return Scan(
            status=Status.SCORED,
            score=self._score(sizes, pixels),
            reason=f"{remark} and count as the whole image" if missing else "",
            target=suspect.target,
            source=suspect.source,
            triggers=triggers,
            rule=self._rule(len(triggers), missing),
        )

    def _rule(self, numbers: int, missing: int) -> Rule | None:
        if self.statistic == "size":
            return None
        kind = "logarithms of numbers" if self.statistic == "log-index" else "numbers"
        # Triggers that do not work count as one number, which no simulated model has twice.
        return index_rule(numbers, f"{kind} of pixels", known=not missing)

    def _score(self, sizes: np.ndarray, pixels: float) -> float:
        if self.statistic == "size":
            return math.log(pixels / float(sizes.min()))
        compared = np.log1p(sizes) if self.statistic == "log-index" else sizes
        return float(anomaly_indices(compared).max())
