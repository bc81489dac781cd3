"""The heat map of class distances, and pictures of the smallest triggers."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from moth_eval.distance_records import DistanceRecord
from moth_eval.distance_table import Pair
from moth_eval.errors import RunError
from moth_eval.metrics import FloatArray

from .figures import LIGHT, Kind, canvas, saved

MOST_LABELLED = 20
"""With more classes than this the numbers do not fit into their cells."""

_FAILED, _EMPTY = "#f3b0a3", "#eceef0"

Images = npt.NDArray[np.float32]


def heat_map(matrix: FloatArray, failed: Sequence[Pair], title: str, *, kind: Kind) -> bytes:
    """The matrix `(K, K)` as a file; equal matrices give equal bytes.

    Rows are sources, columns targets. Failed pairs are red, pairs that were not measured grey.

    Args:
        matrix: distances; NaN where there is none.
        failed: pairs without a valid trigger.
        title: above the figure.
        kind: of file.
    """
    classes = len(matrix)
    side = min(12.0, max(4.0, 0.55 * classes + 1.6))
    with canvas(side + 1.0, side) as figure:
        axes = figure.add_subplot()
        colours = colormaps["viridis"].with_extremes(bad=_EMPTY)
        image = axes.imshow(np.ma.masked_invalid(matrix), cmap=colours)
        for source, target in failed:
            corner = (target - 0.5, source - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=_FAILED, edgecolor="none"))
        _frame(axes, classes, title)
        if classes <= MOST_LABELLED:
            _write_numbers(axes, matrix)
        if not np.isnan(matrix).all():
            figure.colorbar(image, ax=axes, shrink=0.8, label="sum of the mask over all channels")
        return saved(figure, kind)


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A trigger that a run left.

    Attributes:
        record: what it is.
        mask: `(1, H, W)` in `[0, 1]`.
        pattern: `(C, H, W)` in `[0, 1]`.
        image: `(C, H, W)` in `[0, 1]`, of the source class.
    """

    record: DistanceRecord
    mask: Images
    pattern: Images
    image: Images

    @property
    def pictures(self) -> list[Images]:
        """Image, mask, pattern and stamped image, `(H, W, 3)` or `(H, W)`."""
        stamped = (1 - self.mask) * self.image + self.mask * self.pattern
        return [_shown(part) for part in (self.image, self.mask, self.pattern, stamped)]


def read_trigger(run: Path, record: DistanceRecord) -> Trigger:
    """The trigger of a record, checked against the hash in it.

    Raises:
        RunError: the file is missing, malformed, or not the one that the run wrote.
    """
    path = run / record.trigger_file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(f"{record.trigger_file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != record.trigger_sha256:
        raise RunError(f"{record.trigger_file} is not the file that the run wrote: hashes differ")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            parts = [np.asarray(file[n], np.float32) for n in ("mask", "pattern", "image")]
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RunError(f"{record.trigger_file} is malformed: {error}") from error
    return Trigger(record=record, mask=parts[0], pattern=parts[1], image=parts[2])


def trigger_sheet(triggers: Sequence[Trigger]) -> bytes:
    """A PNG with a column per trigger: image, mask, pattern and the stamped image."""
    titles = ("image", "mask", "pattern", "stamped")
    with canvas(1.7 * len(triggers) + 0.6, 7.4) as figure:
        grid = figure.subplots(len(titles), len(triggers), squeeze=False)
        for column, trigger in enumerate(triggers):
            for axes, picture in zip(grid[:, column], trigger.pictures, strict=True):
                axes.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
                axes.set(xticks=[], yticks=[])
            grid[0, column].set_title(_caption(trigger.record), fontsize=9)
        for axes, title in zip(grid[:, 0], titles, strict=True):
            axes.set_ylabel(title, color=LIGHT.faint)
        return saved(figure, "png")


def _caption(record: DistanceRecord) -> str:
    size = "–" if record.distance is None else f"{record.distance:.4g}"
    return f"{record.source} → {record.target}\n{size}, ASR {record.asr:.0%}"


def _shown(values: Images) -> Images:
    """`(H, W, 3)`, or `(H, W)` for fewer than three channels."""
    clipped = np.clip(np.nan_to_num(values), 0, 1)
    return np.moveaxis(clipped[:3], 0, -1) if len(values) >= 3 else clipped[0]


def _frame(axes: Axes, classes: int, title: str) -> None:
    step = max(1, math.ceil(classes / 25))
    ticks = range(0, classes, step)
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_yticks(ticks, [str(t) for t in ticks])
    axes.tick_params(colors=LIGHT.faint, length=0)
    axes.set_xlabel("target class", color=LIGHT.ink)
    axes.set_ylabel("source class", color=LIGHT.ink)
    axes.set_title(title, color=LIGHT.ink, fontsize=11)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _write_numbers(axes: Axes, matrix: FloatArray) -> None:
    if np.isnan(matrix).all():
        return
    middle = (np.nanmin(matrix) + np.nanmax(matrix)) / 2
    for (source, target), value in np.ndenumerate(matrix):
        if not np.isnan(value):
            colour = "white" if value <= middle else "black"
            axes.text(target, source, f"{value:.3g}", ha="center", va="center", color=colour,
                      fontsize=7.5)  # fmt: skip
