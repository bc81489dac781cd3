"""What a hardening study found, for people: lines for a terminal, Markdown, LaTeX."""

from __future__ import annotations

from moth_eval.hardening_records import HardeningCard
from moth_eval.text import markdown, visible

from .averages import Average
from .controlled import Difference
from .hardening_study import (
    Figure,
    HardeningFindings,
    MethodLine,
    accuracy_after_of,
    accuracy_before_of,
    degradation_of,
    increase_of,
    increase_per_second,
    seconds_of,
)
from .study_cells import missing_lines, models_by_note, shortened
from .text_tables import (
    Table,
    as_latex,
    as_lines,
    as_list,
    as_markdown,
    difference_table,
    latex_comment,
    percent,
    seconds,
    with_interval,
)
from .wording import count, few

_HEAD = [
    "method", "models", "cells", "degradation (95 %)", "distance (95 %)", "seconds", "increase/s",
]  # fmt: skip
_MODEL_HEAD = [
    "model", "method", "seeds", "accuracy before", "accuracy after", "degradation",
    "distance before", "distance after", "increase", "seconds",
]  # fmt: skip
_FIGURES = {
    "degradation": "degradation",
    "mean_of_ratios": "distance",
    "ratio_of_means": "distance of the means",
    "seconds": "seconds",
}
_MEANING = (
    "degradation: accuracy before minus after; distance: mean over pairs of the relative "
    "increase; means over models, each the mean of its seeds"
)


def hardening_lines(found: HardeningFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    lines = [_heading(found), "", *as_lines(method_table(found)), "", _MEANING]
    if found.differences:
        against = f"against {visible(found.control.method)}, model by model:"
        lines += ["", against, *as_lines(_differences(found))]
    return [*lines, *remarks(found)]


def hardening_markdown(found: HardeningFindings) -> str:
    """`hardening.md`: every table with what has to be said about it."""
    parts = ["# Hardening", _heading(found) + ".", "## Methods", as_markdown(method_table(found))]
    parts += [_MEANING + ".", "## Models", as_markdown(model_table(found))]
    if found.differences:
        title = f"## Against {markdown(found.control.method)}"
        parts += [title, as_markdown(_differences(found))]
    notes = remarks(found)
    if notes:
        parts += ["## Notes", as_list(notes)]
    return "\n\n".join(parts) + "\n"


def hardening_latex(found: HardeningFindings) -> str:
    """`hardening.tex`: the table of methods, the one of models, and the comparisons."""
    parts = [latex_comment(_heading(found)), latex_comment(_MEANING), as_latex(method_table(found))]
    parts += [latex_comment("model by model"), as_latex(model_table(found))]
    if found.differences:
        title = latex_comment(f"against {found.control.method}")
        parts += [title, as_latex(_differences(found))]
    return "\n".join(parts) + "\n"


def method_table(found: HardeningFindings) -> Table:
    """Head and rows: every method over all models."""
    return [_HEAD, *map(_cells, found.lines)]


def model_table(found: HardeningFindings) -> Table:
    """Head and rows: every model under every method that left it a new model, means over seeds."""
    rows = [
        _model_cells(line, entry.name)
        for entry in found.manifest.entries
        for line in found.lines
        if entry.name in line.by_model(seconds_of)
    ]
    return [_MODEL_HEAD, *rows]


def remarks(found: HardeningFindings) -> list[str]:
    """What is missing, and what speaks against the figures."""
    return [*missing_lines("a new model", found.missing), *_notes(found)]


def _heading(found: HardeningFindings) -> str:
    done = len(found.cells) - len(found.missing)
    manifest = found.manifest
    return (
        f"{count(len(manifest.entries), 'model')} under {count(len(found.lines), 'hardener')}, "
        f"{count(len(manifest.seeds), 'seed')}: {done} of {count(len(found.cells), 'cell')} have a "
        "new model"
    )


def _cells(line: MethodLine) -> list[str]:
    degradation, increase = line.average(degradation_of), line.average(increase_of)
    rate = increase_per_second(line)
    return [
        shortened(line.method),
        str(degradation.models),
        f"{degradation.cells}/{len(line.cells)}",
        _percent(degradation),
        _percent(increase),
        seconds(line.average(seconds_of)),
        "–" if rate is None else f"{rate:+.2%}",
    ]


def _model_cells(line: MethodLine, model: str) -> list[str]:
    def mean(figure: Figure, form: str) -> str:
        values = line.by_model(figure).get(model)
        return f"{sum(values) / len(values):{form}}" if values else "–"

    return [
        model,
        shortened(line.method),
        str(len(line.by_model(seconds_of)[model])),
        mean(accuracy_before_of, ".1%"),
        mean(accuracy_after_of, ".1%"),
        mean(degradation_of, "+.1%"),
        mean(_distance_before, ".1f"),
        mean(_distance_after, ".1f"),
        mean(increase_of, "+.1%"),
        mean(seconds_of, ".1f"),
    ]


def _distance_before(card: HardeningCard) -> float | None:
    return None if card.distance is None else card.distance.mean_before


def _distance_after(card: HardeningCard) -> float | None:
    return None if card.distance is None else card.distance.mean_after


def _differences(found: HardeningFindings) -> Table:
    return difference_table(
        (shortened(one.line), _FIGURES[one.figure], one, _difference(one))
        for one in found.differences
    )


def _difference(one: Difference[str]) -> str:
    if one.figure == "seconds":
        return with_interval(one.average, "+.1f")
    return percent(one.average, sign=True)


def _percent(average: Average) -> str:
    few_models = average.value is not None and average.interval is None
    return percent(average, sign=True) + (" (too few)" if few_models else "")


def _notes(found: HardeningFindings) -> list[str]:
    lines = [f"{few(models)}: {note}" for note, models in models_by_note(found.cells).items()]
    uneven = [shortened(line.method) for line in found.lines if line.missing and line.cards]
    if uneven:
        lines.append(f"means of {', '.join(uneven)} rest on fewer cells than asked for")
    return [f"note: {visible(line)}" for line in lines]
