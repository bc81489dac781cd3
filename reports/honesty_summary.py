"""Honesty checks in a few lines for a terminal. It names figures, never a verdict."""

from __future__ import annotations

from moth_eval.hardening_records import AccuracyRecord, IntervalRecord
from moth_eval.honesty_records import CurveRecord, RateRecord, RobustnessRecord
from moth_eval.inverter_table import Growth, InverterCheck
from moth_eval.text import visible

from .honesty import HonestyFindings
from .honesty_tables import attack_name
from .wording import count, number


def honesty_lines(found: HonestyFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    manifest, settings = found.manifest, found.manifest.settings
    lines = [
        f"{visible(manifest.before.name)} before, {visible(manifest.after.name)} after: "
        f"{count(len(settings.pairs), 'pair')} of classes, {count(settings.restarts, 'restart')}, "
        f"{count(settings.images_per_class, 'image')} per source class"
    ]
    if found.accuracy is not None:
        lines.append(_accuracy(found.accuracy))
    for check in found.inverters:
        lines += _inverter(check)
    if found.growth_ratio is not None:
        lines.append(
            f"growth under mask-and-pattern / growth under signed-pixels: "
            f"{number(found.growth_ratio)}"
        )
    lines += [_robustness(one) for one in found.robustness]
    for curve in found.curves:
        lines += _curve(curve)
    return [*lines, *_remarks(found)]


def _accuracy(accuracy: AccuracyRecord) -> str:
    return (
        f"accuracy {accuracy.before:.2%} -> {accuracy.after:.2%} on "
        f"{count(accuracy.n, 'image')}, difference {_bounds(accuracy.difference, signed=True)}, "
        f"p = {accuracy.p_value:.2g}"
    )


def _inverter(check: InverterCheck) -> list[str]:
    missed = (
        f"without a trigger: {check.missed('before')} before, {check.missed('after')} after, of "
        f"{count(len(check.pairs), 'pair')}"
    )
    return [
        f"{check.inverter}: distances {_growth(check.growth())}; {missed}",
        f"  counting triggers of the other network: {_growth(check.growth(transfers=True))}",
        f"  ASR on the other network: {_share(check.transferred('before'))} of triggers found "
        f"before, {_share(check.transferred('after'))} of those found after",
        f"  median / smallest of the restarts: {number(check.scatter('before'))} before, "
        f"{number(check.scatter('after'))} after",
    ]


def _growth(growth: Growth | None) -> str:
    if growth is None:
        return "unknown, no pair has one on both sides"
    return (
        f"x {growth.factor:.3g} (mean increase {growth.increase:+.1%}) over "
        f"{count(growth.pairs, 'pair')}"
    )


def _robustness(one: RobustnessRecord) -> str:
    return (
        f"robust accuracy, epsilon {attack_name(one.attack)}: {_rate(one.before)} -> "
        f"{_rate(one.after)}"
    )


def _rate(rate: RateRecord) -> str:
    return f"{rate.value:.1%} ({_bounds(rate.interval)})"


def _curve(curve: CurveRecord) -> list[str]:
    sides = ", ".join(
        f"{before.size}: {before.asr:.0%} -> {after.asr:.0%}"
        for before, after in zip(curve.before, curve.after, strict=True)
    )
    return [f"ASR of {curve.kind} patches by side in pixels: {sides}"]


def _remarks(found: HonestyFindings) -> list[str]:
    manifest = found.manifest
    lines = [f"note: {visible(note)}" for note in manifest.notes]
    lines += [
        f"doubt about {side}: {visible(doubt)}"
        for side, network in (("before", manifest.before), ("after", manifest.after))
        for doubt in network.doubts
    ]
    if found.pending:
        lines.append(f"pending: {', '.join(found.pending)}; the same command makes them")
    return lines


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _bounds(interval: IntervalRecord, *, signed: bool = False) -> str:
    form = "+.1%" if signed else ".1%"
    return f"{interval.low:{form}} to {interval.high:{form}}"
