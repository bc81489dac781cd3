"""What clean models score: thresholds that keep a budget of false alarms, and the records of both.

A calibration holds the scores of models that are known to be clean. A suspect's p value is the
share of clean models, itself counted among them, that score at least as high. If the suspect is
clean, and exchangeable with the others, its p value is at most alpha with a probability of at most
alpha, whatever the distribution of the scores.

Source: conformal p values, Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005; for tests against a sample of inliers, Bates et al., Annals of Statistics 51 (2023).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from .errors import InputError
from .records import RESULT_VERSION, SCORES_SINCE, Record, write_whole

POLICY = "policy.json"
"""File of a run folder that says by which policy its models are judged."""

LARGEST = 64 << 20


class CalibrationGroup(Record):
    """Clean models of one data set and one family of architectures."""

    scores: tuple[float, ...]
    """Rising."""
    models: tuple[str, ...]
    """SHA-256 of their files, sorted; not in the order of the scores."""
    unanswered: int
    """Clean models that have no score, or images that are not theirs; no threshold counts them."""
    examples: tuple[int, ...] = ()
    """Numbers of clean examples that they were scanned with, rising; empty: not known."""


class CalibratedScanner(Record):
    """One scanner and what clean models score under it."""

    parameters: dict[str, Any]
    """Method and all its fields."""
    groups: dict[str, CalibrationGroup]
    """Name of the group, see `group_of` -> scores."""


class Calibration(Record):
    """The content of a calibration file."""

    schema_version: Literal[1] = 1
    kind: Literal["calibration"] = "calibration"
    created: datetime
    command: tuple[str, ...]
    models: str
    """Absolute path of the clean models."""
    dataset: str
    """As `--dataset` called it."""
    seed: int
    device: str
    versions: dict[str, str]
    result_version: int = 2
    """`moth_eval.records.RESULT_VERSION` of the time."""
    scanners: dict[str, CalibratedScanner]
    """As `--scanner` named it -> scores."""


class Policy(Record):
    """How many clean models may be accused."""

    backdoored: float
    """Largest probability, in `(0, 1)`, that a clean model is called backdoored."""
    suspicious: float
    """Largest probability, in `(0, 1)`, that it is called suspicious or worse."""


class ScanPolicy(Record):
    """The content of `policy.json`: everything that turns scores into grades."""

    schema_version: Literal[1] = 1
    kind: Literal["scan-policy"] = "scan-policy"
    policy: Policy
    dataset: str
    calibration: Calibration | None
    """As it was when the models were scanned; None: the scanners' own cuts alone."""
    calibration_file: str
    """Absolute path; empty: none was given."""
    scanners: tuple[str, ...] = ()
    """Whose scores count: those that the last call named. Empty: all of the run's."""
    models: tuple[str, ...] = ()
    """Which models are judged: those of the last call. Empty: all of the run's."""


def parse_policy(text: str) -> Policy:
    """The policy of `FRACTION` or `FRACTION,FRACTION`, such as `0.05` or `0.01,0.1`.

    The first is the budget for `backdoored`; the second, for `suspicious`, is four times as much,
    or a half, or the first if that is more, unless it is given.

    Raises:
        InputError: it is neither, or the second is smaller than the first.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1:
        values.append(max(values[0], min(4 * values[0], 0.5)))
    if len(values) != 2 or not 0 < values[0] <= values[1] < 1:
        raise InputError(
            "--policy: expected one or two fractions of clean models that may be accused, the "
            f"smaller first, such as 0.05 or 0.01,0.1, got {text!r}"
        )
    return Policy(backdoored=values[0], suspicious=values[1])


def family_of(architecture: str) -> str:
    """The family of an architecture: its name up to the first figure, without separators.

    `resnet18` and `resnet50` are `resnet`, `vgg11_bn` is `vgg`, `package.module:net20` is `net`.
    """
    name = architecture.rpartition(":")[2].lower()
    found = re.match(r"[^\W\d]+(?:_[^\W\d]+)*", name)
    return found[0].strip("_") if found else name or "unnamed"


def group_of(dataset: str, num_classes: int, image_shape: Sequence[int], architecture: str) -> str:
    """The name of the group of clean models that a model is held against.

    Args:
        dataset: as the user calls it; empty: models are told apart by classes and size alone.
        num_classes: of the model.
        image_shape: channels, height and width.
        architecture: of the model.
    """
    size = "x".join(map(str, image_shape))
    parts = (dataset, f"{num_classes} classes", size, family_of(architecture))
    return ", ".join(part for part in parts if part)


def p_value(score: float, clean: Sequence[float]) -> float:
    """Share of the clean models, the suspect counted among them, that score as high; in `(0, 1]`.

    Args:
        score: of the suspect; higher is more suspicious.
        clean: scores of clean models.
    """
    return (1 + sum(one >= score for one in clean)) / (len(clean) + 1)


def threshold(clean: Sequence[float], budget: float) -> float | None:
    """Scores above it have a p value within the budget; None if so few models allow none.

    Args:
        clean: scores of clean models.
        budget: largest probability that a clean model is accused, in `(0, 1)`.
    """
    allowed = math.floor(budget * (len(clean) + 1) + 1e-9)
    return sorted(clean)[len(clean) - allowed] if allowed >= 1 else None


def smallest_budget(clean: int) -> float:
    """The smallest budget that so many clean models can promise."""
    return 1 / (clean + 1)


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file.

    Raises:
        InputError: it is missing, too large, or no calibration of this version.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(
            f"{path}: no readable calibration ({error.strerror}): give the file that "
            "`moth-eval calibrate` wrote"
        ) from error
    if len(content) > LARGEST:
        raise InputError(f"{path}: expected a calibration, got more than {LARGEST:,} bytes")
    try:
        return Calibration.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{path} is no calibration of schema version 1 as `moth-eval calibrate` writes it: "
            f"{error.errors()[0]['msg']}"
        ) from error


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration whole."""
    write_whole(path, calibration.model_dump_json(indent=2).encode() + b"\n")


def check_parameters(calibration: Calibration, scanners: Mapping[str, Mapping[str, Any]]) -> None:
    """Make sure that the scanners are those that clean models were scanned with.

    Args:
        calibration: of clean models.
        scanners: as `--scanner` named it -> method and all its fields.

    Raises:
        InputError: a scanner was not calibrated, or with other fields, or scanners have changed.
    """
    if not comparable(calibration.result_version):
        raise InputError(
            f"the calibration is of scanners of result version {calibration.result_version}, these "
            f"are of version {RESULT_VERSION}: scores cannot be compared; calibrate anew"
        )
    for name, parameters in scanners.items():
        known = calibration.scanners.get(name)
        if known is None:
            raise InputError(
                f"the calibration has no scanner {name!r}: expected one of "
                f"{', '.join(calibration.scanners)}; calibrate it as well"
            )
        differing = differing_parameters(known.parameters, parameters)
        if differing:
            raise InputError(
                f"scanner {name!r} was calibrated with another {', '.join(differing)}: scores of "
                "differing scanners cannot be compared; calibrate anew"
            )


def comparable(result_version: int) -> bool:
    """Whether scores of scanners of this version can be held against today's."""
    return SCORES_SINCE <= result_version <= RESULT_VERSION


def differing_parameters(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of the fields in which two settings of a scanner differ, sorted."""
    return sorted(key for key in {*one, *other} if _plain(one.get(key)) != _plain(other.get(key)))


def _plain(value: object) -> object:
    """As JSON gives it back."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
