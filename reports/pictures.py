"""Pictures of inverted triggers, drawn from the arrays that a run left."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from moth_eval.errors import RunError
from moth_eval.records import TRIGGERS, ScanRecord
from moth_eval.run_files import LARGEST_LEDGER, read_file

from .rows import Row
from .stored_arrays import UNREADABLE, Arrays, arrays_in

MOST_CLASSES = 6
TILE = 128
"""Side of one picture in a sheet (pixels)."""

MOST_VALUES = 1 << 26
"""Of all images of a scan that are drawn together; 64 triggers at 512 pixels have 50 million."""

THUMBNAIL = 64
"""Side of a thumbnail (pixels)."""

GAP = 12
_LEFT, _TOP = 74, 40
INK, FAINT, ACCENT, PAPER, FRAME = "#1c2024", "#6b737c", "#c2410c", "#ffffff", "#d3d8dd"

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TriggerArrays:
    """The inverted triggers of one scan.

    Attributes:
        targets: `(P,)` class that stamped images become.
        sources: `(P,)` class they were made for; -1 for any.
        masks: `(P, H, W)` in `[0, 1]`.
        patterns: `(P, H, W, 3)` in `[0, 1]`.
        sizes: `(P,)` sum of the mask (pixels).
        asrs: `(P,)` attack success rate in `[0, 1]`.
        valid: `(P,)` whether the size means anything.
    """

    targets: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int64]
    masks: FloatArray
    patterns: FloatArray
    sizes: FloatArray
    asrs: FloatArray
    valid: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The two pictures of one row, as PNG files.

    Attributes:
        path: where the sheet lies, relative to the run folder.
        sheet: mask, pattern and their product for up to six classes; empty once it is on disk.
        thumbnail: the product for the first of them.
        caption: what the sheet shows, in words.
    """

    path: str
    sheet: bytes
    thumbnail: bytes
    caption: str


def pictures(run: Path, row: Row) -> Pictures | None:
    """The pictures of one row; None if the scan left no triggers.

    Raises:
        RunError: the file of triggers is missing, altered or malformed.
    """
    record = row.record
    if record is None or not record.triggers:
        return None
    arrays = read_triggers(run, record)
    shown = most_telling(arrays, record.target)
    if not shown:
        return None
    return Pictures(
        path=record.triggers_file.removesuffix(".npz") + ".png",
        sheet=as_png(_sheet(arrays, shown, record.target)),
        # A thousand thumbnails share one page: a small palette keeps it light.
        thumbnail=as_png(fitted(product(arrays, shown[0]), THUMBNAIL).quantize(48)),
        caption="mask, pattern and their product for class "
        + ", ".join(str(arrays.targets[i]) for i in shown),
    )


def read_triggers(run: Path, record: ScanRecord) -> TriggerArrays:
    """The inverted triggers of a scan, checked against the hash in its record.

    Raises:
        RunError: the file is missing, lies elsewhere, was altered or is malformed.
    """
    return read_arrays(run, record, _arrays)


def read_arrays(run: Path, record: ScanRecord, read: Callable[[Arrays], T]) -> T:
    """What `read` makes of the arrays that a scan left.

    Raises:
        RunError: the file is missing, lies elsewhere, was altered or is malformed.
    """
    path = run / record.triggers_file
    inside = path.parent.resolve() == (run / TRIGGERS).resolve() and path.suffix == ".npz"
    if not inside or path.is_symlink():
        raise RunError(
            f"expected a file {TRIGGERS}/*.npz, the ledger names {record.triggers_file!r}; "
            "it is not opened"
        )
    try:
        content = read_file(path, largest=LARGEST_LEDGER)
    except OSError as error:
        raise RunError(f"{record.triggers_file} cannot be read: {error.strerror}") from error
    if record.triggers_sha256 and hashlib.sha256(content).hexdigest() != record.triggers_sha256:
        raise RunError(f"{record.triggers_file} is not the file that the scan wrote: hashes differ")
    try:
        return read(arrays_in(content))
    except UNREADABLE as error:
        raise RunError(f"{record.triggers_file} is malformed: {error}") from error


def _arrays(file: Arrays) -> TriggerArrays:
    masks, patterns = file["masks"], file["patterns"]
    flat = {name: file[name] for name in ("targets", "sources", "sizes", "asrs", "valid")}
    rows, _, height, width = patterns.shape
    if masks.shape != (rows, 1, height, width) or any(a.shape != (rows,) for a in flat.values()):
        raise ValueError(f"masks {masks.shape} and patterns {patterns.shape} do not fit")
    require_drawable(patterns)
    masks, patterns = masks.astype(np.float32), patterns.astype(np.float32)
    return TriggerArrays(
        targets=flat["targets"].astype(np.int64),
        sources=flat["sources"].astype(np.int64),
        masks=unit(masks[:, 0]),
        patterns=unit(as_rgb(patterns)),
        sizes=flat["sizes"].astype(np.float32),
        asrs=flat["asrs"].astype(np.float32),
        valid=flat["valid"].astype(np.bool_),
    )


