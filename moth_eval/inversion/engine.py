"""The loop: many trigger inversions at once against one frozen classifier."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..log import figures
from .frozen import Frozen
from .memory import CPU_SHARE_BYTES
from .objective import MaskAndPattern, Objective, Parameters
from .problems import Inversion, Problem
from .rows import Rows
from .schedule import Schedule
from .verifier import Verifier

LOG = logging.getLogger(__name__)

TENSORS_PER_ROW = 12
"""Copies of a row's parameters that are alive at once: Adam, averages, gradients, scratch."""


WEAKEST = 0.7
"""No trigger is scaled below this share of its strength when it is trimmed."""

TRIMMINGS = 7
"""Halvings of the search for that share."""


def invert(
    network: Frozen,
    images: Tensor,
    problems: Sequence[Problem],
    schedule: Schedule,
    *,
    objective: Objective | None = None,
    window: int | None = None,
    on_check: Callable[[Sequence[Problem], Tensor], None] | None = None,
    on_done: Callable[[int, Inversion], None] | None = None,
) -> list[Inversion]:
    """The best trigger for every problem, in the order of the problems.

    The problems are rows of stacked tensors that go through the network together. A row's result
    depends on its own problem only (up to rounding), not on the rows beside it.

    Args:
        network: the frozen classifier.
        images: the pool, float32 `(N, C, H, W)` in `[0, 1]`, on the network's device.
        problems: what to invert.
        schedule: how.
        objective: the parametrisation; mask and pattern if None.
        window: rows at a time; from the size of their state if None.
        on_check: called at every check with the problems under way and their best sizes `(R,)`.
        on_done: called with the place of a problem and its trigger as soon as its row is finished.
    """
    shape = network.image_shape
    how = objective or MaskAndPattern()
    verifier = Verifier(network, images, how)
    at_once = window or _window(shape, schedule)
    waiting = deque(enumerate(problems))
    numbers: list[int] = []
    rows: Rows | None = None
    done: dict[int, Inversion] = {}
    while waiting or rows is not None:
        fresh = [waiting.popleft() for _ in range(min(at_once - len(numbers), len(waiting)))]
        if fresh:
            added = Rows([p for _, p in fresh], how, schedule, shape, network.device)
            rows = _joined(rows, added)
            numbers += [number for number, _ in fresh]
        assert rows is not None  # noqa: S101 - the loop's condition
        finished = _advance(rows, network, images, schedule, how, verifier)
        if LOG.isEnabledFor(logging.DEBUG):
            _tell(rows, finished, len(waiting))
        if on_check is not None:
            on_check(rows.problems, rows.best_size.cpu())
        for row in finished.nonzero().flatten().tolist():
            done[numbers[row]] = _result(rows, row, verifier, how, schedule)
            if on_done is not None:
                on_done(numbers[row], done[numbers[row]])
        left = (~finished).nonzero().flatten().tolist()
        numbers = [numbers[row] for row in left]
        if len(left) < len(rows):
            rows.keep(left)
        if not left:
            rows = None
    return [done[number] for number in range(len(problems))]


def _tell(rows: Rows, finished: Tensor, waiting: int) -> None:
    sizes = rows.best_size.cpu()
    found = sizes[sizes.isfinite()]
    LOG.debug(
        "inverting",
        extra=figures(
            rows=len(rows),
            finished=int(finished.sum()),
            waiting=waiting,
            with_trigger=len(found),
            smallest=float(found.min()) if len(found) else None,
            mean=float(found.mean()) if len(found) else None,
        ),
    )


