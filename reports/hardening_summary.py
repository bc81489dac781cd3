"""What a hardening study found, in a few plain lines for a terminal."""

from __future__ import annotations

from moth_eval.text import visible

from .hardening_study import (
    MOST_NAMED,
    Average,
    HardeningFindings,
    MethodLine,
    degradation_of,
    increase_of,
    increase_per_second,
    shortened,
)
from .wording import count

_HEAD = (
    "method", "models", "cells", "degradation (95 %)", "distance (95 %)", "seconds", "increase/s",
)  # fmt: skip


def hardening_lines(found: HardeningFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    table = [list(_HEAD), *map(_cells, found.lines)]
    done = len(found.cells) - len(found.missing)
    manifest = found.manifest
    return [
        f"{count(len(manifest.entries), 'model')} under {count(len(found.lines), 'hardener')}, "
        f"{count(len(manifest.seeds), 'seed')}: {done} of {count(len(found.cells), 'cell')} have a "
        "new model",
        "",
        *columns(table),
        "",
        "degradation: accuracy before minus after; distance: mean over pairs of the relative "
        "increase; means over models, each the mean of its seeds",
        *_missing(found),
        *_notes(found),
    ]


def _cells(line: MethodLine) -> list[str]:
    degradation, increase = line.average(degradation_of), line.average(increase_of)
    seconds, rate = line.average(lambda c: c.training.seconds).value, increase_per_second(line)
    return [
        visible(shortened(line.method)),
        str(degradation.models),
        f"{degradation.cells}/{len(line.cells)}",
        _percent(degradation),
        _percent(increase),
        "–" if seconds is None else f"{seconds:.1f}",
        "–" if rate is None else f"{rate:+.2%}",
    ]


def _percent(average: Average) -> str:
    if average.value is None:
        return "–"
    bounds = average.interval
    text = "too few" if bounds is None else f"{bounds.low:+.1%} to {bounds.high:+.1%}"
    return f"{average.value:+.1%} ({text})"


def _missing(found: HardeningFindings) -> list[str]:
    missing = found.missing
    if not missing:
        return []
    named = [visible(f"{c.label}: {c.status} {c.reason}").rstrip() for c in missing]
    more = len(missing) - MOST_NAMED
    rest = [f"  and {more} more"] if more > 0 else []
    head = f"without a new model, in no mean: {count(len(missing), 'cell')}"
    return [head, *(f"  {line}" for line in named[:MOST_NAMED]), *rest]


def _notes(found: HardeningFindings) -> list[str]:
    """What speaks against the figures, once for each thing, with the models that it is true of."""
    notes: dict[str, dict[str, None]] = {}
    for cell in found.cells:
        for note in cell.card.notes if cell.card else ():
            notes.setdefault(note, {})[cell.model] = None
    lines = [f"{_few(list(models))}: {note}" for note, models in notes.items()]
    uneven = [shortened(line.method) for line in found.lines if line.missing and line.cards]
    if uneven:
        lines.append(f"means of {', '.join(uneven)} rest on fewer cells than asked for")
    return [f"note: {visible(line)}" for line in lines]


def _few(models: list[str]) -> str:
    more = len(models) - MOST_NAMED
    return ", ".join(models[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def columns(cells: list[list[str]]) -> list[str]:
    """Rows of text with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    return [line.rstrip() for line in padded]
