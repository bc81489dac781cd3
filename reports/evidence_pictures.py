"""Pictures of evidence that is no trigger: images as they were and with the change that counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from moth_eval.records import EvidenceRecord, ScanRecord

from .pictures import (
    FAINT,
    FRAME,
    GAP,
    INK,
    MOST_CLASSES,
    PAPER,
    THUMBNAIL,
    TILE,
    FloatArray,
    Pictures,
    as_image,
    as_png,
    as_rgb,
    fitted,
    font,
    pictures,
    read_arrays,
    require_drawable,
    unit,
)
from .rows import Row
from .stored_arrays import Arrays

_LEFT, _TOP = 74, 40

Shown = list[tuple[EvidenceRecord, FloatArray]]
"""Figures of the evidence, and the two images `(2, H, W, 3)` of each."""


def drawn(run: Path, row: Row) -> Pictures | None:
    """The pictures of one row: of its triggers, else of its evidence; None if there is none.

    Raises:
        RunError: the file of arrays is missing, altered or malformed.
    """
    record = row.record
    if record is None or record.triggers or not record.triggers_file:
        return pictures(run, row)
    found = read_arrays(run, record, lambda file: _shown(file, record))
    if not found:
        return None
    return Pictures(
        path=record.triggers_file.removesuffix(".npz") + ".png",
        sheet=as_png(_sheet(found)),
        thumbnail=as_png(fitted(as_image(found[0][1][1]), THUMBNAIL).quantize(48)),
        caption="an image as it was and changed, for " + ", ".join(_about(one) for one, _ in found),
    )


def _shown(file: Arrays, record: ScanRecord) -> Shown:
    if "pictures" not in file:
        return []
    images = file["pictures"]
    numbers = np.asarray(file["evidence"], dtype=np.int64)
    count, two, *_ = images.shape
    if images.ndim != 5 or two != 2 or numbers.shape != (count,):
        raise ValueError(f"pictures {images.shape} and evidence {numbers.shape} do not fit")
    if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(record.evidence):
        raise ValueError(f"pictures of evidence {numbers.max()}, of {len(record.evidence)}")
    require_drawable(images)
    images = images[:MOST_CLASSES].astype(np.float32)
    return [
        (record.evidence[number], unit(as_rgb(images[place])))
        for place, number in enumerate(numbers[:MOST_CLASSES].tolist())
    ]


def _about(one: EvidenceRecord) -> str:
    if one.target is None:
        return "the network"
    return f"class {one.target}" if one.source is None else f"{one.source} → {one.target}"


def _sheet(found: Shown) -> Image.Image:
    step = TILE + GAP
    sheet = Image.new("RGB", (_LEFT + step * len(found), _TOP + step * 2), PAPER)
    pen = ImageDraw.Draw(sheet)
    for line, name in enumerate(("as it was", "changed")):
        middle = _TOP + step * line + TILE // 2
        pen.text((GAP, middle), name, FAINT, font(bold=False, size=11), "lm")
    for column, (one, images) in enumerate(found):
        left = _LEFT + step * column
        pen.text((left, 8), _about(one), INK, font(bold=True, size=11))
        pen.text((left, 23), f"{one.value:.3g}", FAINT, font(bold=False, size=10))
        for line, values in enumerate(images):
            tile, top = fitted(as_image(values), TILE), _TOP + step * line
            sheet.paste(tile, (left, top))
            pen.rectangle(
                ((left, top), (left + tile.width - 1, top + tile.height - 1)), outline=FRAME
            )
    return sheet
