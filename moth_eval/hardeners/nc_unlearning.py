"""Unlearning with Neural Cleanse: what looks like a trigger is stamped on true labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ..anomaly import LEAST_CLASSES, Sizes, anomaly_indices, no_index
from ..errors import HardeningError
from ..hardening import SILENT, Hardening, HardeningStatus, Journal
from ..inversion.engine import invert
from ..inversion.frozen import PRECISIONS, FrozenNetwork, Precision
from ..inversion.presets import UNIVERSAL
from ..inversion.problems import Inversion, universal_problems
from ..subject import Examples, Subject
from .epochs import batch_sizes
from .fine_tuning import CLEAN
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in, require_word
from .stamping import Stamp, Tally, stamped_step
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class NCUnlearning:
    """Finds the classes whose smallest trigger stands out, and trains their triggers away.

    Detection and repair are told apart: a network of which no class is flagged comes back as it
    was, with the reason said and the index among the figures. A target that is given is not looked
    for; one that comes from the truth makes the result an oracle's.

    Source: Wang et al., "Neural Cleanse", IEEE S&P 2019, section VI-B: a fifth of the images
    stamped, index above 2; learning rate and batch of its published code. One epoch there; 100 in
    BackdoorBench.

    Differs from the reference: the inversion is our own engine's; all flagged classes are unlearned
    at once.

    Attributes:
        epochs: passes over the images, each class alike.
        batch: images per optimiser step.
        stamped_share: fraction of them that is stamped, in `(0, 1)`, at least one image; flagged
            triggers share them, and take turns where they are more.
        cut: anomaly index above which a class is flagged.
        target: class to unlearn without a search; None: the flagged ones.
        inversion_images: images that triggers are inverted on.
        success_rate: fraction of images that a trigger must flip, in `(0, 1]`.
        precision: of the inversion's gradients.
        recipe: how the network is trained.
    """

    epochs: int = 10
    batch: int = 128
    stamped_share: float = 0.2
    cut: float = 2.0
    target: int | None = None
    inversion_images: int = 200
    success_rate: float = 0.99
    precision: Precision = "float32"
    recipe: Recipe = field(default_factory=lambda: CLEAN)

    def __post_init__(self) -> None:
        require_at_least(1, epochs=self.epochs, inversion_images=self.inversion_images)
        require_at_least(2, batch=self.batch)
        require_in("[0, inf)", target=self.target)
        require_in("(0, 1)", stamped_share=self.stamped_share)
        require_in("(-inf, inf)", cut=self.cut)
        require_in("(0, 1]", success_rate=self.success_rate)
        require_word(PRECISIONS, precision=self.precision)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network from which flagged triggers were unlearned.

        Returns:
            Figures: `flagged` classes, `invalid` triggers, and where there was a search, the
            largest `anomaly_index` and its class, `suspect`; no index, and no class is flagged,
            where half of the triggers or more are not valid. `inapplicable` where a search would
            have too few classes to compare.

        Raises:
            HardeningError: there are no images to train on, or of one class alone, or the given
                target does not exist or has no trigger.
        """
        if self.target is not None and not 0 <= self.target < subject.num_classes:
            raise HardeningError(
                f"target {self.target} is no class of {subject.name}: expected 0 to "
                f"{subject.num_classes - 1}"
            )
        if self.target is None and subject.num_classes < LEAST_CLASSES:
            return Hardening(
                status=HardeningStatus.INAPPLICABLE,
                reason=no_index(subject.num_classes, instead="name the target"),
            )
        rounds = PlainRounds(subject, data, self.recipe, generator, journal)
        present = rounds.batches.present
        if len(present) == 1 and self.target in (None, present[0]):
            raise HardeningError(
                f"{subject.name}: expected images of a second class, which a trigger could lead "
                f"away, got those of class {present[0]} alone"
            )
        if rounds.fresh:
            self._search(subject, rounds)
        flagged = rounds.extra["targets"].tolist()
        hardened = rounds.run(
            self.epochs if flagged else 0,
            lambda done, tally: self._pass(rounds, tally, len(data), done),
            phase="unlearning",
            pairs=[(-1, target) for target in flagged],
        )
        invalid = int(rounds.extra["invalid"])
        figures = {"flagged": float(len(flagged)), "invalid": float(invalid)}
        reason = "" if flagged else f"no class was flagged at {self.cut:g}: left as it was"
        index, suspect = rounds.extra["index"].tolist()
        if suspect >= 0:
            figures |= {"anomaly_index": index, "suspect": suspect}
        elif self.target is None:
            reason = (
                f"{invalid} of {subject.num_classes} triggers are not valid, so there is no median "
                "of sizes to compare with: left as it was"
            )
        return replace(hardened, figures=figures, reason=reason)

    def _pass(self, rounds: PlainRounds, tally: Tally, images: int, done: float) -> None:
        kept = rounds.extra
        stamps = [
            Stamp(source=None, target=int(target), mask=mask, pattern=pattern)
            for target, mask, pattern in zip(
                kept["targets"], kept["masks"], kept["patterns"], strict=True
            )
        ]
        sizes = batch_sizes(images, self.batch)
        for step, size in enumerate(sizes):
            count = min(max(1, round(size * self.stamped_share)), max(1, size - 1))
            stamped_step(
                rounds.trainer, rounds.batches, stamps, tally,
                stamped=spread(count, len(stamps), turn=rounds.trainer.steps),
                clean=max(1, size - count),
                done=done + step / len(sizes) / self.epochs,
                recipe=self.recipe, generator=rounds.generator,
            )  # fmt: skip

    def _search(self, subject: Subject, rounds: PlainRounds) -> None:
        """Put the flagged triggers, and what flagged them, into what the rounds keep."""
        targets = list(range(subject.num_classes)) if self.target is None else [self.target]
        found = self._inverted(subject, rounds, targets)
        index, suspect, flagged = math.nan, -1, [n for n, one in enumerate(found) if one.valid]
        if self.target is None and 2 * len(flagged) > len(found):
            indices = self._indices(found, subject)
            suspect = int(np.argmax(indices))
            index = float(indices[suspect])
            flagged = [n for n in flagged if indices[n] > self.cut]
        elif self.target is None:
            flagged = []
        elif not flagged:
            raise HardeningError(
                f"{subject.name}: no trigger of success rate {self.success_rate:g} to class "
                f"{self.target} was found; lower success_rate"
            )
        empty = torch.zeros((0, 1, *subject.image_shape[1:]))
        masks = [found[n].mask for n in flagged]
        patterns = [found[n].pattern for n in flagged]
        rounds.extra = {
            "targets": torch.tensor([targets[n] for n in flagged], dtype=torch.int64),
            "masks": torch.stack(masks) if masks else empty,
            "patterns": torch.stack(patterns)
            if patterns
            else empty.expand(0, *subject.image_shape).clone(),
            "index": torch.tensor([index, suspect], dtype=torch.float64),
            "invalid": torch.tensor(sum(not one.valid for one in found)),
        }

    def _inverted(
        self, subject: Subject, rounds: PlainRounds, targets: list[int]
    ) -> list[Inversion]:
        chosen = rounds.batches.balanced(self.inversion_images)
        images, labels = rounds.batches.images(chosen), rounds.batches.labels(chosen).cpu()
        seeds = torch.randint(2**62, (len(targets),), generator=rounds.generator).tolist()
        network = FrozenNetwork(subject, precision=self.precision)
        schedule = replace(UNIVERSAL, success_rate=self.success_rate)
        found = invert(network, images, universal_problems(labels, targets, seeds), schedule)
        rounds.passes[0] += network.forward_passes
        rounds.passes[1] += network.backward_passes
        return list(found)

    @staticmethod
    def _indices(found: list[Inversion], subject: Subject) -> Sizes:
        """Anomaly index of every class; one without a valid trigger has the largest size."""
        _, height, width = subject.image_shape
        return anomaly_indices(
            np.array([one.size if one.valid else height * width for one in found])
        )


def spread(count: int, triggers: int, *, turn: int) -> list[int]:
    """How many of `count` images carry each trigger: equal up to one, and in turns which have it.

    Args:
        count: stamped images of a step.
        triggers: how many there are.
        turn: number of the step.
    """
    least, more = divmod(count, triggers)
    return [least + ((place - turn * more) % triggers < more) for place in range(triggers)]
