"""The rows that are being optimised: stacked tensors, one slice per problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .controller import CostController
from .objective import Objective, Parameters
from .problems import Problem
from .schedule import Schedule

MARGIN = 0.05
"""A running success rate this far below the wanted one is still worth a full measurement."""


FAINT = 0.03
"""Mask values below this are the first to be pruned; moved row by row by what works."""

FAINTEST = 0.3
"""No mask value above this is ever pruned."""


class ImageStream:
    """The images of one problem in random order, over and over; every pass is a new shuffle."""

    def __init__(self, problem: Problem, generator: torch.Generator) -> None:
        self._images = problem.images
        self._generator = generator
        self._left = problem.images[:0]

    def take(self, count: int) -> Tensor:
        """The next `count` indices into the pool, int64 `(count,)`."""
        parts, have = [self._left], len(self._left)
        while have < count:
            order = torch.randperm(len(self._images), generator=self._generator)
            parts.append(self._images[order])
            have += len(order)
        flat = torch.cat(parts)
        self._left = flat[count:]
        return flat[:count]

    def disturbed(self, values: Tensor, most: float) -> Tensor:
        """Values in `[0, 1]` with a uniform change of at most `most` each, cut to `[0, 1]`."""
        change = torch.rand(values.shape, generator=self._generator).mul_(2).sub_(1).mul_(most)
        return (values.detach().cpu() + change).clamp_(0, 1)


class Rows:
    """State of R rows: parameters, Adam moments, controller, averages and verified triggers.

    A trigger becomes the best one of its row as the schedule's `acceptance` has it; its success
    rate on all images of the problem is measured in any case.

    Attributes:
        problems: the R problems.
        streams: their images in random order.
        controller: their costs.
        targets: int64 `(R,)`.
        steps: float32 `(R,)`, steps taken.
        parameters, first, second: what is optimised and Adam's moments, each `(R, ...)`.
        average: the running average of the parameters.
        faint: float32 `(R,)`, the thresholds below which the average is pruned.
        best, best_size: verified triggers and their sizes (infinite where there is none).
        best_rates: their success rates, as they were measured: in float32, 0.9 would be below 0.9.
        stalled: float32 `(R,)`, checks since the best one last shrank noticeably.
    """

    VECTORS = ("targets", "steps", "faint", "best_size", "stalled")
    STACKS = ("parameters", "first", "second", "average", "best")

    def __init__(
        self,
        problems: Sequence[Problem],
        objective: Objective,
        schedule: Schedule,
        shape: tuple[int, int, int],
        device: torch.device,
    ) -> None:
        """Start rows for these problems on images `(C, H, W)`."""
        self.problems = list(problems)
        generators = [torch.Generator().manual_seed(p.seed) for p in problems]
        starts = [
            objective.initial(shape, g) if p.start is None else objective.resumed(*p.start)
            for p, g in zip(problems, generators, strict=True)
        ]
        self.streams = [ImageStream(p, g) for p, g in zip(problems, generators, strict=True)]
        self.parameters: Parameters = tuple(
            torch.stack(parts).to(device) for parts in zip(*starts, strict=True)
        )
        self.first: Parameters = tuple(torch.zeros_like(p) for p in self.parameters)
        self.second: Parameters = tuple(torch.zeros_like(p) for p in self.parameters)
        self.average = self.best = self.parameters
        count = len(problems)
        self.targets = torch.tensor([p.target for p in problems], device=device)
        self.steps = torch.zeros(count, device=device)
        self.stalled = torch.zeros(count, device=device)
        self.best_rates = [0.0] * count
        self.faint = torch.full((count,), FAINT, device=device)
        self.best_size = torch.full((count,), torch.inf, device=device)
        self.controller = CostController(count, schedule, device)
        for row, problem in enumerate(problems):
            if problem.initial_cost is not None:
                self.controller.cost[row] = problem.initial_cost

    def __len__(self) -> int:
        return len(self.problems)

    def draw(self, count: int) -> Tensor:
        """Indices into the pool for the next images, int64 `(R, count)`."""
        return torch.stack([stream.take(count) for stream in self.streams])

    def adam(self, gradients: Parameters, rate: Tensor, betas: tuple[float, float]) -> None:
        """One step of Adam in which every row counts its own steps.

        Source: Kingma and Ba, ICLR 2015; epsilon 1e-8.

        Args:
            gradients: one `(R, ...)` tensor per parameter.
            rate: learning rates `(R,)`.
            betas: decay of the two moments.
        """
        self.steps = self.steps + 1
        one, two = betas
        updated = []
        for index, gradient in enumerate(gradients):
            column = (-1, *([1] * (gradient.ndim - 1)))
            first = self.first[index].lerp_(gradient, 1 - one)
            second = self.second[index].mul_(two).addcmul_(gradient, gradient, value=1 - two)
            scale = (rate / (1 - one**self.steps)).view(column)
            root = (second / (1 - two**self.steps).view(column)).sqrt_().add_(1e-8)
            updated.append(self.parameters[index] - scale * first / root)
        self.parameters = tuple(updated)

    def follow(self, decay: float) -> None:
        """Move the running average towards the present parameters."""
        self.average = tuple(
            old.lerp(new, 1 - decay) for old, new in zip(self.average, self.parameters, strict=True)
        )

    def settle(
        self,
        schedule: Schedule,
        objective: Objective,
        measure: Callable[[Problem, Parameters, float], float],
    ) -> Tensor:
        """Verify what was found since the last check; bool `(R,)` on the host: finished rows.

        Args:
            schedule: which triggers are tried, when one is valid and when a row has stalled.
            objective: the parametrisation.
            measure: success rate of a trigger (parameters `(1, ...)`) on all images of a problem;
                one that cannot reach the given rate may come out as any rate below it.
        """
        before = self.best_size
        moving = schedule.acceptance == "moving"
        wanted = 0.0 if moving else schedule.success_rate
        likely = self.controller.rate >= schedule.success_rate - (0.0 if moving else MARGIN)
        for stack, pruned in self._attempts(schedule, objective):
            sizes = objective.size(stack)
            tried = likely & (sizes < self.best_size)
            for row in tried.nonzero().flatten().tolist():
                rate = measure(self.problems[row], tuple(p[row : row + 1] for p in stack), wanted)
                works = rate >= wanted
                if works:
                    self.accept(row, stack, sizes, rate)
                    self._disturb(row, schedule.disturbance, objective)
                if pruned:
                    self.faint[row] = min(FAINTEST, float(self.faint[row]) * 1.5 ** (2 * works - 1))
        shrank = self.best_size < before * (1 - schedule.stop_tolerance)
        found = torch.isfinite(self.best_size)
        self.stalled = torch.where(found & ~shrank, self.stalled + 1, 0.0)
        stalled = (self.stalled >= schedule.stop_patience) & self.controller.settled
        return (stalled | (self.steps >= schedule.steps)).cpu()

    def _attempts(
        self, schedule: Schedule, objective: Objective
    ) -> Iterator[tuple[Parameters, bool]]:
        """Triggers that are worth a measurement, and whether each is a pruned one."""
        if schedule.prune:
            yield objective.prune(self.average, self.faint), True
        if schedule.average:
            yield self.average, False
        yield self.parameters, False

    def accept(self, row: int, stack: Parameters, sizes: Tensor, rate: float) -> None:
        """Make one row of a stack its best trigger, with its measured success rate."""
        chosen = self._only(row)
        self.best = _choose(chosen, stack, self.best)
        self.best_size = torch.where(chosen, sizes, self.best_size)
        self.best_rates[row] = rate

    def _only(self, row: int) -> Tensor:
        """Bool `(R,)`: true for this row alone."""
        return torch.arange(len(self), device=self.steps.device) == row

    def _disturb(self, row: int, most: float, objective: Objective) -> None:
        """Add a random change of at most `most` to every element of one row's mask and pattern."""
        if not most:
            return
        parts = objective.render(tuple(part[row : row + 1] for part in self.parameters))
        changed = [self.streams[row].disturbed(part[0], most) for part in parts]
        fresh = objective.resumed(changed[0], changed[1])
        stack = tuple(f[None].to(p) for f, p in zip(fresh, self.parameters, strict=True))
        self.parameters = _choose(self._only(row), stack, self.parameters)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(rows, dtype=torch.int64, device=self.steps.device)
        self.problems = [self.problems[row] for row in rows]
        self.streams = [self.streams[row] for row in rows]
        self.best_rates = [self.best_rates[row] for row in rows]
        for name in self.VECTORS:
            setattr(self, name, getattr(self, name)[index])
        for name in self.STACKS:
            setattr(self, name, tuple(part[index] for part in getattr(self, name)))
        self.controller.keep(index)

    def admit(self, other: Rows) -> None:
        """Append the rows of another state."""
        self.problems += other.problems
        self.streams += other.streams
        self.best_rates += other.best_rates
        for name in self.VECTORS:
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        for name in self.STACKS:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, tuple(torch.cat(pair) for pair in pairs))
        self.controller.admit(other.controller)


def _choose(rows: Tensor, yes: Parameters, no: Parameters) -> Parameters:
    """Per row `yes` or `no`; never a view of either."""
    return tuple(
        torch.where(rows.view(-1, *([1] * (a.ndim - 1))), a, b)
        for a, b in zip(yes, no, strict=True)
    )
