"""The figure of a removal study: what is left of the backdoor, against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from .hardening_pictures import MARKERS, SETTINGS, frame, legend_above, saved
from .roc import LIGHT


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One model under one method, the mean of its seeds.

    Attributes:
        label: of the method's line.
        accuracy: in `[0, 1]`.
        asr: in `[0, 1]`.
    """

    label: str
    accuracy: float
    asr: float


def asr_against_accuracy(
    marks: Sequence[Mark],
    legend: Mapping[str, str],
    *,
    hollow: frozenset[str],
    kind: Literal["png", "svg"],
) -> bytes:
    """A point per model and line as a file; equal points give equal bytes.

    Args:
        marks: of all lines.
        legend: label -> its entry, also for lines without a point.
        hollow: labels drawn hollow: the originals and oracles.
        kind: `png` at 200 dots per inch, or `svg` with its letters as outlines.
    """
    with style.context(["default", SETTINGS]):
        size = (6.4, 4.4 + 0.2 * len(legend))
        figure = Figure(figsize=size, facecolor=LIGHT.paper, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for number, (label, text) in enumerate(legend.items()):
            colour = LIGHT.lines[number % len(LIGHT.lines)]
            axes.plot(
                [m.accuracy for m in marks if m.label == label],
                [m.asr for m in marks if m.label == label],
                linestyle="none",
                marker=MARKERS[number % len(MARKERS)],
                markersize=7,
                color=colour,
                markerfacecolor="none" if label in hollow else colour,
                markeredgecolor=colour if label in hollow else LIGHT.paper,
                alpha=0.85,
                label=text,
            )
        frame(axes, "accuracy on clean test images")
        axes.set_ylabel("attack success rate", color=LIGHT.ink)
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        legend_above(figure, axes)
        return saved(figure, kind)
