from __future__ import annotations

import pytest
import torch

from moth_eval.inversion.controller import CostController
from moth_eval.inversion.schedule import Schedule

CPU = torch.device("cpu")
PLAIN = Schedule(
    steps=1, success_rate=0.9, initial_cost=1e-3, patience=3, up=2.0, down=4.0, smoothing=0.0
)


def feed(controller: CostController, *rates: float) -> list[float]:
    costs = []
    for rate in rates:
        controller.observe(torch.tensor([rate]))
        costs.append(round(controller.cost.item(), 9))
    return costs


def test_the_cost_starts_at_zero_and_is_switched_on_by_a_working_trigger() -> None:
    assert feed(CostController(1, PLAIN, CPU), 1, 1, 1) == [0, 0, 0.001]


def test_the_cost_rises_after_patience_successes_and_falls_after_as_many_failures() -> None:
    controller = CostController(1, PLAIN, CPU)
    feed(controller, 1, 1, 1)
    assert feed(controller, 1, 1, 1) == [0.001, 0.001, 0.002]
    assert feed(controller, 0, 0, 0) == [0.002, 0.002, 0.0005]


def test_one_failure_breaks_a_row_of_successes() -> None:
    controller = CostController(1, PLAIN, CPU)
    assert feed(controller, 1, 1, 0, 1, 1) == [0, 0, 0, 0, 0]


def test_a_move_uses_the_mean_over_its_steps() -> None:
    schedule = Schedule(**{**vars(PLAIN), "steps_per_move": 2, "patience": 1})
    controller = CostController(1, schedule, CPU)
    assert feed(controller, 1.0, 0.7, 1.0, 0.8) == [0, 0, 0, 0.001]
    assert controller.rate.item() == pytest.approx(0.9)


def test_the_running_rate_keeps_its_share_of_the_past() -> None:
    schedule = Schedule(**{**vars(PLAIN), "smoothing": 0.75})
    controller = CostController(1, schedule, CPU)
    feed(controller, 1.0, 0.0)
    assert controller.rate.item() == pytest.approx(0.75)


def test_rows_do_not_touch_each_other() -> None:
    controller = CostController(2, PLAIN, CPU)
    for _ in range(3):
        controller.observe(torch.tensor([1.0, 0.0]))
    assert controller.cost.tolist() == pytest.approx([1e-3, 0.0])


def test_a_row_has_settled_once_its_cost_went_both_ways_after_it_was_switched_on() -> None:
    controller = CostController(1, PLAIN, CPU)
    feed(controller, 0, 0, 0, 1, 1, 1, 0, 0, 0)
    assert not controller.settled.item()
    feed(controller, 1, 1, 1)
    assert controller.settled.item()


def test_kept_and_admitted_rows_carry_on_where_they_were() -> None:
    controller, other = CostController(2, PLAIN, CPU), CostController(1, PLAIN, CPU)
    for _ in range(3):
        controller.observe(torch.tensor([0.0, 1.0]))
    controller.keep(torch.tensor([1]))
    controller.admit(other)
    for _ in range(3):
        controller.observe(torch.tensor([1.0, 1.0]))
    assert controller.cost.tolist() == pytest.approx([2e-3, 1e-3])
