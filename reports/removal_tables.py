"""The rows of a removal study's tables, as column -> value; None where a figure does not exist."""

from __future__ import annotations

import json
from collections.abc import Sequence

from moth_eval.removal_records import RemovalState

from .averages import Average
from .removal import (
    ALL,
    FIGURES,
    NONE,
    Figure,
    Line,
    RemovalFindings,
    Result,
    counts,
)
from .tables import Cell, with_bounds

ORIGINALS = Line(method=NONE)


def result_rows(found: RemovalFindings) -> list[dict[str, Cell]]:
    """The lines of `results.csv`: a row per cell and variant, missing cells too."""
    used = {(c.model, c.seed) for c in found.compared(found.scored)}
    used |= {(c.model, c.seed) for c in found.compared(found.controls)}
    lines: list[dict[str, Cell]] = []
    for cell in found.cells:
        own = [line for line in found.lines if line.method == cell.method]
        rows = [(line, one) for line in own for one in found.results(line, [cell])]
        lines += [_result(found, cell, line, one, used) for line, one in rows]
        if not rows:
            lines.append(_result(found, cell, own[0], None, used))
    return lines


def _result(
    found: RemovalFindings,
    cell: RemovalState,
    line: Line,
    one: Result | None,
    used: set[tuple[str, int]],
) -> dict[str, Cell]:
    entry = found.entries[cell.model]
    return {
        "model": cell.model,
        "attack": entry.attack,
        "threat": entry.threat or None,
        "target": entry.target,
        "method": cell.method,
        "variant": line.variant or None,
        "oracle": line.oracle,
        "seed": cell.seed,
        "status": cell.status,
        "reason": cell.reason or None,
        "compared": one is not None and (cell.model, cell.seed) in used,
        **_before(cell),
        "accuracy_after": one.accuracy if one else None,
        "accuracy_fall": one.fall if one else None,
        "asr_after": one.asr if one else None,
        "asr_fall": one.asr_fall if one else None,
        "ra_after": one.ra if one else None,
        "der": one.der if one else None,
        **_reactivated(cell, one),
        "images_used": cell.card.images_used if cell.card else None,
        "test_images": cell.card.before.tested if cell.card else None,
        "victims": cell.card.before.victims if cell.card else None,
        "figures": _figures(cell),
        "notes": "; ".join(cell.card.notes) if cell.card and cell.card.notes else None,
        "seconds": one.seconds if one else None,
    }


def _before(cell: RemovalState) -> dict[str, Cell]:
    before = cell.card.before if cell.card else None
    floor = before.floor if before else None
    return {
        "accuracy_before": before.rates.accuracy if before else None,
        "asr_before": before.rates.asr if before else None,
        "ra_before": before.rates.ra if before else None,
        "asr_floor": floor.rates.asr if floor else None,
        "floor_model": floor.model if floor else None,
    }


def _reactivated(cell: RemovalState, one: Result | None) -> dict[str, Cell]:
    again = one.variant.reactivated if one and one.variant else None
    floor = cell.card.before.floor if cell.card else None
    control = floor.reactivated if floor else None
    return {
        "reactivated_accuracy": again.accuracy if again else None,
        "reactivated_asr": again.asr if again else None,
        "reactivated_asr_floor": control.asr if control else None,
    }


def _figures(cell: RemovalState) -> str | None:
    figures = cell.card.figures if cell.card else {}
    return " ".join(f"{name}={value:g}" for name, value in figures.items()) or None


def method_rows(found: RemovalFindings) -> list[dict[str, Cell]]:
    """The lines of `methods.csv`: the originals, then every method and by-product."""
    return _rows(found, ALL, "", found.scored)


def attack_rows(found: RemovalFindings) -> list[dict[str, Cell]]:
    """The lines of `attacks.csv`: the same for the models of each attack."""
    return [
        row
        for attack, threat in found.attacks
        for row in _rows(found, attack, threat, found.of_attack(attack, threat))
    ]


def control_rows(found: RemovalFindings) -> list[dict[str, Cell]]:
    """The lines of `controls.csv`: what the methods do to clean models."""
    used = found.compared(found.controls)
    rows = []
    for line in (ORIGINALS, *found.lines):
        results = found.results(line, used)
        if results or line == ORIGINALS:
            rows.append(
                {
                    **_head(line),
                    "cells": _cells(found.controls, line),
                    **_counts(found.controls, line),
                    "models": found.average(results, FIGURES["accuracy"]).models,
                    **averages(found, results, ("accuracy", "accuracy_fall", "seconds")),
                }
            )
    return rows if found.controls else []


def difference_rows(found: RemovalFindings) -> list[dict[str, Cell]]:
    """The lines of `differences.csv`."""
    control = found.manifest.control
    return [one.row(one.line.method, control) for one in found.differences]


def removal_data(found: RemovalFindings) -> dict[str, object]:
    """Everything as data that JSON can hold; figures that do not exist are null."""
    used = found.compared(found.scored)
    return {
        "complete": found.complete,
        "missing": len(found.missing),
        "models": len({cell.model for cell in found.scored}),
        "models_compared": len({cell.model for cell in used}),
        "cells_compared": len({(cell.model, cell.seed) for cell in used}),
        "not_implanted": found.unimplanted,
        "methods": method_rows(found),
        "attacks": attack_rows(found),
        "controls": control_rows(found),
        "differences": difference_rows(found),
        "cells": result_rows(found),
        "provenance": json.loads(found.manifest.model_dump_json(exclude={"entries"})),
    }


def averages(
    found: RemovalFindings, results: Sequence[Result], names: Sequence[str]
) -> dict[str, Cell]:
    """Mean and interval of each of these figures."""
    columns: dict[str, Cell] = {}
    for name in names:
        average = found.average(results, FIGURES[name])
        columns |= with_bounds(name, average.value, average.interval)
    return columns


def floor_of(found: RemovalFindings, results: Sequence[Result]) -> Average:
    """Mean ASR of clean models under the same triggers."""
    return found.average(results, _floor)


def _floor(one: Result) -> float | None:
    floor = one.cell.card.before.floor if one.cell.card else None
    return floor.rates.asr if floor else None


def _rows(
    found: RemovalFindings, attack: str, threat: str, cells: Sequence[RemovalState]
) -> list[dict[str, Cell]]:
    used = found.compared(cells)
    rows = []
    for line in (ORIGINALS, *found.lines):
        results = found.results(line, used)
        asr: Figure = FIGURES["asr"]
        average = found.average(results, asr)
        rows.append(
            {
                "attack": attack,
                "threat": threat or None,
                **_head(line),
                "cells": _cells(cells, line),
                **_counts(cells, line),
                "cells_compared": average.cells,
                "models": average.models,
                **averages(found, results, tuple(FIGURES)),
                "asr_floor": floor_of(found, results).value,
                "interval": average.interval.method if average.interval else None,
            }
        )
    return rows


def _head(line: Line) -> dict[str, Cell]:
    return {"method": line.method, "variant": line.variant or None, "oracle": line.oracle}


def _cells(cells: Sequence[RemovalState], line: Line) -> int | None:
    return None if line == ORIGINALS else sum(c.method == line.method for c in cells)


def _counts(cells: Sequence[RemovalState], line: Line) -> dict[str, Cell]:
    found = counts(cells, line.method)
    known = line != ORIGINALS
    return {status.replace("-", "_"): n if known else None for status, n in found.items()}
