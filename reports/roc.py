"""The ROC figure: a curve per scanner with its interval, its band and its cut."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from moth_eval.intervals import roc_band
from moth_eval.metrics import FloatArray, RocCurve, roc_curve
from moth_eval.text import visible

from .evaluation import (
    AtCut,
    Discrimination,
    Evaluation,
    content_seed,
    is_whole,
    scores_by_class,
)
from .figures import DOTTED, LIGHT, Kind, Theme, canvas, frame, legend_above, saved
from .rows import Run

MOST_GRID_POINTS = 200
LEGEND_WIDTH = 84
"""Characters of a line of the legend."""

PANELS_ABREAST = 3
MARGIN = 0.08
"""Around the axes (inches)."""

ACROSS = "False-positive rate: clean models flagged"
UP = "True-positive rate: backdoored models flagged"

MOST_BANDS = 2
"""With more curves than this the bands hide each other, and only the curves are drawn."""


_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, kw_only=True)
class ScannerCurve:
    """All that is drawn for one scanner.

    Attributes:
        scanner: its name.
        curve: every point.
        grid: `(G,)` false-positive rates of the band.
        low: `(G,)` lower bound of the true-positive rate.
        high: `(G,)` upper bound.
        discrimination: area and interval for the legend.
        clean: number of clean models.
        poisoned: number of poisoned models.
        cut: the scanner's own cut, if there is one.
    """

    scanner: str
    curve: RocCurve
    grid: FloatArray
    low: FloatArray
    high: FloatArray
    discrimination: Discrimination
    clean: int
    poisoned: int
    cut: AtCut | None

    @property
    def bounds(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Grid, lower and upper bounds; not a number where all resamples agree, as in no overlap.

        A band without width would pass for certainty.
        """
        if self.discrimination.bootstrap is not None:
            return self.grid, self.low, self.high
        unknown = np.full_like(self.grid, np.nan)
        return self.grid, unknown, unknown


def scanner_curves(run: Run, lines: Sequence[Evaluation]) -> list[ScannerCurve]:
    """The curve of every scanner that has scored models of both classes."""
    return [
        _scanner_curve(run, line, line.discrimination)
        for line in lines
        if is_whole(line) and line.discrimination is not None
    ]


def draw(curves: Sequence[ScannerCurve], *, theme: Theme = LIGHT, kind: Kind) -> bytes:
    """The figure as a file; equal curves give equal bytes.

    Args:
        curves: at least one.
        theme: colours.
        kind: of file.
    """
    # The axes are square: the figure grows with the legend above them.
    entries = len(curves) + sum(curve.cut is not None for curve in curves)
    with canvas(6.4, 6.3 + 0.19 * entries, theme=theme, margin=MARGIN) as figure:
        axes = figure.add_subplot()
        _frame(axes, ACROSS, UP, theme=theme)
        for number, curve in enumerate(curves):
            _draw_curve(axes, curve, theme, number, band=len(curves) <= MOST_BANDS)
        legend_above(figure, axes, theme=theme, handlelength=2.2)
        return saved(figure, kind)


def draw_panels(curves: Sequence[ScannerCurve], *, kind: Kind) -> bytes:
    """A panel per scanner with its band, the other curves faint behind it.

    Args:
        curves: at least one.
        kind: of file.
    """
    columns = min(len(curves), PANELS_ABREAST)
    lines = math.ceil(len(curves) / columns)
    with canvas(3.6 * columns, 4.2 * lines, letters=9, margin=MARGIN) as figure:
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(curves) :]:
            axes.set_visible(False)
        for number, curve in enumerate(curves):
            _panel(grid.flat[number], curves, number)
            grid.flat[number].set_title(
                _panel_title(curve), fontsize=8.5, color=LIGHT.ink, loc="left"
            )
        figure.supxlabel(ACROSS, color=LIGHT.ink)
        figure.supylabel(UP, color=LIGHT.ink)
        return saved(figure, kind)


