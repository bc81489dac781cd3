"""The figure of a false-positives study: every model's score before and after."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from .roc import LIGHT
from .wording import count, number

_SETTINGS = {"svg.hashsalt": "moth-eval", "font.family": "DejaVu Sans", "font.size": 10}
_LOOKS = (("clean", 0, 0, "o"), ("backdoored", 1, 1, "D"), ("unknown", None, 3, "s"))
"""Group, its label, its colour and its marker."""

Score = tuple[float | None, float | None, int | None]
"""Score before, score after (None: not hardened or no answer), and 1 poisoned, 0 clean."""


def slopes(scores: Sequence[Score], cut: float | None, *, kind: Literal["png", "svg"]) -> bytes:
    """A line per hardened model from its score before to that after, as a file.

    Models that were not hardened are dots on the left; equal scores give equal bytes.

    Args:
        scores: of all models.
        cut: the threshold, if there is one for all.
        kind: `png` at 200 dots per inch, or `svg` with its letters as outlines.
    """
    with style.context(["default", _SETTINGS]):
        figure = Figure(figsize=(6.4, 4.8), facecolor=LIGHT.paper, layout="constrained")
        FigureCanvasAgg(figure)
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
        _frame(axes)
        return _saved(figure, kind)


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


def _frame(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.set_facecolor(LIGHT.paper)
    axes.set_xlim(-0.25, 1.25)
    axes.set_xticks([0, 1], ["as it came", "hardened"])
    axes.set_ylabel("score; higher is more suspicious", color=LIGHT.ink)
    axes.tick_params(colors=LIGHT.faint, length=0)
    axes.grid(axis="y", color=LIGHT.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT.grid)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            frameon=False,
            fontsize=8.5,
            labelcolor=LIGHT.ink,
        )


def _saved(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    buffer = io.BytesIO()
    plain = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=plain, facecolor=LIGHT.paper)
    return buffer.getvalue()
