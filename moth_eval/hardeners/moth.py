"""MOTH: push classes apart by training, pair by pair, on the smallest triggers between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import HardeningError
from ..hardening import SILENT, Hardening, Journal
from ..inversion.frozen import PRECISIONS, Precision
from ..robustness import PGD
from ..subject import Examples, Subject
from .ranges import require_at_least, require_in, require_word
from .scheduling import SCHEDULINGS, Scheduling
from .sitting import Sitting
from .trainer import Recipe


@dataclass(frozen=True, kw_only=True)
class Moth:
    """Class distance hardening.

    Warm-up: a universal trigger per target class is inverted and trained on; it is also where the
    pairs of that target start from. Then, round after round, pairs of classes are chosen, the
    triggers of both their directions are inverted a little further on the network as it now is,
    stamped on images of their source class, and trained on with the true labels.

    Source: Tao et al., "Model Orthogonalization: Class Distance Hardening in Neural Networks for
    Better Security", IEEE S&P 2022, and its published code (github.com/Gwinhen/MOTH).

    Differs from the reference (`PAPER` keeps its figures where they have a meaning here):
        * several pairs are inverted and trained on at once, as rows of one batch;
        * every direction of a pair has its own trigger, cost and record, whichever class comes
          first; nothing is shared by accident;
        * batches hold an equal share of every class, and a stated number of stamped images per
          direction, so that no number of classes makes a step empty;
        * a trigger that does not work is kept and grown at the next visit, is not trained on below
          `least_asr`, and never counts as a measured distance;
        * a kept trigger can grow: no pixel of it is at a place where its gradient vanishes;
        * success rates are measured on the returned trigger;
        * pairs are chosen by growth per visit (`gain`), unless `scheduling` says otherwise.

    Attributes:
        rounds: rounds after the warm-up.
        seconds: wall-clock time (s) after which no further round starts; None: no limit. Results
            then depend on the machine.
        pairs_per_round: pairs chosen per round.
        repeats: inversions and optimiser steps per round and pair.
        first_steps: inversion steps when a pair's turn comes.
        next_steps: inversion steps at the further repeats.
        fresh_steps: inversion steps of a trigger that starts at random.
        inversion_images: images of the source class that a trigger is inverted on.
        inversion_batch: of these, images per step.
        initial_cost: weight of the size where a trigger starts at random.
        success_rate: fraction of images that a trigger must flip to count, in `(0, 1]`.
        least_asr: triggers that flip less than this fraction, in `[0, 1]`, are not trained on.
        stamped: stamped images per trigger and optimiser step.
        clean: clean images per optimiser step, spread over the classes.
        symmetric: whether both directions of a pair are trained on, or one.
        scheduling: how pairs are chosen: `gain`, `paper`, `random` or `all`.
        random_share: probability that a pair is chosen at random instead (published: 0.3).
        ageing_rounds: rounds over which `paper` scheduling goes from warm-up scores to growth.
        warm_up_rounds: rounds of training on universal triggers; 0: no warm-up.
        warm_up_steps: inversion steps of the universal triggers, in the first such round.
        warm_up_success_rate: fraction of images that a universal trigger must flip to count, in
            `(0, 1]` (published: 0.99).
        warm_up_apart: whether a warm-up round takes an optimiser step per target class, half of its
            images stamped, on which the next class's trigger is inverted (published), or one step
            on the triggers of all.
        patience: inversion steps in a row that a success, or a failure, takes to move the weight
            of the size (published: 10 passes).
        up: factor by which that weight rises; it falls by `up**1.5` (published: 1.5).
        next_cost: weight of the size at the further repeats of a turn, whose first then starts at
            `initial_cost` and takes `first_steps`, as does a repeat after a failure (published:
            0.2); None: every inversion goes on at the weight where the last one stood.
        reuse: whether a pair's trigger is kept for its next visit.
        largest_share: directions whose trigger is larger than this share of the image, in `(0, 1]`,
            are not trained on (published PyTorch code: a quarter).
        adversarial: whether the clean images of every step are attacked by PGD first, for networks
            that were trained that way (the paper's second kind); stamped ones are not.
        attack: how.
        recipe: how the network is trained.
        precision: of the inversions' gradients.
    """

    rounds: int = 100
    seconds: float | None = None
    pairs_per_round: int = 5
    repeats: int = 2
    first_steps: int = 24
    next_steps: int = 8
    fresh_steps: int = 80
    inversion_images: int = 48
    inversion_batch: int = 16
    initial_cost: float = 1e-2
    success_rate: float = 0.9
    least_asr: float = 0.5
    stamped: int = 4
    clean: int = 64
    symmetric: bool = True
    scheduling: Scheduling = "gain"
    random_share: float = 0.3
    ageing_rounds: int = 30
    warm_up_rounds: int = 2
    warm_up_steps: int = 80
    warm_up_success_rate: float = 0.9
    warm_up_apart: bool = False
    patience: int = 2
    up: float = 1.3
    next_cost: float | None = None
    reuse: bool = True
    largest_share: float = 0.06
    adversarial: bool = False
    attack: PGD = field(default_factory=lambda: PGD(epsilon=8 / 255, step_size=2 / 255, steps=7))
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            learning_rate=2e-3,
            warm_up=0.1,
            largest_gradient=20.0,
            average_over=0.5,
            interpolation=0.6,
            shift=2,
            distillation=0.5,
        )
    )
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in (
                "pairs_per_round", "repeats", "first_steps", "next_steps", "fresh_steps",
                "inversion_images", "inversion_batch", "stamped", "patience",
                "ageing_rounds", "warm_up_steps",
            )
        }  # fmt: skip
        require_at_least(1, **counts)
        require_at_least(self.recipe.least_images, clean=self.clean)
        if self.rounds < 0 or self.warm_up_rounds < 0 or self.rounds + self.warm_up_rounds < 1:
            raise HardeningError(
                "expected at least one round, of warm-up or of pairs, got "
                f"{self.warm_up_rounds} and {self.rounds}"
            )
        require_word(SCHEDULINGS, scheduling=self.scheduling)
        require_word(PRECISIONS, precision=self.precision)
        require_in("[0, 1]", least_asr=self.least_asr, random_share=self.random_share)
        require_in(
            "(0, 1]", success_rate=self.success_rate, largest_share=self.largest_share,
            warm_up_success_rate=self.warm_up_success_rate,
        )  # fmt: skip
        require_in(
            "(0, inf)", seconds=self.seconds, initial_cost=self.initial_cost,
            next_cost=self.next_cost,
        )  # fmt: skip
        require_in("(1, inf)", up=self.up)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network whose classes lie further apart.

        Args:
            subject: left as it is; its examples are not looked at.
            data: clean training images; at least two classes must have some.
            generator: decides everything random.
            journal: keeps the log, and the state between sittings.

        Raises:
            HardeningError: fewer than two classes have images.
        """
        return Sitting(self, subject, data, generator, journal).run()


def moth_removal(**changes: Any) -> Moth:
    """`Moth` for removing a backdoor that is there, and `changes`.

    All of what was trained is kept, where hardening goes back to six tenths of it; more of the
    training is on universal triggers, and the network's former answers weigh more.

    Source: ours, chosen on a small VGG for CIFAR-10 with a patch backdoor.
    """
    recipe = replace(Moth().recipe, interpolation=1.0, distillation=0.9)
    settings: dict[str, Any] = {"rounds": 8, "warm_up_rounds": 16, "recipe": recipe}
    return Moth(**{**settings, **changes})


def moth_paper(**changes: Any) -> Moth:
    """`Moth` with the figures of the authors' reference code, and `changes`.

    Source: github.com/Gwinhen/MOTH (Keras), CIFAR-10 with all training images: batches of 128,
    one pair per three optimiser steps, 200 inversion passes for the first of them and 40 for the
    others over the 13 or so images of a class in a batch, one stamped image per direction (a tenth
    of those), 500 passes of 90 images for each universal trigger, learning rate 1e-3, shifts of an
    eighth of the image, and mirrored images: 10 warm-up steps and 2 passes over the data.

    Differs from the reference as `Moth` does, and in the warm-up: a universal trigger is inverted
    on `inversion_images`, a weight moves after steps, not passes of three, and other scores are
    left; also, the success rate that moves a weight is a running one.
    """
    recipe = Recipe(optimiser="sgd", learning_rate=1e-3, batch_norm="train", shift=4, flip=True)
    settings: dict[str, Any] = {
        "rounds": 257,
        "pairs_per_round": 1,
        "repeats": 3,
        "first_steps": 200,
        "next_steps": 40,
        "fresh_steps": 200,
        "inversion_images": 13,
        "inversion_batch": 13,
        "initial_cost": 1e-3,
        "least_asr": 0.9,
        "stamped": 1,
        "clean": 126,
        "scheduling": "paper",
        "ageing_rounds": 333,
        "warm_up_rounds": 1,
        "warm_up_steps": 1500,
        "warm_up_success_rate": 0.99,
        "warm_up_apart": True,
        "patience": 10,
        "up": 1.5,
        "next_cost": 0.2,
        "largest_share": 1.0,
        "recipe": recipe,
    }
    return Moth(**{**settings, **changes})
