"""What a hardening study found, in a few plain lines for a terminal."""

from __future__ import annotations

from moth_eval.text import visible

from .averages import Average
from .hardening_study import (
    HardeningFindings,
    MethodLine,
    degradation_of,
    increase_of,
    increase_per_second,
)
from .study_cells import missing_lines, models_by_note, shortened
from .wording import columns, count, few

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
        *missing_lines("a new model", found.missing),
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


def _notes(found: HardeningFindings) -> list[str]:
    lines = [f"{few(models)}: {note}" for note, models in models_by_note(found.cells).items()]
    uneven = [shortened(line.method) for line in found.lines if line.missing and line.cards]
    if uneven:
        lines.append(f"means of {', '.join(uneven)} rest on fewer cells than asked for")
    return [f"note: {visible(line)}" for line in lines]