def _panel(axes: Axes, curves: Sequence[ScannerCurve], number: int) -> None:
    _frame(axes)
    for other in curves:
        axes.plot(other.curve.fpr, other.curve.tpr, color=LIGHT.grid, linewidth=1.2)
    _draw_curve(axes, curves[number], LIGHT, number, band=True)


def _panel_title(drawn: ScannerCurve) -> str:
    found = drawn.discrimination
    return (
        f"{textwrap.fill(visible(drawn.scanner), 44)}\n"
        f"AUC {found.area:.3f} ({found.interval.low:.2f} to {found.interval.high:.2f}), "
        f"{drawn.clean} clean, {drawn.poisoned} backdoored"
    )


def _scanner_curve(run: Run, line: Evaluation, found: Discrimination) -> ScannerCurve:
    clean, poisoned = scores_by_class(run.of(line.scanner))
    # No finer than the data: between k/N and (k+1)/N false alarms nothing can change.
    grid = np.linspace(0, 1, min(clean.size, MOST_GRID_POINTS) + 1)
    low, high = roc_band(clean, poisoned, grid, seed=content_seed(line.scanner, clean, poisoned))
    truth = np.repeat([0, 1], [clean.size, poisoned.size])
    return ScannerCurve(
        scanner=line.scanner,
        curve=roc_curve(np.concatenate([clean, poisoned]), truth),
        grid=grid,
        low=low,
        high=high,
        discrimination=found,
        clean=clean.size,
        poisoned=poisoned.size,
        cut=line.cut,
    )


def _frame(axes: Axes, across: str = "", up: str = "", *, theme: Theme = LIGHT) -> None:
    frame(axes, across, up, theme=theme)
    axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
    ticks = np.linspace(0, 1, 6)
    labels = [f"{t:.0%}" for t in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.plot([0, 1], [0, 1], color=theme.faint, linewidth=1, linestyle=DOTTED)
    axes.text(
        0.985, 0.945, "chance", rotation=45, ha="right", va="top", fontsize=8.5, color=theme.faint
    )


def _draw_curve(axes: Axes, drawn: ScannerCurve, theme: Theme, number: int, *, band: bool) -> None:
    colour = theme.lines[number % len(theme.lines)]
    if band:
        axes.fill_between(
            drawn.grid, drawn.low, drawn.high, step="post", color=colour, alpha=0.14, linewidth=0
        )
    axes.plot(
        drawn.curve.fpr,
        drawn.curve.tpr,
        color=colour,
        linewidth=2.2,
        linestyle=_DASHES[number % len(_DASHES)],
        solid_joinstyle="miter",
        label=_label(drawn),
    )
    cut = drawn.cut
    if cut is not None and cut.clean and cut.poisoned:
        axes.plot(
            [cut.false_positives / cut.clean],
            [cut.true_positives / cut.poisoned],
            marker="o",
            markersize=8.5,
            markerfacecolor=theme.paper,
            markeredgecolor=colour,
            markeredgewidth=2.2,
            linestyle="none",
            clip_on=False,
            zorder=5,
            label=_cut_label(drawn.scanner, cut),
        )


def _label(drawn: ScannerCurve) -> str:
    found = drawn.discrimination
    return _folded(
        f"{drawn.scanner}: AUC {found.area:.3f}, 95 % interval "
        f"{found.interval.low:.2f} to {found.interval.high:.2f} "
        f"({drawn.clean} clean, {drawn.poisoned} backdoored)"
    )


def _cut_label(scanner: str, cut: AtCut) -> str:
    threshold = "its cut" if cut.threshold is None else f"{cut.name} > {cut.threshold:g}"
    return _folded(
        f"{scanner}, {threshold}: flags {cut.false_positives} of {cut.clean} clean, "
        f"{cut.true_positives} of {cut.poisoned} backdoored"
    )


def _folded(label: str) -> str:
    return textwrap.fill(visible(label), LEGEND_WIDTH)
