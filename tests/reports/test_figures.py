from __future__ import annotations

import io
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from reports.figures import DARK, Kind, canvas, dots, frame, legend_above, saved

NAME = r"$\frac$"
"""No formula: matplotlib raises an error where it takes it for one."""


def figure_with(draw: Callable[[Figure, Axes], object], kind: Kind = "svg") -> bytes:
    with canvas(3, 3) as figure:
        axes = figure.add_subplot()
        draw(figure, axes)
        return saved(figure, kind)


def named_in_the_legend(figure: Figure, axes: Axes) -> None:
    dots(axes, [0.0], [0.0], 0, NAME)
    legend_above(figure, axes)


@pytest.mark.parametrize(
    "draw",
    [
        named_in_the_legend,
        lambda figure, axes: axes.set_title(NAME),
        lambda figure, axes: axes.set_xticks([0], [NAME]),
        lambda figure, axes: frame(axes, NAME, NAME),
        lambda figure, axes: axes.text(0, 0, NAME),
        lambda figure, axes: figure.supxlabel(NAME),
    ],
    ids=["legend", "title", "tick", "axis", "text", "figure"],
)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_dollar_sign_in_a_name_starts_no_formula(
    draw: Callable[[Figure, Axes], object], kind: Kind
) -> None:
    assert figure_with(draw, kind)


def test_ticks_of_a_logarithmic_axis_stay_powers_of_ten() -> None:
    with canvas(3, 3) as figure:
        axes = figure.add_subplot()
        dots(axes, [1.0, 1000.0], [0.0, 1.0], 0, "")
        axes.set_xscale("log")
        axes.set_title("$x$")
        saved(figure, "png")
        assert {label.get_parse_math() for label in axes.get_xticklabels()} == {True}
        assert "$\\mathdefault{10^{2}}$" in [label.get_text() for label in axes.get_xticklabels()]
        assert not axes.title.get_parse_math()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_equal_figures_are_equal_files_whatever_the_settings_of_the_user(kind: Kind) -> None:
    made = figure_with(named_in_the_legend, kind)
    with mpl.rc_context({"font.size": 30, "lines.markersize": 20, "savefig.facecolor": "red"}):
        assert figure_with(named_in_the_legend, kind) == made


def test_a_dark_figure_has_dark_paper_to_its_edges() -> None:
    with canvas(1, 1, theme=DARK) as figure:
        frame(figure.add_subplot(), theme=DARK)
        content = saved(figure, "png")
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert picture.shape == (200, 200, 3)
    assert "#" + bytes(picture[0, 0]).hex() == DARK.paper


def test_a_figure_without_named_series_has_no_legend() -> None:
    with canvas(3, 3) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1])
        legend_above(figure, axes)
        assert figure.legends == []
