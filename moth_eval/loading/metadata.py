"""METADATA.csv of a round, and the ground truth that a row of it states."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ..errors import RoundError
from ..records import Truth
from .bounded import MEGABYTE, read_text
from .naming import cut, shown
from .truths import TriggerFacts, build_truth, flag, integer, integers, trigger_kind

MAX_CSV_BYTES = 64 * MEGABYTE
"""The real file of 288 round-3 models has 0.3 MB."""
MAX_COLUMNS = 5_000
MAX_CELLS = 5_000_000
"""Rows times columns; the 1,000 models of round 1 make about 60,000."""
MAX_TRIGGERS = 8
_MISSING = frozenset({"", "None", "none", "nan", "NaN", "null"})
_POISONED = ("poisoned", "ground_truth")


def read_metadata(path: Path) -> list[dict[str, str]]:
    """Every row of a METADATA.csv as column -> cell, both stripped of blanks.

    Rows may be shorter than the header (the rest is left out) or end in empty cells. Missing values
    are left as they stand: `None`, or nothing.

    Raises:
        RoundError: the file is missing, too big or not CSV; it has no column `model_name`; a row
            has more cells than the header, or a name occurs twice.
    """
    lines = csv.reader(read_text(path, limit=MAX_CSV_BYTES).splitlines(keepends=True))
    try:
        header = [name.strip() for name in next(lines, [])]
        if "model_name" not in header:
            raise RoundError(
                f"{path} has no column model_name in its first line; expected a CSV file with one "
                f"row per model, found the columns {', '.join(header[:8]) or '(none)'}"
            )
        _require_bounded(path, rows=1, columns=len(header))
        rows: list[dict[str, str]] = []
        for cells in lines:
            if any(cell.strip() for cell in cells):
                rows.append(_row(header, cells, f"{path}, line {lines.line_num}"))
                _require_bounded(path, rows=len(rows), columns=len(header))
    except csv.Error as error:
        raise RoundError(f"{path}, line {lines.line_num} is not CSV: {error}") from error
    _require_distinct_names(rows, path)
    return rows


def _row(header: list[str], cells: list[str], where: str) -> dict[str, str]:
    cells = [cell.strip() for cell in cells]
    if any(cells[len(header) :]):
        raise RoundError(
            f"{where} has {len(cells)} cells, the header has {len(header)}: quote the cells that "
            "hold a comma"
        )
    row = dict(zip(header, cells, strict=False))
    row.setdefault("model_name", "")
    return row


def _require_bounded(path: Path, *, rows: int, columns: int) -> None:
    if columns > MAX_COLUMNS or rows * columns > MAX_CELLS:
        raise RoundError(
            f"{path} has {columns:,} columns in {rows:,} rows or more; at most {MAX_COLUMNS:,} "
            f"columns and {MAX_CELLS:,} cells are read; keep only the rows and columns of this "
            "round"
        )


def _require_distinct_names(rows: list[dict[str, str]], path: Path) -> None:
    seen: set[str] = set()
    for row in rows:
        if row["model_name"] in seen:
            raise RoundError(
                f"{path} has more than one row for {row['model_name']}; remove all but one"
            )
        seen.add(row["model_name"])


def present(row: Mapping[str, str], *columns: str) -> str:
    """The cell of the first of these columns that is there and not missing; else empty."""
    for column in columns:
        cell = row.get(column, "")
        if cell not in _MISSING:
            return cell
    return ""


def truth_of_metadata(row: Mapping[str, str]) -> Truth | None:
    """Ground truth that a row states, or None if it does not say whether the model is poisoned.

    Reads the columns of rounds 0 to 4, of round 11 and of a plain list `model_name,poisoned` with
    optional `trigger_type`, `targets`, `sources` and `errata`.

    Raises:
        RoundError: the column says something other than true or false.
    """
    stated = present(row, *_POISONED)
    if not stated:
        return None
    poisoned = flag(stated)
    if poisoned is None:
        raise RoundError(
            f"{shown(row.get('model_name', 'a model'))} is marked {shown(stated)!r} in the column "
            "poisoned or ground_truth; expected True, False, 1 or 0"
        )
    num_classes = integer(present(row, "number_classes", "num_classes"))
    truth = build_truth(poisoned, _triggers(row), num_classes)
    errata = cut(present(row, "errata"))
    return truth.model_copy(update={"errata": errata}) if errata else truth


def _triggers(row: Mapping[str, str]) -> list[TriggerFacts]:
    numbered = [
        _numbered_trigger(row, prefix)
        for number in range(MAX_TRIGGERS)
        for prefix in (f"triggers_{number}_", f"trigger_{number}.")
        if present(row, f"{prefix}target_class")
    ]
    return numbered or [_only_trigger(row)]


def _numbered_trigger(row: Mapping[str, str], prefix: str) -> TriggerFacts:
    """A trigger of round 4 (`triggers_0_...`) or round 11 (`trigger_0. ...`)."""
    return TriggerFacts(
        kind=trigger_kind(
            present(row, f"{prefix}type"),
            present(row, f"{prefix}trigger_executor", f"{prefix}py/object"),
            present(row, f"{prefix}polygon_side_count", f"{prefix}trigger_polygon_side_count"),
        ),
        sources=integers(present(row, f"{prefix}source_class")),
        targets=integers(present(row, f"{prefix}target_class")),
    )


def _only_trigger(row: Mapping[str, str]) -> TriggerFacts:
    # Rounds 0 and 1 knew polygons only and therefore name no type, but a colour.
    sides = "" if "trigger_type" in row else present(row, "trigger_color")
    return TriggerFacts(
        kind=trigger_kind(present(row, "trigger_type"), sides=sides),
        sources=integers(present(row, "triggered_classes", "sources", "source", "source_class")),
        targets=integers(present(row, "trigger_target_class", "targets", "target", "target_class")),
    )
