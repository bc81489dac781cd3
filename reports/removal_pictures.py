"""The figure of a removal study: what is left of the backdoor, against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import PercentFormatter

from .figures import DOTTED, LIGHT, Kind, canvas, dots, frame, legend_above, saved


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
    kind: Kind,
) -> bytes:
    """A point per model and line as a file; equal points give equal bytes.

    Args:
        marks: of all lines.
        legend: label -> its entry, also for lines without a point.
        hollow: labels drawn hollow: the originals and oracles.
        kind: of file.
    """
    with canvas(6.4, 4.4 + 0.2 * len(legend)) as figure:
        axes = figure.subplots()
        for number, (label, text) in enumerate(legend.items()):
            own = [mark for mark in marks if mark.label == label]
            across, up = [mark.accuracy for mark in own], [mark.asr for mark in own]
            dots(axes, across, up, number, text, hollow=label in hollow)
        frame(axes, "accuracy on clean test images", "attack success rate")
        axes.axhline(0, color=LIGHT.faint, linewidth=1, linestyle=DOTTED)
        axes.set_ylim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        legend_above(figure, axes)
        return saved(figure, kind)
