"""The tables of a removal study for people: Markdown, LaTeX, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from moth_eval.text import markdown, visible

from .averages import Average
from .removal import FIGURES, NONE, Line, RemovalFindings, Result
from .removal_tables import ORIGINALS, floor_of
from .study_cells import missing_lines, models_by_note, shortened
from .text_tables import (
    Table,
    as_latex,
    as_lines,
    as_list,
    as_markdown,
    latex_comment,
    percent,
    seconds,
    with_interval,
)
from .text_tables import difference_table as against
from .wording import MOST_NAMED, count

_SHOWN = ("accuracy", "asr", "ra", "der")
_HEADS = {
    "accuracy": "ACC",
    "accuracy_fall": "lost",
    "asr": "ASR",
    "ra": "RA",
    "der": "DER",
    "reactivated_asr": "ASR again",
    "seconds": "seconds",
}
MEANING = (
    "ACC: accuracy on clean test images; ASR: stamped ones classified as the target; RA: stamped "
    "ones classified rightly; DER: 0.5 is no change"
)


def removal_lines(found: RemovalFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    lines = [_heading(found), basis(found), "", *as_lines(method_table(found))]
    if found.differences:
        table = as_lines(difference_table(found))
        lines += ["", f"against {visible(found.manifest.control)}:", *table]
    if found.controls:
        lines += ["", "clean controls:", *as_lines(control_table(found))]
    return [*lines, "", MEANING, *remarks(found)]


def removal_markdown(found: RemovalFindings) -> str:
    """`removal.md`: every table with what has to be said about it."""
    parts = ["# Removal of backdoors", _heading(found) + ".", basis(found) + "."]
    parts += ["## Methods", as_markdown(method_table(found)), MEANING + "."]
    for attack, threat in found.attacks:
        names = {cell.model for cell in found.of_attack(attack, threat)}
        title = f"{attack} ({threat})" if threat else attack
        parts += [f"## Attack {markdown(title)}", as_markdown(method_table(found, names))]
    if found.differences:
        title = f"## Against {markdown(found.manifest.control)}"
        parts += [title, as_markdown(difference_table(found))]
    if found.controls:
        parts += ["## Clean controls", as_markdown(control_table(found))]
    notes = remarks(found)
    if notes:
        parts += ["## Notes", as_list(notes)]
    return "\n\n".join(parts) + "\n"


def removal_latex(found: RemovalFindings) -> str:
    """`removal.tex`: the table of methods and the one per attack."""
    parts = [latex_comment(_heading(found)), latex_comment(basis(found))]
    parts.append(as_latex(method_table(found)))
    for attack, threat in found.attacks:
        names = {cell.model for cell in found.of_attack(attack, threat)}
        parts += [latex_comment(f"{attack} {threat}"), as_latex(method_table(found, names))]
    return "\n".join(parts) + "\n"


def method_table(found: RemovalFindings, models: set[str] | None = None) -> Table:
    """Head and rows: the originals, then every method and by-product.

    Args:
        found: the figures.
        models: only these; None: all.
    """
    everyone = [c for c in found.scored if models is None or c.model in models]
    used = found.compared(everyone)
    shown = [*_SHOWN]
    if found.manifest.reactivation.images:
        shown.append("reactivated_asr")
    table = [["method", "models", "cells", *(_HEADS[name] for name in shown), "seconds"]]
    for line in (ORIGINALS, *found.lines):
        results = found.results(line, used)
        asked = sum(cell.method == line.method for cell in everyone)
        row = [
            _name(line),
            str(found.average(results, FIGURES["asr"]).models),
            f"{len(results)}" if line == ORIGINALS else f"{len(results)}/{asked}",
            *(_figure(found, results, name) for name in shown),
            _seconds(found, results),
        ]
        table.append(row)
    floor = floor_of(found, found.results(ORIGINALS, used))
    if floor.value is not None:
        empty = ["–"] * (len(shown) - 2)
        table.append(["clean model", str(floor.models), "–", "–", percent(floor), *empty, "–"])
    return table


def control_table(found: RemovalFindings) -> Table:
    """Head and rows: what the methods do to clean models."""
    used = found.compared(found.controls)
    table = [["method", "models", "ACC", "lost", "seconds"]]
    for line in (ORIGINALS, *found.lines):
        results = found.results(line, used)
        if results:
            table.append(
                [
                    _name(line),
                    str(found.average(results, FIGURES["accuracy"]).models),
                    percent(found.average(results, FIGURES["accuracy"])),
                    "–"
                    if line == ORIGINALS
                    else percent(found.average(results, FIGURES["accuracy_fall"]), sign=True),
                    _seconds(found, results),
                ]
            )
    return table


def difference_table(found: RemovalFindings) -> Table:
    """Head and rows: every method minus the control, model by model."""
    return against(
        (
            shortened(one.line.label),
            _HEADS[one.figure],
            one,
            _text(one.figure, one.average, sign=True),
        )
        for one in found.differences
    )


def basis(found: RemovalFindings) -> str:
    """On how many models and cells every mean rests."""
    used = found.compared(found.scored)
    models = len({cell.model for cell in used})
    cells = len({(cell.model, cell.seed) for cell in used})
    everyone = len({cell.model for cell in found.scored})
    return (
        f"means over the {count(models, 'model')} (of {everyone}) and {count(cells, 'repair')} per "
        "method that every method has a result for, each model the mean of its seeds, with 95 % "
        "intervals"
    )


def remarks(found: RemovalFindings) -> list[str]:
    """What is missing, what was not scored, and what speaks against the figures."""
    left_out = found.unimplanted.items()
    lines = [visible(f"not implanted, never scored: {name}: {why}") for name, why in left_out]
    lines += missing_lines("a result", found.missing)
    lines += [f"note: {visible(note)}" for note in _notes(found)]
    return lines


def _notes(found: RemovalFindings) -> list[str]:
    notes = models_by_note(found.cells)
    lines = [f"{', '.join(models[:MOST_NAMED])}: {note}" for note, models in notes.items()]
    oracles = [line.label for line in found.lines if line.oracle]
    if oracles:
        lines.append(
            f"{', '.join(map(shortened, oracles))}: looks at the trigger or its target class; a "
            "bound, not a method"
        )
    empty = sorted({c.method for c in found.scored} - {c.method for c in found.scored if c.card})
    if empty and any(c.card for c in found.scored):
        lines.append(f"{', '.join(map(shortened, empty))}: no result at all, so in no comparison")
    if not found.manifest.test:
        lines.append(
            "test images were held out of --data: where models were trained on --data, they know "
            "them, and every figure flatters; give others with --test"
        )
    check = found.manifest.reactivation
    if check.images:
        lines.append(
            f"ASR again: after fine-tuning on the clean images, {check.images} of them stamped and "
            f"relabelled; SGD {check.learning_rate:g}, {check.epochs} epochs, batch "
            f"{check.batch_size}"
        )
    return lines


def _heading(found: RemovalFindings) -> str:
    manifest = found.manifest
    attacked = len({cell.model for cell in found.scored})
    clean = sum(entry.clean for entry in manifest.entries)
    return (
        f"{count(attacked, 'attacked model')}, {count(clean, 'clean control')}, "
        f"{len(found.unimplanted)} not implanted; {count(len(manifest.methods), 'method')}, "
        f"{count(len(manifest.seeds), 'seed')}, {manifest.clean_share:.3g} of the clean images"
    )


def _name(line: Line) -> str:
    return "before" if line.method == NONE else shortened_label(line)


def shortened_label(line: Line) -> str:
    """What a line is called where there is little room; an oracle's still says so."""
    tail = f" / {line.variant}" if line.variant else ""
    return f"{shortened(line.method)}{tail}{' (oracle)' if line.oracle else ''}"


def _figure(found: RemovalFindings, results: Sequence[Result], name: str) -> str:
    return _text(name, found.average(results, FIGURES[name]))


def _text(name: str, average: Average, *, sign: bool = False) -> str:
    if name == "der":
        return with_interval(average, "+.3f" if sign else ".3f")
    return percent(average, sign=sign)


def _seconds(found: RemovalFindings, results: Sequence[Result]) -> str:
    return seconds(found.average(results, FIGURES["seconds"]))
