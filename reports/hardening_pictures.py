"""The figure of a hardening study: what was gained, against accuracy and against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from .figures import DOTTED, LIGHT, Kind, canvas, dots, frame, legend_above, saved


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell.

    Attributes:
        method: its method.
        change: accuracy after minus before, in `[-1, 1]`.
        increase: relative increase of class distance, mean of ratios; 1.0 is twice as far.
        seconds: of training.
    """

    method: str
    change: float
    increase: float
    seconds: float


def scatter(points: Sequence[Point], legend: Mapping[str, str], *, kind: Kind) -> bytes:
    """Two panels, a point per cell, as a file; equal points give equal bytes.

    Args:
        points: of all methods.
        legend: method -> its entry, also for methods without a point.
        kind: of file.
    """
    with canvas(9.6, 4.4 + 0.2 * len(legend)) as figure:
        first, second = figure.subplots(1, 2, sharey=True)
        for number, (method, text) in enumerate(legend.items()):
            own = [point for point in points if point.method == method]
            heights = [p.increase for p in own]
            dots(first, [p.change for p in own], heights, number, text)
            dots(second, [p.seconds for p in own], heights, number, text)
        first.axvline(0, color=LIGHT.faint, linewidth=1, linestyle=DOTTED)
        frame(
            first,
            "accuracy after minus before (percentage points)",
            "increase of class distance, mean of ratios",
        )
        frame(second, "time of training (s)")
        for axes in (first, second):
            axes.axhline(0, color=LIGHT.faint, linewidth=1, linestyle=DOTTED)
        if any(point.seconds > 0 for point in points):
            second.set_xscale("log")
        first.xaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
        first.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        legend_above(figure, first)
        return saved(figure, kind)
