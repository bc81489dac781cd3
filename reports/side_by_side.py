"""Two models' inverted triggers beside each other: what is natural beside what was injected."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from PIL import Image, ImageDraw

from moth_eval.errors import RunError
from moth_eval.text import file_name, visible

from .pictures import (
    ACCENT,
    FAINT,
    FRAME,
    GAP,
    INK,
    PAPER,
    TriggerArrays,
    as_image,
    as_png,
    fitted,
    font,
    most_telling,
    product,
    read_triggers,
)
from .rows import Row, Run

SIDE = 192
"""Side of one picture (pixels)."""

_LEFT, _TOP, _LONGEST = 84, 84, 30
_BETWEEN = 28


def pair_path(run: Run, models: tuple[str, str]) -> Path:
    """Where the picture of two models lies."""
    return run.path / f"pair-{'--'.join(map(file_name, models))}.png"


def side_by_side(run: Run, models: tuple[str, str]) -> bytes:
    """A PNG with a column per model: mask, pattern and their product of its suspected class.

    Source: after Figure 1 of MOTH (Tao et al., IEEE S&P 2022), which sets a natural backdoor
    beside an injected one.

    Args:
        run: a run whose first scanner with triggers of both models is shown.
        models: names of two of its models.

    Raises:
        RunError: there is no such model, or no scanner that left triggers of both.
    """
    rows = _rows(run, models)
    step = SIDE + _BETWEEN
    width, height = _LEFT + step * len(rows), _TOP + (SIDE + GAP) * 3
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    for line, name in enumerate(("mask", "pattern", "mask ×\npattern")):
        middle = _TOP + (SIDE + GAP) * line + SIDE // 2
        pen.multiline_text((GAP, middle), name, FAINT, font(bold=False, size=11), "lm", spacing=3)
    for place, row in enumerate(rows):
        if row.record is not None:
            _column(sheet, row, read_triggers(run.path, row.record), _LEFT + step * place)
    return as_png(sheet)


def _rows(run: Run, models: tuple[str, str]) -> tuple[Row, ...]:
    known = [entry.name for entry in run.manifest.entries]
    for model in models:
        if model not in known:
            close = get_close_matches(model, known, n=1)
            hint = f"; did you mean {visible(close[0])!r}?" if close else ""
            raise RunError(f"{run.path} has no model {visible(model)!r}{hint}")
    for scanner in run.scanners:
        found = {row.model: row for row in run.of(scanner) if row.record and row.record.triggers}
        if all(model in found for model in models):
            return tuple(found[model] for model in models)
    raise RunError(
        f"no scanner of {run.path} left triggers of both {visible(models[0])!r} and "
        f"{visible(models[1])!r}: nothing to show"
    )


def _column(sheet: Image.Image, row: Row, arrays: TriggerArrays, left: int) -> None:
    pen = ImageDraw.Draw(sheet)
    place = most_telling(arrays, row.record.target if row.record else None)[0]
    named = row.above_cut is True
    name = visible(row.model)
    shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    pen.text((left, 10), shown, INK, font(bold=True, size=12))
    pen.text((left, 28), f"{_truth(row)}; {_score(row)}", FAINT, font(bold=False, size=11))
    source = int(arrays.sources[place])
    flips = f"{source} → {arrays.targets[place]}" if source >= 0 else f"to {arrays.targets[place]}"
    size, asr = float(arrays.sizes[place]), float(arrays.asrs[place])
    low = "" if arrays.valid[place] else " (low)"
    pen.text(
        (left, 44), f"{flips}: {size:.3g} px, ASR {asr:.0%}{low}", INK, font(bold=False, size=11)
    )
    mask = as_image(arrays.masks[place][..., None].repeat(3, axis=-1))
    for line, image in enumerate((mask, as_image(arrays.patterns[place]), product(arrays, place))):
        top = _TOP + (SIDE + GAP) * line
        large = fitted(image, SIDE)
        sheet.paste(large, (left, top))
        corner = (left + large.width - 1, top + large.height - 1)
        pen.rectangle(((left, top), corner), outline=ACCENT if named else FRAME)


def _truth(row: Row) -> str:
    if row.truth is None:
        return "of unknown truth"
    kind = f" ({visible(row.truth.trigger_type)})" if row.truth.trigger_type else ""
    return f"backdoored{kind}" if row.truth.poisoned else "clean"


def _score(row: Row) -> str:
    return "no score" if row.score is None else f"score {row.score:.3g}"
