"""Honesty checks of one network before and after hardening, resumable, into a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from moth_eval.honesty import CurveCheck, FinishedCheck, RobustnessCheck, finished_checks
from moth_eval.honesty_records import CheckRecord, HonestyFolder
from moth_eval.inverter_table import InverterCheck
from moth_eval.seeds import generator_for

from .honesty_plan import HonestyPlan


def carry_out(plan: HonestyPlan, *, on_check: Callable[[CheckRecord], None]) -> None:
    """Make the checks that are open, and keep each as soon as it is finished.

    A `KeyboardInterrupt` passes through; the run folder then holds all checks that were finished,
    and the same study continues with the others.

    Args:
        plan: from `benchmarks.honesty_plan.plan`.
        on_check: told of every check once it is on disk.
    """
    folder = HonestyFolder(plan.run)
    if plan.finished >= set(plan.settings.checks):
        return
    started = time.perf_counter()
    for check in finished_checks(
        plan.before,
        plan.after,
        plan.settings,
        generator=generator_for(plan.seed),
        skip=plan.finished,
    ):
        now = time.perf_counter()
        record = as_record(check, seconds=now - started)
        folder.write(record)
        on_check(record)
        started = now


def as_record(check: FinishedCheck, *, seconds: float) -> CheckRecord:
    """A check as it is written.

    Args:
        check: what was measured.
        seconds: how long it took (s).
    """
    return CheckRecord.model_validate(
        {
            "name": check.name,
            **_result(check),
            "forward_passes": check.cost.forward_passes,
            "backward_passes": check.cost.backward_passes,
            "seconds": seconds,
        }
    )


def _result(check: FinishedCheck) -> dict[str, object]:
    result = check.result
    if isinstance(result, InverterCheck):
        return {"inverter": asdict(result)}
    if isinstance(result, CurveCheck):
        return {"curve": asdict(result)}
    if isinstance(result, RobustnessCheck):
        before, after = asdict(result.before), asdict(result.after)
        robustness = {
            "attack": before["attack"],
            "before": before["robust"],
            "after": after["robust"],
            "per_class_before": before["per_class"],
            "per_class_after": after["per_class"],
        }
        return {"robustness": robustness}
    return {"accuracy": asdict(result)}
