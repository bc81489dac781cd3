"""The figure of a false-positives study: every model's score before and after."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from .figures import LIGHT, Kind, canvas, frame, legend_above, saved
from .wording import count, number

_LOOKS = (("clean", 0, 0, "o"), ("backdoored", 1, 1, "D"), ("unknown", None, 3, "s"))
"""Group, its label, its colour and its marker."""

Score = tuple[float | None, float | None, int | None]
"""Score before, score after (None: not hardened or no answer), and 1 poisoned, 0 clean."""


def slopes(scores: Sequence[Score], cut: float | None, *, kind: Kind) -> bytes:
    """A line per hardened model from its score before to that after, as a file.

    Models that were not hardened are dots on the left; equal scores give equal bytes.

    Args:
        scores: of all models.
        cut: the threshold, if there is one for all.
        kind: of file.
    """
    with canvas(6.4, 4.8) as figure:
        axes = figure.add_subplot()
        # Scores far above the threshold must not press those around it together.
        axes.set_yscale("symlog", linthresh=max(1.0, abs(cut or 0.0)))
        for name, label, colour, marker in _LOOKS:
            own = [(one, other) for one, other, truth in scores if truth == label]
            if own:
                _draw(axes, own, name, LIGHT.lines[colour], marker)
        if cut is not None:
            axes.axhline(cut, color=LIGHT.ink, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.text(0.5, cut, f"threshold {number(cut)}", va="bottom", ha="center",
                      fontsize=8.5, color=LIGHT.faint)  # fmt: skip
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlim(-0.25, 1.25)
        axes.set_xticks([0, 1], ["as it came", "hardened"])
        frame(axes, up="score; higher is more suspicious", grid="y")
        legend_above(figure, axes)
        return saved(figure, kind)


def _draw(
    axes: Axes,
    scores: Sequence[tuple[float | None, float | None]],
    name: str,
    colour: str,
    marker: str,
) -> None:
    shown = [(one, other) for one, other in scores if one is not None]
    hardened = sum(other is not None for _, other in shown)
    label = f"{name}: {count(len(shown), 'model')} with a score, {hardened} scanned again hardened"
    draw = partial(
        axes.plot,
        marker=marker,
        color=colour,
        markeredgecolor=LIGHT.paper,
        markersize=7,
        alpha=0.85,
    )
    draw([], [], label=label)
    for one, other in shown:
        if other is None:
            draw([0], [one])
        else:
            draw([0, 1], [one, other])
