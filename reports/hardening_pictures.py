"""The figure of a hardening study: what was gained, against accuracy and against time."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .roc import LIGHT

MARKERS = "osD^vPX*<>"
"""Methods are told apart by them too; more methods than colours repeat the colours first."""

SETTINGS = {"svg.hashsalt": "moth-eval", "font.family": "DejaVu Sans", "font.size": 10}


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


def scatter(
    points: Sequence[Point], legend: Mapping[str, str], *, kind: Literal["png", "svg"]
) -> bytes:
    """Two panels, a point per cell, as a file; equal points give equal bytes.

    Args:
        points: of all methods.
        legend: method -> its entry, also for methods without a point.
        kind: `png` at 200 dots per inch, or `svg` with its letters as outlines.
    """
    with style.context(["default", SETTINGS]):
        size = (9.6, 4.4 + 0.2 * len(legend))
        figure = Figure(figsize=size, facecolor=LIGHT.paper, layout="constrained")
        FigureCanvasAgg(figure)
        first, second = figure.subplots(1, 2, sharey=True)
        for number, (method, text) in enumerate(legend.items()):
            own = [point for point in points if point.method == method]
            heights = [p.increase for p in own]
            _dots(first, [p.change for p in own], heights, number, text)
            _dots(second, [p.seconds for p in own], heights, number, text)
        first.axvline(0, color=LIGHT.faint, linewidth=1, linestyle=(0, (2, 3)))
        frame(first, "accuracy after minus before (percentage points)")
        frame(second, "time of training (s)")
        if any(point.seconds > 0 for point in points):
            second.set_xscale("log")
        first.xaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
        first.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        first.set_ylabel("increase of class distance, mean of ratios", color=LIGHT.ink)
        legend_above(figure, first)
        return saved(figure, kind)


def _dots(axes: Axes, across: Sequence[float], up: Sequence[float], number: int, text: str) -> None:
    axes.plot(
        across,
        up,
        linestyle="none",
        marker=MARKERS[number % len(MARKERS)],
        markersize=7,
        color=LIGHT.lines[number % len(LIGHT.lines)],
        markeredgecolor=LIGHT.paper,
        alpha=0.85,
        label=text,
    )


def frame(axes: Axes, label: str) -> None:
    """Draw the axes in our colours, with a line at zero, and name the horizontal one."""
    axes.set_facecolor(LIGHT.paper)
    axes.set_xlabel(label, color=LIGHT.ink)
    axes.tick_params(colors=LIGHT.faint, length=0, which="both")
    axes.grid(color=LIGHT.grid, linewidth=0.8)
    axes.axhline(0, color=LIGHT.faint, linewidth=1, linestyle=(0, (2, 3)))
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT.grid)


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put the legend above the panels."""
    legend = figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside upper left",
        frameon=False,
        fontsize=8.5,
        labelcolor=LIGHT.ink,
    )
    for text in legend.get_texts():
        # Names are data: a dollar sign in one must not start a formula.
        text.set_parse_math(False)


def saved(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The figure as a file without a date."""
    buffer = io.BytesIO()
    plain = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=plain, facecolor=LIGHT.paper)
    return buffer.getvalue()
