"""The CSV files of honesty checks: headline figures, growth, robust accuracy and patches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moth_eval.distance_table import Pair
from moth_eval.hardening_records import AccuracyRecord, IntervalRecord
from moth_eval.honesty_records import (
    AttackRecord,
    CurvePointRecord,
    CurveRecord,
    RateRecord,
    RobustnessRecord,
)
from moth_eval.intervals import wilson
from moth_eval.inverter_table import SIDES, InverterCheck, Restarts

from .tables import Cell, as_csv, with_bounds

Line = dict[str, Cell]


def headline_csv(
    accuracy: AccuracyRecord | None,
    inverters: Sequence[InverterCheck],
    ratio: float | None,
    robustness: Sequence[RobustnessRecord],
    curves: Sequence[CurveRecord],
) -> bytes:
    """One line per figure that sums a check up: check, measure, value, 95 % bounds, number."""
    lines = [] if accuracy is None else [*_accuracy_lines(accuracy)]
    for check in inverters:
        lines += _inverter_lines(check)
    if len(inverters) == 2:
        lines.append(_line("inverters", "growth_ratio", ratio))
    for one in robustness:
        name = f"pgd {attack_name(one.attack)}"
        lines += [
            _line(name, f"robust_accuracy_{side}", rate.value, rate.interval, rate.n)
            for side, rate in (("before", one.before), ("after", one.after))
        ]
    for curve in curves:
        lines += [
            _line(f"patches {curve.kind}", f"asr_{point.size}_{side}", point.asr, point.interval,
                  point.n)
            for side, points in (("before", curve.before), ("after", curve.after))
            for point in points
        ]  # fmt: skip
    return as_csv(lines)


def growth_csv(inverters: Sequence[InverterCheck]) -> bytes:
    """One line per inverter and pair; empty where no restart found a valid trigger."""
    return as_csv(
        {
            "inverter": check.inverter,
            "source": pair.source,
            "target": pair.target,
            "before": pair.before.smallest,
            "after": pair.after.smallest,
            "growth": ratio(pair.distances()),
            "growth_with_transfers": ratio(pair.distances(check.success_rate)),
            **_restarts("before", pair.before),
            **_restarts("after", pair.after),
        }
        for check in inverters
        for pair in check.pairs
    )


def robustness_csv(robustness: Sequence[RobustnessRecord]) -> bytes:
    """One line per attack for all images, its class empty, and one for each class."""
    return as_csv(
        {
            "epsilon": one.attack.epsilon,
            "step_size": one.attack.step_size,
            "steps": one.attack.steps,
            "restarts": one.attack.restarts,
            "class": label,
            "n": before.n,
            **with_bounds("before", before.value, before.interval),
            **with_bounds("after", after.value, after.interval),
        }
        for one in robustness
        for label, before, after in _classes(one)
    )


def patches_csv(curves: Sequence[CurveRecord], pairs: Sequence[Pair]) -> bytes:
    """One line per kind and size over all pairs, and one without bounds for each pair.

    Args:
        curves: of all kinds.
        pairs: in the order of `per_pair`.
    """
    return as_csv(
        line
        for curve in curves
        for before, after in zip(curve.before, curve.after, strict=True)
        for line in _patch_lines(curve.kind, before, after, pairs)
    )


def attack_name(attack: AttackRecord) -> str:
    """`0.5` for a short decimal fraction, else `8/255` for a whole number of grey levels."""
    short = f"{attack.epsilon:.4g}"
    levels = round(attack.epsilon * 255)
    if float(short) != attack.epsilon and abs(attack.epsilon - levels / 255) < 1e-9:
        return f"{levels}/255"
    return short


def ratio(distances: tuple[float, float] | None) -> float | None:
    """After / before; None without both."""
    return None if distances is None else distances[1] / distances[0]


def _line(
    check: str,
    measure: str,
    value: float | None,
    interval: IntervalRecord | None = None,
    n: int | None = None,
) -> Line:
    return {
        "check": check,
        "measure": measure,
        "value": value,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "n": n,
    }


def _accuracy_lines(accuracy: AccuracyRecord) -> Iterator[Line]:
    for side, value in (("before", accuracy.before), ("after", accuracy.after)):
        bounds = wilson(round(value * accuracy.n), accuracy.n)
        interval = IntervalRecord(low=bounds.low, high=bounds.high, method=bounds.method)
        yield _line("accuracy", f"accuracy_{side}", value, interval, accuracy.n)
    change = accuracy.after - accuracy.before
    yield _line("accuracy", "difference", change, accuracy.difference, accuracy.n)
    yield _line("accuracy", "lost", accuracy.lost)
    yield _line("accuracy", "gained", accuracy.gained)
    yield _line("accuracy", "p_value", accuracy.p_value)


def _inverter_lines(check: InverterCheck) -> Iterator[Line]:
    for name, growth in (
        ("growth", check.growth()),
        ("growth_with_transfers", check.growth(transfers=True)),
    ):
        pairs = growth.pairs if growth else 0
        yield _line(check.inverter, f"{name}_factor", growth.factor if growth else None, n=pairs)
        yield _line(
            check.inverter, f"{name}_increase", growth.increase if growth else None, n=pairs
        )
    for side in SIDES:
        yield _line(check.inverter, f"missed_{side}", check.missed(side), n=len(check.pairs))
    for side in SIDES:
        yield _line(check.inverter, f"scatter_{side}", check.scatter(side))
    for side in SIDES:
        yield _line(check.inverter, f"transferred_{side}", check.transferred(side))


def _restarts(side: str, found: Restarts) -> Line:
    return {
        f"restarts_{side}": len(found.sizes),
        f"valid_{side}": len(found.valid),
        f"transferred_{side}": found.transferred,
    }


def _classes(one: RobustnessRecord) -> Iterator[tuple[int | None, RateRecord, RateRecord]]:
    yield None, one.before, one.after
    both = zip(one.per_class_before, one.per_class_after, strict=True)
    for label, (before, after) in enumerate(both):
        if before is not None and after is not None:
            yield label, before, after


def _patch_lines(
    kind: str, before: CurvePointRecord, after: CurvePointRecord, pairs: Sequence[Pair]
) -> Iterator[Line]:
    head: Line = {"kind": kind, "size": before.size}
    yield {
        **head, "source": None, "target": None, "n": before.n,
        **with_bounds("before", before.asr, before.interval),
        **with_bounds("after", after.asr, after.interval),
    }  # fmt: skip
    rates = zip(pairs, before.per_pair, after.per_pair, strict=True)
    for (source, target), asr_before, asr_after in rates:
        yield {
            **head, "source": source, "target": target, "n": before.n // len(pairs),
            **with_bounds("before", asr_before, None), **with_bounds("after", asr_after, None),
        }  # fmt: skip
