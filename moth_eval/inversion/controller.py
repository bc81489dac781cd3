"""The weight of the size term, one per row, moved without asking the host."""

from __future__ import annotations

import torch
from torch import Tensor

from .schedule import Schedule


class CostController:
    """Neural Cleanse's controller for many rows at once.

    Source: Neural Cleanse (Wang et al., IEEE S&P 2019) and its published code: the weight rises by
    `up` after `patience` successes in a row and falls by `down` after as many failures; at 0 it is
    set to `initial_cost` after `patience` successes.

    Attributes:
        cost: float32 `(R,)`, the present weights.
        rate: float32 `(R,)`, the running success rates.
        moved: bool `(R,)`, whether the last step completed a move of the controller.
    """

    STATE = ("cost", "rate", "moved", "_seen", "_sum", "_up", "_down", "_raised", "_lowered")

    def __init__(self, rows: int, schedule: Schedule, device: torch.device) -> None:
        zeros = torch.zeros(rows, device=device)
        self._schedule = schedule
        self.cost = zeros if schedule.warm_up else zeros + schedule.initial_cost
        self.rate = zeros.clone()
        self.moved = torch.zeros(rows, dtype=torch.bool, device=device)
        self._seen, self._sum = zeros.clone(), zeros.clone()
        self._up, self._down = zeros.clone(), zeros.clone()
        self._raised, self._lowered = self.moved.clone(), self.moved.clone()

    @property
    def settled(self) -> Tensor:
        """Bool `(R,)`: rows whose cost has gone both up and down, so that it squeezes."""
        return self._raised & self._lowered

    def observe(self, success: Tensor) -> None:
        """Take in the success rates `(R,)` of one step, and move where a move is complete."""
        schedule = self._schedule
        self._sum = self._sum + success
        self._seen = self._seen + 1
        self.moved = self._seen % schedule.steps_per_move == 0
        mean = self._sum / schedule.steps_per_move
        first = self._seen == schedule.steps_per_move
        share = torch.where(first, 0.0, schedule.smoothing)
        self.rate = torch.where(self.moved, share * self.rate + (1 - share) * mean, self.rate)
        self._sum = torch.where(self.moved, 0.0, self._sum)
        self._move()

    def _move(self) -> None:
        schedule = self._schedule
        works = self.rate >= schedule.success_rate
        self._up = torch.where(self.moved, torch.where(works, self._up + 1, 0.0), self._up)
        self._down = torch.where(self.moved, torch.where(works, 0.0, self._down + 1), self._down)
        raise_ = self.moved & (self._up >= schedule.patience)
        lower = self.moved & (self._down >= schedule.patience)
        was_on = self.cost > 0
        raised = torch.where(~was_on, schedule.initial_cost, self.cost * schedule.up)
        cost = torch.where(raise_, raised, self.cost)
        self.cost = torch.where(lower, cost / schedule.down, cost)
        self._up = torch.where(raise_, 0.0, self._up)
        self._down = torch.where(lower, 0.0, self._down)
        # Switching the cost on starts the record anew, as in the published code.
        switched_on = raise_ & ~was_on
        self._raised = (self._raised | (raise_ & was_on)) & ~switched_on
        self._lowered = (self._lowered | (lower & was_on)) & ~switched_on

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these `(R',)` indices."""
        for name in self.STATE:
            setattr(self, name, getattr(self, name)[rows])

    def admit(self, other: CostController) -> None:
        """Append the rows of another controller of the same schedule."""
        for name in self.STATE:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
