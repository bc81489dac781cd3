"""CSO: Neural Cleanse whose triggers may not use what a class looks like by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from moth_eval.anomaly import LEAST_CLASSES, LEAST_LOG_SPREAD, anomaly_indices, no_index
from moth_eval.choosing import classes_left_out, spread
from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.inversion import presets
from moth_eval.inversion.engine import invert
from moth_eval.inversion.problems import Inversion
from moth_eval.inversion.subspace import SubspaceNetwork
from moth_eval.inverted import SIZE_HAS_NO_RULE, problems_of, remark_on, trigger_of
from moth_eval.own_rules import index_rule
from moth_eval.scan import Cost, Evidence, Scan, Status
from moth_eval.subject import Examples, Subject

Statistic = Literal["log-index", "size"]


@dataclass(frozen=True, kw_only=True)
class ClassSubspace:
    """Inverts a trigger per class that moves features elsewhere than towards the class's own.

    A natural trigger makes images look like the class to the network: features move the way from
    the other classes to it. A planted one has a way of its own. With a price on the natural way,
    the triggers of clean classes grow or cease to work, and that of a backdoor's target does not.

    Source: "class-subspace orthogonalisation" as a plug-in for Neural Cleanse, arXiv 2512.08129, of
    which only the abstract was at hand, and no code.

    Differs from the reference:
        * all that the abstract leaves open is ours: features are what the last layer reads, the
          natural direction of a class is the difference of mean features, and the price is on the
          square of a positive cosine with it;
        * classes without images have no direction, and are not compared;
        * inversion is our Neural Cleanse's, and the cut on the index is ours.

    Attributes:
        weight: price of features that lie wholly in the class's direction; 0: plain inversion.
        success_rate: fraction of images that a trigger must flip, in `(0, 1]`.
        max_images: clean images used at most, spread over the classes; one of each in any case.
        statistic: what is scored. `log-index` is the anomaly index of the logarithms of the trigger
            sizes, whose spread is `LEAST_LOG_SPREAD` at least. `size` is the logarithm of the
            number of pixels over the smallest size: it compares models of one image size.
    """

    weight: float = 10.0
    success_rate: float = 0.99
    max_images: int = 200
    statistic: Statistic = "log-index"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight < 0:
            raise ScanError(f"weight must be finite and at least 0, got {self.weight}")
        if not 0 < self.success_rate <= 1 or self.max_images < 1:
            raise ScanError(
                "success_rate must be in (0, 1] and max_images at least 1, got "
                f"{self.success_rate} and {self.max_images}"
            )
        if self.statistic not in get_args(Statistic):
            raise ScanError(
                f"statistic must be one of {', '.join(get_args(Statistic))}, got {self.statistic!r}"
            )

    def without_rule(self) -> str:
        """Why these settings give no cut; empty if they give one."""
        return SIZE_HAS_NO_RULE if self.statistic == "size" else ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        labels = subject.examples.labels.cpu()
        chosen = spread(labels, max(self.max_images, subject.num_classes), generator)
        rows = chosen.to(subject.examples.images.device)
        present = set(labels[chosen].tolist())
        if len(present) < (LEAST_CLASSES if self.statistic != "size" else 2):
            return Scan(status=Status.INCONCLUSIVE, reason=_too_few(self.statistic, len(present)))
        layer = OpenNetwork(subject, images_at_once=1).last_weighted()
        if layer is None:
            return Scan(status=Status.INCONCLUSIVE, reason="the network has no layer with weights")
        few = Examples(images=subject.examples.images[rows], labels=subject.examples.labels[rows])
        network = SubspaceNetwork(replace(subject, examples=few), layer, self.weight)
        problems = problems_of(labels[chosen], subject.num_classes, generator, pairs=False)
        problems = [problem for problem in problems if problem.target in present]
        schedule = replace(presets.UNIVERSAL, success_rate=self.success_rate)
        found = invert(network, few.images, problems, schedule)
        leans = [
            network.lean(
                _stamped(one, few.images[one.problem.images.to(network.device)]), one.problem.target
            )
            for one in found
        ]
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        scan = self.judge(found, leans, subject.image_shape)
        left_out = classes_left_out(len(present), subject.num_classes)
        return replace(scan, reason="; ".join(filter(None, (left_out, scan.reason))), cost=cost)

    def judge(
        self, found: Sequence[Inversion], leans: Sequence[float], shape: tuple[int, int, int]
    ) -> Scan:
        """Score and evidence from finished inversions on images `(C, H, W)`.

        A class without a valid trigger enters with the whole image, as the method means it to be.

        Args:
            found: one per class that is compared.
            leans: mean cosine of each trigger's features with the class's direction.
            shape: of the images.
        """
        triggers = tuple(map(trigger_of, found))
        missing = sum(not trigger.valid for trigger in triggers)
        remark = remark_on(triggers, self.success_rate)
        if missing == len(triggers):
            return Scan(status=Status.INCONCLUSIVE, reason=remark, triggers=triggers)
        pixels = float(shape[1] * shape[2])
        sizes = np.array([max(t.size, 0.01) if t.valid else pixels for t in triggers])
        suspect = triggers[int(sizes.argmin())].target
        score, rule = np.log(pixels / sizes.min()), None
        if self.statistic == "log-index":
            score = anomaly_indices(np.log1p(sizes), least=LEAST_LOG_SPREAD).max()
            # Where most classes count as the whole image, their sizes have no spread to simulate.
            known = 2 * missing < len(triggers)
            rule = index_rule(len(sizes), "logarithms of trigger sizes", known=known)
        what = "cosine of a trigger's features with the class's own direction"
        order = np.argsort(sizes, kind="stable")
        return Scan(
            status=Status.SCORED,
            score=float(score),
            reason=f"{remark} and count as the whole image" if missing else "",
            target=suspect,
            triggers=triggers,
            evidence=tuple(
                Evidence(what=what, value=float(leans[t]), target=triggers[t].target)
                for t in order.tolist()
            ),
            rule=rule,
        )


def _too_few(statistic: Statistic, classes: int) -> str:
    if statistic == "size":
        return f"expected images of at least two classes, got {classes}"
    return no_index(classes)


def _stamped(found: Inversion, images: torch.Tensor) -> torch.Tensor:
    mask, pattern = found.mask.to(images.device), found.pattern.to(images.device)
    return torch.lerp(images, pattern, mask)