def require_drawable(images: npt.NDArray[Any]) -> None:
    """Make sure that arrays `(..., C, H, W)` can be drawn, in memory that is there.

    Raises:
        ValueError: a side of them is 0, or they are too large.
    """
    if not images.size or images.size > MOST_VALUES:
        raise ValueError(
            f"expected images of at most {MOST_VALUES:,} values and at least one, got the shape "
            f"{images.shape}"
        )


def as_rgb(patterns: FloatArray) -> FloatArray:
    """`(P, H, W, 3)` from `(P, C, H, W)`; one channel becomes grey, channels past three drop."""
    last = np.moveaxis(patterns, 1, -1)
    return np.repeat(last[..., :1], 3, axis=-1) if last.shape[-1] < 3 else last[..., :3]


def unit(values: FloatArray) -> FloatArray:
    """The values within `[0, 1]`."""
    return np.clip(np.nan_to_num(values), 0.0, 1.0)


def most_telling(arrays: TriggerArrays, suspected: int | None) -> list[int]:
    """Up to six rows, one per class: the suspected class, then valid ones by size."""

    def rank(row: int) -> tuple[bool, bool, float, int]:
        other = suspected is None or int(arrays.targets[row]) != suspected
        return other, not arrays.valid[row], float(arrays.sizes[row]), row

    best: dict[int, int] = {}
    for row in sorted(range(arrays.targets.size), key=rank):
        best.setdefault(int(arrays.targets[row]), row)
    return list(best.values())[:MOST_CLASSES]


def product(arrays: TriggerArrays, row: int) -> Image.Image:
    """Mask times pattern of one row."""
    return as_image(arrays.masks[row][..., None] * arrays.patterns[row])


def as_image(values: FloatArray) -> Image.Image:
    """A picture of values `(H, W, 3)` in `[0, 1]`."""
    return Image.fromarray(np.rint(values * 255).astype(np.uint8), "RGB")


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The picture scaled so that its longer side is `side`; pixels stay pixels when it grows."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _sheet(arrays: TriggerArrays, shown: list[int], suspected: int | None) -> Image.Image:
    step = TILE + GAP
    sheet = Image.new("RGB", (_LEFT + step * len(shown), _TOP + step * 3), PAPER)
    pen = ImageDraw.Draw(sheet)
    for line, name in enumerate(("mask", "pattern", "mask ×\npattern")):
        middle = _TOP + step * line + TILE // 2
        pen.multiline_text((GAP, middle), name, FAINT, font(bold=False, size=11), "lm", spacing=3)
    for column, row in enumerate(shown):
        _column(sheet, arrays, row, _LEFT + step * column, suspected)
    return sheet


def _column(
    sheet: Image.Image, arrays: TriggerArrays, row: int, left: int, suspected: int | None
) -> None:
    pen = ImageDraw.Draw(sheet)
    named = suspected is not None and int(arrays.targets[row]) == suspected
    colour = ACCENT if named else INK
    source, valid = int(arrays.sources[row]), bool(arrays.valid[row])
    title = f"{source} → {arrays.targets[row]}" if source >= 0 else f"class {arrays.targets[row]}"
    pen.text((left, 8), title + (" suspected" if named else ""), colour, font(bold=True, size=11))
    figures = f"{arrays.sizes[row]:.3g} px, ASR {arrays.asrs[row]:.0%}"
    pen.text((left, 23), figures if valid else f"{figures} (low)", FAINT, font(bold=False, size=10))
    mask = as_image(np.repeat(arrays.masks[row][..., None], 3, axis=-1))
    for line, image in enumerate((mask, as_image(arrays.patterns[row]), product(arrays, row))):
        top = _TOP + (TILE + GAP) * line
        tile = fitted(image, TILE)
        sheet.paste(tile, (left, top))
        corner = (left + tile.width - 1, top + tile.height - 1)
        pen.rectangle(((left, top), corner), outline=ACCENT if named else FRAME)


@cache
def font(*, bold: bool, size: int) -> ImageFont.FreeTypeFont:
    """A font that matplotlib brings along, so that pictures are the same on every machine."""
    name = "DejaVuSans-Bold" if bold else "DejaVuSans"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size)


def as_png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    # Level 1: noise does not shrink further, and level 9 takes twenty times as long.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
