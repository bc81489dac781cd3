"""What all figures share: their colours, canvas, frame, legend, and how they become files."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

Kind = Literal["png", "svg"]
"""`png` at 200 dots per inch, or `svg` with its letters as outlines."""

MARKERS = "osD^vPX*<>"
"""Series of points are told apart by them too; with more than there are colours, those repeat."""

DOTTED = (0, (2, 3))


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a figure; the lines are told apart by dashes too."""

    ink: str
    faint: str
    grid: str
    paper: str
    lines: tuple[str, ...]


LIGHT = Theme(
    ink="#1c2024",
    faint="#6b737c",
    grid="#e4e7ea",
    paper="#ffffff",
    lines=("#1f5fbf", "#c2410c", "#0f7b5f", "#8b3fa8", "#9a6b00", "#be185d"),
)
DARK = Theme(
    ink="#e6e8ea",
    faint="#9aa3ac",
    grid="#2c3238",
    paper="#171a1e",
    lines=("#7ab0ff", "#ff9a62", "#4fd1a8", "#d59cf0", "#e8bd57", "#ff8fb8"),
)


@contextmanager
def canvas(
    width: float,
    height: float,
    *,
    theme: Theme = LIGHT,
    letters: float = 10,
    margin: float | None = None,
) -> Iterator[Figure]:
    """An empty figure, to be drawn and saved inside, whatever the user's settings are.

    Args:
        width: in inches.
        height: in inches.
        theme: whose paper it has.
        letters: size of the font (points).
        margin: around axes (inches); None: matplotlib's own.
    """
    ours = {"svg.hashsalt": "moth-eval", "font.family": "DejaVu Sans", "font.size": letters}
    with style.context(["default", ours]):
        layout = ConstrainedLayoutEngine(w_pad=margin, h_pad=margin)
        yield Figure(figsize=(width, height), facecolor=theme.paper, layout=layout)


def frame(
    axes: Axes,
    across: str = "",
    up: str = "",
    *,
    theme: Theme = LIGHT,
    grid: Literal["both", "y"] = "both",
) -> None:
    """Draw the axes in our colours, without ticks, and name them.

    Args:
        axes: to be framed.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        theme: colours.
        grid: axes whose ticks have a line.
    """
    axes.set_facecolor(theme.paper)
    axes.set_xlabel(across, color=theme.ink)
    axes.set_ylabel(up, color=theme.ink)
    axes.tick_params(colors=theme.faint, length=0, which="both")
    axes.grid(axis=grid, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)


def dots(
    axes: Axes,
    across: Sequence[float],
    up: Sequence[float],
    number: int,
    label: str,
    *,
    hollow: bool = False,
) -> None:
    """Draw a series of points.

    Args:
        axes: to draw on.
        across: horizontal places.
        up: vertical places.
        number: of the series, which has its colour and marker from it.
        label: its entry in the legend.
        hollow: whether only the outline of the markers is drawn.
    """
    colour = LIGHT.lines[number % len(LIGHT.lines)]
    axes.plot(
        across,
        up,
        linestyle="none",
        marker=MARKERS[number % len(MARKERS)],
        markersize=7,
        color=colour,
        markerfacecolor="none" if hollow else colour,
        markeredgecolor=colour if hollow else LIGHT.paper,
        alpha=0.85,
        label=label,
    )


def legend_above(
    figure: Figure,
    axes: Axes,
    *,
    theme: Theme = LIGHT,
    columns: int = 1,
    handlelength: float | None = None,
) -> None:
    """Put the legend of these axes above all of them; nothing where nothing has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=columns,
            frameon=False,
            fontsize=8.5,
            labelcolor=theme.ink,
            handlelength=handlelength,
        )


def saved(figure: Figure, kind: Kind) -> bytes:
    """The figure as a file without a date: equal figures give equal bytes."""
    _take_names_as_they_are(figure)
    buffer = io.BytesIO()
    plain = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    figure.savefig(buffer, format=kind, dpi=200, metadata=plain)
    return buffer.getvalue()


def _take_names_as_they_are(figure: Figure) -> None:
    """Names are data: a dollar sign in one must not start a formula.

    Only the ticks of logarithmic axes are formulas, which matplotlib writes itself.
    """
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for label in axis.get_ticklabels(which="both") if axis.get_scale() == "log" else ():
                label.set_parse_math(True)
