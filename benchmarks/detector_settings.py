"""What a TrojAI container is told by its metaparameters, and the schema that describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moth_eval import __version__
from moth_eval.errors import InputError
from moth_eval.platt import Logistic
from moth_eval.records import RESULT_VERSION, canonical
from moth_eval.scan_calibration import comparable, differing_parameters

from .tasks import parse_scanner

METAPARAMETERS = "metaparameters.json"
SCHEMA = "metaparameters_schema.json"
LEARNED = "probability.json"
"""File of the learned parameters: slope, intercept, and which scores they are for."""

MOST_BYTES = 1 << 20


class _Learned(BaseModel):
    """The content of `probability.json`."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    slope: float = Field(ge=0)
    intercept: float
    result_version: int = 0
    """`moth_eval.records.RESULT_VERSION` of the time; 0: of a version that did not write it."""
    scanner: dict[str, Any] = {}
    """Method and all its fields."""


class Metaparameters(BaseModel):
    """The content of `metaparameters.json`; unknown keys are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    infer_scanner: str = "nc"
    """`NAME` or `NAME:field=value,...`, as for `--scanner`."""
    infer_centre: float | None = Field(default=None, ge=-1e6, le=1e6)
    """Score with a probability of one half; null: the scanner's own cut."""
    infer_slope: float = Field(default=1.0, gt=0, le=1e6)
    """Of the logistic curve, per unit of score."""
    infer_least: float = Field(default=0.01, ge=0, le=0.5)
    """No probability is closer to 0 or 1 than this."""
    infer_seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Decides everything random."""
    mitigate_method: str = "moth-removal"
    """`NAME` or `NAME:field=value,...`, as for `--method`."""
    mitigate_seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Decides everything random."""


def read_metaparameters(path: Path | None) -> Metaparameters:
    """The metaparameters in a file; the defaults without one.

    Raises:
        InputError: it is missing, or says what it cannot.
    """
    if path is None:
        return Metaparameters()
    try:
        return Metaparameters.model_validate_json(_content(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(
            f"{path}: {place}: {first['msg']}; `moth-eval detector metaparameters` writes one that "
            "fits"
        ) from error


def read_learned(folder: Path | None, scanner: str) -> Logistic | None:
    """The curve that `configure` learned; None if there is none.

    Raises:
        InputError: the file is damaged, or the curve is that of another scanner: of another name,
            with other fields, or of a version with other scores.
    """
    path = None if folder is None else folder / LEARNED
    if path is None or not path.is_file():
        return None
    beside = path.with_name(METAPARAMETERS)
    of = read_metaparameters(beside).infer_scanner if beside.is_file() else scanner
    if of != scanner:
        raise InputError(
            f"{path} was learned with infer_scanner {of}, the metaparameters name {scanner}: the "
            "scores have nothing in common; run configure again"
        )
    try:
        found = _Learned.model_validate_json(_content(path))
    except ValidationError as error:
        raise InputError(
            f"{path} holds no finite slope, at least 0, and intercept: run configure again"
        ) from error
    if not comparable(found.result_version):
        raise InputError(
            f"{path} is of scanners of result version {found.result_version or 'unknown'}, these "
            f"are of version {RESULT_VERSION}: scores cannot be compared; run configure again"
        )
    differing = differing_parameters(found.scanner, _fields_of(scanner))
    if differing:
        raise InputError(
            f"{path} was learned with another {', '.join(differing)} of {scanner}: scores cannot "
            "be compared; run configure again"
        )
    return Logistic(slope=found.slope, intercept=found.intercept)


def _fields_of(scanner: str) -> dict[str, Any]:
    """Method and all fields of a scanner, as JSON gives them back."""
    method, parameters = parse_scanner(scanner)
    fields: dict[str, Any] = json.loads(canonical({"method": method, **parameters}))
    return fields


def write_learned(folder: Path, curve: Logistic, settings: Metaparameters) -> None:
    """Write the curve, and the metaparameters that it belongs to, as the contract wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = _Learned(
        slope=curve.slope,
        intercept=curve.intercept,
        result_version=RESULT_VERSION,
        scanner=_fields_of(settings.infer_scanner),
    )
    (folder / LEARNED).write_text(learned.model_dump_json() + "\n")
    (folder / METAPARAMETERS).write_text(settings.model_dump_json(indent=2) + "\n")


def schema() -> dict[str, Any]:
    """The JSON schema of the metaparameters, with what the contract wants at its root.

    Every number has bounds, and every text is one of a list.
    """
    from scanners import SCANNERS

    made = Metaparameters.model_json_schema()
    properties = {name: _bounded(dict(value)) for name, value in made["properties"].items()}
    properties["infer_scanner"] |= {"enum": list(SCANNERS)}
    from moth_eval.hardeners import HARDENERS

    properties["mitigate_method"] |= {"enum": list(HARDENERS)}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "moth-eval",
        "technique": "Trigger inversion and class distance",
        "technique_description": "A scanner or hardener of moth-eval, chosen by its name.",
        "technique_changes": "none",
        "technique_type": ["Trigger Inversion", "Weight Analysis"],
        "commit_id": __version__,
        "repo_name": "moth-eval",
        "type": "object",
        "required": list(properties),
        "additionalProperties": False,
        "properties": properties,
    }


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    """A property of draft 7, whose number has both bounds."""
    kinds = value.pop("anyOf", None)
    if kinds:
        value |= {"type": [kind["type"] for kind in kinds]}
        value |= {k: v for kind in kinds for k, v in kind.items() if k in ("minimum", "maximum")}
    if "exclusiveMinimum" in value:
        value["minimum"] = 1e-6
        del value["exclusiveMinimum"]
    return value


def write_defaults(folder: Path) -> list[Path]:
    """Write `metaparameters.json` and its schema; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {
        METAPARAMETERS: Metaparameters().model_dump_json(indent=2),
        SCHEMA: json.dumps(schema(), indent=2),
    }
    for name, text in made.items():
        (folder / name).write_text(text + "\n")
    return [folder / name for name in made]


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} is larger than the {MOST_BYTES:,} bytes it may have")
    return content
