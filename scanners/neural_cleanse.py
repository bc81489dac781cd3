"""Neural Cleanse: the class that needs an unusually small trigger is the suspect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from moth_eval.anomaly import LEAST_CLASSES, anomaly_indices, false_alarm_rate, no_index
from moth_eval.choosing import spread
from moth_eval.errors import ScanError
from moth_eval.inversion import presets
from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.problems import Inversion
from moth_eval.inversion.schedule import Schedule
from moth_eval.inverted import SIZE_HAS_NO_RULE, problems_of, remark_on, trigger_of
from moth_eval.own_rules import index_rule
from moth_eval.scan import Cost, Rule, Scan, Status, Trigger
from moth_eval.subject import Subject

PAPER = Schedule(
    steps=31_000,
    success_rate=0.99,
    initial_cost=1e-3,
    warm_up=True,
    patience=5,
    up=2.0,
    down=2.0**1.5,
    steps_per_move=31,
    smoothing=0.0,
    check_every=31,
    stop_patience=25,
    stop_tolerance=0.0,
)
"""The published example for GTSRB: 1000 moves of 31 batches of 32, one move of the cost each."""

CUT = 2.0
"""Published threshold on the index."""

LEAST_PIXELS = 0.01
"""Smaller triggers than this are all the same."""

SCHEDULES = {"fast": presets.UNIVERSAL, "paper": PAPER}

STATISTICS = ("index", "log-index", "size")


@dataclass(frozen=True, kw_only=True)
class NeuralCleanse:
    """Inverts a trigger for every class and scores how much the smallest one stands out.

    The score is the anomaly index of the smallest trigger: robust standard deviations below the
    median size. It is continuous; the published cut of 2 comes with its simulated false-alarm
    rate for the number of classes at hand.

    Source: Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural
    Networks", IEEE S&P 2019, and its published code (github.com/bolunwang/backdoor).

    Differs from the reference:
        * images of the target class take no part in its inversion: they would count as flipped;
        * a trigger counts only if its success rate holds on all images; a class without such a
          trigger enters the comparison with the largest possible size, never with a small one,
          and if that is half of the classes there is no score;
        * the trigger lives in `[0, 1]` image space whatever the network's preprocessing;
        * the default schedule is our own; `preset="paper"` is the published one.

    Attributes:
        preset: `fast` (ours) or `paper` (the published schedule, some hundred times the work).
        label_specific: one trigger per ordered pair of classes instead of one per target class.
        success_rate: fraction of images that a trigger must flip, in `(0, 1]` (published: 0.99).
        max_images: clean images used at most, spread over the classes.
        statistic: what is scored. `index` is the published anomaly index. `log-index` (ours) is
            the same of the sizes' logarithms, with a cut of ours. `size` (ours) is the logarithm of
            the number of pixels over the smallest valid size: it compares models, not classes of
            one model, needs no spread, which a few classes do not give, and has no cut.
        cut: published threshold on the index.
    """

    preset: Literal["fast", "paper"] = "fast"
    label_specific: bool = False
    success_rate: float = 0.99
    max_images: int = 200
    statistic: Literal["index", "log-index", "size"] = "index"
    cut: float = CUT

    def __post_init__(self) -> None:
        if self.preset not in SCHEDULES:
            raise ScanError(f"preset must be one of {', '.join(SCHEDULES)}, got {self.preset!r}")
        if not 0 < self.success_rate <= 1 or not math.isfinite(self.cut):
            raise ScanError(
                "success_rate must be in (0, 1] and cut finite, got "
                f"{self.success_rate} and {self.cut}"
            )
        if self.statistic not in STATISTICS:
            raise ScanError(
                f"statistic must be one of {', '.join(STATISTICS)}, got {self.statistic!r}"
            )
        if self.max_images < 1:
            raise ScanError(f"max_images must be at least 1, got {self.max_images}")

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
        chosen = spread(subject.examples.labels.cpu(), self.max_images, generator)
        images = subject.examples.images[chosen.to(subject.examples.images.device)]
        problems = problems_of(
            subject.examples.labels.cpu()[chosen],
            subject.num_classes,
            generator,
            pairs=self.label_specific,
        )
        network = FrozenNetwork(subject)
        schedule = replace(SCHEDULES[self.preset], success_rate=self.success_rate)
        inversions = invert(network, images, problems, schedule)
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        return replace(self.judge(inversions, subject.image_shape), cost=cost)

    def judge(self, inversions: Sequence[Inversion], shape: tuple[int, int, int]) -> Scan:
        """Score and evidence from finished inversions on images `(C, H, W)`.

        Source: Neural Cleanse, section V-A; see the class for what differs.
        """
        triggers = tuple(map(trigger_of, inversions))
        if self.statistic == "size":
            return self._by_size(triggers, shape)
        return self._by_index(triggers, shape)

    def _by_size(self, triggers: tuple[Trigger, ...], shape: tuple[int, int, int]) -> Scan:
        valid = [trigger for trigger in triggers if trigger.valid]
        remark = remark_on(triggers, self.success_rate)
        if not valid:
            return Scan(status=Status.INCONCLUSIVE, reason=remark, triggers=triggers)
        suspect = min(valid, key=lambda trigger: trigger.size)
        return Scan(
            status=Status.SCORED,
            # A trigger of no pixel at all would be a model that answers one class to everything.
            score=math.log(shape[1] * shape[2] / max(suspect.size, LEAST_PIXELS)),
            reason=remark,
            target=suspect.target,
            source=suspect.source,
            triggers=triggers,
        )

    def _rule(self, sizes: int, missing: int) -> Rule:
        # Triggers that do not work count as one size, which no simulated model has twice.
        known = not missing
        if self.statistic == "log-index":
            return index_rule(sizes, "logarithms of trigger sizes", known=known)
        return Rule(
            name="anomaly index",
            threshold=self.cut,
            false_alarm_rate=false_alarm_rate(sizes, self.cut) if known else None,
            source="Neural Cleanse (2019); false alarms simulated for "
            f"{sizes} independent normal trigger sizes",
            origin="published" if self.cut == CUT else "given",
        )

    def _by_index(self, triggers: tuple[Trigger, ...], shape: tuple[int, int, int]) -> Scan:
        logarithms = self.statistic == "log-index"
        missing, remark = sum(not t.valid for t in triggers), remark_on(triggers, self.success_rate)
        if len(triggers) < LEAST_CLASSES:
            return Scan(
                status=Status.INCONCLUSIVE, reason=no_index(len(triggers)), triggers=triggers
            )
        rule = self._rule(len(triggers), missing)
        if 2 * missing >= len(triggers):
            return Scan(
                status=Status.INCONCLUSIVE,
                reason=f"{remark}: no median of sizes to compare with",
                triggers=triggers,
                rule=rule,
            )
        ceiling = float(shape[1] * shape[2])
        sizes = np.array([t.size if t.valid else ceiling for t in triggers])
        indices = anomaly_indices(np.log1p(sizes) if logarithms else sizes)
        suspect = triggers[int(np.argmax(indices))]
        return Scan(
            status=Status.SCORED,
            score=float(indices.max()),
            reason=f"{remark} and count as the largest size" if missing else "",
            target=suspect.target,
            source=suspect.source,
            triggers=triggers,
            rule=rule,
        )