def _window(shape: tuple[int, int, int], schedule: Schedule) -> int:
    """Rows whose state and stamped images fit into the memory that the engine allows itself."""
    channels, height, width = shape
    state = 4 * TENSORS_PER_ROW * (channels + 1) * height * width
    stamped = 4 * 3 * schedule.batch_size * channels * height * width
    return max(1, CPU_SHARE_BYTES // 4 // (state + stamped))


def _joined(rows: Rows | None, added: Rows) -> Rows:
    if rows is None:
        return added
    rows.admit(added)
    return rows


def _advance(
    rows: Rows,
    network: Frozen,
    images: Tensor,
    schedule: Schedule,
    objective: Objective,
    verifier: Verifier,
) -> Tensor:
    """Take the steps up to the next check; bool `(R,)`: which rows are finished."""
    batches = schedule.batches
    order = rows.draw(sum(batches)).to(network.device)
    for part in torch.split(order, batches, dim=1):
        chosen = images[part.flatten()].view(*part.shape, *network.image_shape)
        targets = rows.targets.repeat_interleave(part.shape[1])
        _step(rows, network, chosen, targets, schedule, objective)
    with torch.no_grad():
        return rows.settle(
            schedule,
            objective,
            lambda p, t, enough: verifier.rate(p, t, at_least=enough),
        )


def _step(
    rows: Rows,
    network: Frozen,
    chosen: Tensor,
    targets: Tensor,
    schedule: Schedule,
    objective: Objective,
) -> None:
    """One step of every row on its chosen images `(R, B, C, H, W)`. Never asks the host."""
    leaves = tuple(p.detach().requires_grad_() for p in rows.parameters)
    with torch.enable_grad():
        stamped = objective.stamp(leaves, chosen)
        sizes = objective.size(leaves)
    gradient, hits = network.input_gradient(
        stamped.detach().flatten(0, 1), targets, soft_share=schedule.soft_share
    )
    gradients = torch.autograd.grad(
        (stamped, sizes),
        leaves,
        (gradient.view_as(stamped) / chosen.shape[1], rows.controller.cost),
    )
    rows.controller.observe(hits.view(len(rows), -1).float().mean(1))
    rows.adam(gradients, _learning_rate(rows.steps, schedule), schedule.betas)
    if schedule.average:
        rows.follow(schedule.average)


def _learning_rate(steps: Tensor, schedule: Schedule) -> Tensor:
    """Learning rates `(R,)` after these many steps: a cosine from first to last, then the last."""
    low, high = schedule.final_learning_rate, schedule.learning_rate
    done = steps.clamp(max=schedule.steps) * (math.pi / schedule.steps)
    return low + (high - low) * (1 + torch.cos(done)) / 2


def _result(
    rows: Rows,
    row: int,
    verifier: Verifier,
    objective: Objective,
    schedule: Schedule,
) -> Inversion:
    """The best trigger of a finished row; if none was verified, the last one, marked invalid."""
    problem = rows.problems[row]
    valid = bool(torch.isfinite(rows.best_size[row]))
    stack = rows.best if valid else rows.parameters
    trigger = tuple(part[row : row + 1] for part in stack)
    measure = partial(verifier.rate, problem)
    rate = rows.best_rates[row] if valid else measure(trigger)
    wanted = schedule.success_rate
    if schedule.trim and rate >= wanted:
        holds = partial(measure, at_least=wanted)
        trigger, rate = _trimmed(trigger, rate, objective, holds, wanted)
    works = valid or rate >= wanted
    mask, pattern = (torch.nan_to_num(part) for part in objective.render(trigger))
    return Inversion(
        problem=problem,
        mask=mask[0].cpu(),
        pattern=pattern[0].cpu(),
        # What does not work may have no finite size of its own.
        size=float(objective.size(trigger)[0]) if works else float(mask.sum()),
        asr=rate,
        valid=works,
        steps=int(rows.steps[row]),
        cost=float(rows.controller.cost[row]),
    )


def _trimmed(
    trigger: Parameters,
    rate: float,
    objective: Objective,
    measure: Callable[[Parameters], float],
    wanted: float,
) -> tuple[Parameters, float]:
    """The weakest that a trigger can be made with its success rate still as wanted, and that rate.

    Args:
        trigger: parameters `(1, ...)` that work.
        rate: their success rate.
        objective: the parametrisation.
        measure: success rate of a trigger; below `wanted` it need not be exact.
        wanted: success rate to hold.
    """
    works, fails, best = 1.0, WEAKEST, trigger
    for _ in range(TRIMMINGS):
        share = (works + fails) / 2
        weaker = objective.scaled(trigger, share)
        found = measure(weaker)
        if found >= wanted:
            works, best, rate = share, weaker, found
        else:
            fails = share
    return best, rate
