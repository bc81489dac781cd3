"""How long, how fast, and how hard the trigger is squeezed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ScanError

Acceptance = Literal["measured", "moving"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Hyper-parameters of one inversion; the same for all rows of a run.

    The weight ("cost") of the size term moves by a controller: after `patience` moves in a row
    with the success rate reached it is multiplied by `up`, after as many without by `1 / down`.
    With `warm_up` it starts at 0 and is switched on only when a working trigger exists.

    Attributes:
        steps: optimisation steps at most.
        batch_size: images per step and row.
        last_batch: images of the last step of every move, whose success rate counts like that of
            the others; None: `batch_size`.
        learning_rate: of Adam.
        final_learning_rate: reached by a cosine over the steps; equal to `learning_rate`: constant.
        betas: of Adam.
        soft_share: share of the loss, in `[0, 1)`, that is one minus the probability of the target
            class, a soft count of images that are not flipped; the rest is cross-entropy, which
            grows without bound on the few images that a valid trigger may leave.
        success_rate: fraction of images in `[0, 1]` that a trigger must flip to be valid.
        acceptance: when a trigger counts as valid. `measured`: its success rate is measured on all
            images at every check. `moving`: the mean success rate of the steps that led to it is
            taken for its own, as published codes do. What is returned is measured in either case.
        disturbance: largest random change of every element of mask and pattern after a trigger has
            become the best one; 0: none.
        initial_cost: weight of the size when it is switched on.
        warm_up: whether the weight starts at 0.
        patience: moves in a row before the weight changes.
        up: factor on the weight when the trigger works.
        down: divisor of the weight when it does not.
        steps_per_move: steps whose mean success rate makes one move of the controller.
        smoothing: share of the previous success rate in the running one; 0 for none.
        average: decay per step of a running average of the trigger, which is tried at every check
            beside the present one; 0 for none. Averaging takes out the noise of small batches.
        prune: whether the average is also tried without the faint rest of its mask, at a threshold
            per row that rises while the trigger keeps working and falls when it does not.
        trim: whether the mask of the trigger that is returned is scaled down as far as its measured
            success rate holds.
        check_every: steps between two looks at the rows: verification of candidates, early stop.
        stop_patience: checks without improvement after which a row with a valid trigger leaves.
        stop_tolerance: relative shrinking that counts as an improvement.
    """

    steps: int
    batch_size: int = 32
    last_batch: int | None = None
    learning_rate: float = 0.1
    final_learning_rate: float = 0.1
    betas: tuple[float, float] = (0.5, 0.9)
    soft_share: float = 0.0
    success_rate: float = 0.99
    acceptance: Acceptance = "measured"
    disturbance: float = 0.0
    initial_cost: float = 1e-3
    warm_up: bool = True
    patience: int = 5
    up: float = 1.5
    down: float = 1.5**1.5
    steps_per_move: int = 1
    smoothing: float = 0.8
    average: float = 0.0
    prune: bool = False
    trim: bool = False
    check_every: int = 25
    stop_patience: int = 4
    stop_tolerance: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.check_every < 1 or self.steps_per_move < 1:
            raise ScanError(
                "steps, batch_size, check_every and steps_per_move must be at least 1, got "
                f"{self.steps}, {self.batch_size}, {self.check_every}, {self.steps_per_move}"
            )
        if self.acceptance not in ("measured", "moving"):
            raise ScanError(f"acceptance must be measured or moving, got {self.acceptance!r}")
        moves = self.check_every == self.steps_per_move
        if self.acceptance == "moving" and (self.average or self.smoothing or not moves):
            raise ScanError(
                "acceptance moving goes by the moves of the cost: expected average 0, smoothing 0 "
                f"and check_every equal to steps_per_move, got {self.average}, {self.smoothing}, "
                f"{self.check_every} and {self.steps_per_move}"
            )
        if self.last_batch is not None and not (
            1 <= self.last_batch <= self.batch_size and not self.check_every % self.steps_per_move
        ):
            raise ScanError(
                "expected last_batch between 1 and batch_size and check_every a multiple of "
                f"steps_per_move, got {self.last_batch}, {self.batch_size}, {self.check_every} and "
                f"{self.steps_per_move}"
            )
        if not 0 <= self.soft_share < 1:
            raise ScanError(f"soft_share must be in [0, 1), got {self.soft_share}")
        if not 0 <= self.disturbance < 1:
            raise ScanError(f"disturbance must be in [0, 1), got {self.disturbance}")
        if not 0 <= self.average < 1 or (self.prune and not self.average):
            raise ScanError(
                f"average must be in [0, 1), and above 0 where prune is on, got {self.average}"
            )
        if not 0 < self.success_rate <= 1:
            raise ScanError(f"success_rate must be in (0, 1], got {self.success_rate}")

    @property
    def batches(self) -> list[int]:
        """Images per row of each step from one check to the next."""
        last = self.last_batch or self.batch_size
        return [
            self.batch_size if (step + 1) % self.steps_per_move else last
            for step in range(self.check_every)
        ]
