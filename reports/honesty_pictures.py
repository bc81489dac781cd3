"""The figures of honesty checks: growth per pair, robust accuracy, and patches by size."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from moth_eval.honesty_records import CurvePointRecord, CurveRecord, RateRecord, RobustnessRecord
from moth_eval.inverter_table import InverterCheck

from .figures import LIGHT, Kind, canvas, frame, legend_above, saved
from .honesty_tables import attack_name, ratio

_MARKERS = "os"
_APART = 0.12
"""How far two marks of one place stand to its left and right, in places."""


def growth_figure(checks: Sequence[InverterCheck], *, kind: Kind) -> bytes:
    """Distance after / before of every pair under every inverter, as a file.

    Dashed lines are geometric means; a cross stands for a pair without a distance on both sides.
    Equal checks give equal bytes.

    Args:
        checks: of the same pairs; without any the file is empty.
        kind: of file.
    """
    if not checks:
        return b""
    pairs = [f"{pair.source}→{pair.target}" for pair in checks[0].pairs]
    with canvas(min(16.0, max(6.0, 0.4 * len(pairs) + 2.5)), 4.4) as figure:
        axes = figure.add_subplot()
        known = [0.5, 2.0]
        for number, check in enumerate(checks):
            known += _growth(axes, check, number)
        axes.set_yscale("log", base=2)
        axes.set_ylim(min(known) / 1.15, max(known) * 1.15)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.axhline(1, color=LIGHT.faint, linewidth=1)
        step = max(1, math.ceil(len(pairs) / 40))
        axes.set_xticks(range(0, len(pairs), step), pairs[::step], rotation=90)
        frame(axes, "source → target class", "distance after / before")
        legend_above(figure, axes, columns=2)
        return saved(figure, kind)


def robustness_figure(robustness: Sequence[RobustnessRecord], *, kind: Kind) -> bytes:
    """Robust accuracy before and after under every attack, with 95 % intervals, as a file.

    Args:
        robustness: of all attacks; without any the file is empty.
        kind: of file.
    """
    if not robustness:
        return b""
    with canvas(max(4.5, 1.2 * len(robustness) + 2.5), 4.0) as figure:
        axes = figure.add_subplot()
        sides: list[tuple[str, list[RateRecord]]] = [
            ("before", [one.before for one in robustness]),
            ("after", [one.after for one in robustness]),
        ]
        for number, (side, rates) in enumerate(sides):
            axes.errorbar(
                [place + (2 * number - 1) * _APART for place in range(len(rates))],
                [rate.value for rate in rates],
                yerr=_reach(rates),
                linestyle="none",
                capsize=3,
                marker=_MARKERS[number],
                color=LIGHT.lines[number],
                label=side,
            )
        axes.set_xticks(range(len(robustness)), [attack_name(one.attack) for one in robustness])
        axes.set_xlim(-0.6, len(robustness) - 0.4)
        frame(axes, "largest change of a channel (L∞), of the image range")
        _shares(axes, "robust accuracy under PGD")
        legend_above(figure, axes, columns=2)
        return saved(figure, kind)


def curves_figure(curves: Sequence[CurveRecord], *, kind: Kind) -> bytes:
    """ASR of patches by size before and after, a panel per kind of patch, as a file.

    Args:
        curves: of all kinds; without any the file is empty.
        kind: of file.
    """
    if not curves:
        return b""
    with canvas(3.1 * len(curves) + 1.2, 3.8) as figure:
        panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, curve in zip(panels, curves, strict=True):
            _curve(axes, curve.before, 0, "before")
            _curve(axes, curve.after, 1, "after")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_title(curve.kind, color=LIGHT.ink, fontsize=11)
            frame(axes, "side of the patch (pixels)")
        _shares(panels[0], "ASR on held-out images")
        legend_above(figure, panels[0], columns=2)
        return saved(figure, kind)


def _growth(axes: Axes, check: InverterCheck, number: int) -> list[float]:
    """Draw the marks of one inverter; their heights."""
    heights = [ratio(pair.distances()) for pair in check.pairs]
    places = [place + (2 * number - 1) * _APART for place in range(len(heights))]
    known = [(x, y) for x, y in zip(places, heights, strict=True) if y is not None]
    axes.plot(
        [x for x, _ in known],
        [y for _, y in known],
        linestyle="none",
        marker=_MARKERS[number],
        color=LIGHT.lines[number],
        label=check.inverter,
    )
    absent = [x for x, y in zip(places, heights, strict=True) if y is None]
    if absent:
        axes.plot(
            absent,
            [0.97] * len(absent),
            linestyle="none",
            marker="x",
            color=LIGHT.lines[number],
            transform=axes.get_xaxis_transform(),
            label=f"{check.inverter}: no trigger before or after",
        )
    growth = check.growth()
    if growth is not None:
        axes.axhline(growth.factor, color=LIGHT.lines[number], linewidth=1, linestyle=(0, (5, 3)))
    return [y for _, y in known]


def _curve(axes: Axes, points: Sequence[CurvePointRecord], number: int, side: str) -> None:
    sizes = [point.size for point in points]
    axes.plot(
        sizes,
        [point.asr for point in points],
        marker=_MARKERS[number],
        color=LIGHT.lines[number],
        linewidth=1.8,
        label=side,
    )
    axes.fill_between(
        sizes,
        [point.interval.low for point in points],
        [point.interval.high for point in points],
        color=LIGHT.lines[number],
        alpha=0.15,
        linewidth=0,
    )


def _reach(rates: Sequence[RateRecord]) -> list[list[float]]:
    """How far each interval reaches below and above its value; never less than 0 by rounding."""
    return [
        [max(0.0, rate.value - rate.interval.low) for rate in rates],
        [max(0.0, rate.interval.high - rate.value) for rate in rates],
    ]


def _shares(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylabel(label, color=LIGHT.ink)
