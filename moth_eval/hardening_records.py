"""What `moth-eval harden` writes, and how it is read back. No torch here.

The folder of a finished hardening holds::

    model.safetensors           the weights of the new model
    model.arch.json             which network they belong to, and its normalisation
    card.json                   one HardeningCard: what was done and what came of it
    card.md                     the same in short
    log.csv                     a row per round of training

and, until it is finished, a folder `unfinished`::

    run.json                    one HardeningManifest
    state.safetensors           where the training stands, replaced whole
    log.jsonl                   a line per round
    measured.jsonl              one MeasuredLine per measurement
    trained.json                one TrainedRecord, once the training is over
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from .distance_records import ProtocolRecord
from .distance_table import Pair
from .errors import RunError
from .records import Record
from .run_files import read_file

SCHEMA_VERSION = 1
WEIGHTS = "model.safetensors"
CARD = "card.json"
CARD_TEXT = "card.md"
LOG = "log.csv"
UNFINISHED = "unfinished"
MEASURED = "measured.jsonl"
TRAINED = "trained.json"

_Kind = TypeVar("_Kind", bound=Record)


class DataRecord(Record):
    """Which images were trained on, and which were tested on."""

    data: str
    """Absolute path that `--data` named."""
    test: str
    """Absolute path that `--test` named; empty: the test images were held out of the data."""
    given: int
    """Images of the data, after `--first`."""
    held_out: float | None
    """Fraction of each class of the data that was held out; null if `--test` was given."""
    share: float
    """Fraction of the rest of each class that was trained on."""
    training: int
    training_sha256: str
    """Hash of images and labels as they were read and used."""
    training_per_class: tuple[int, ...]
    tested: int
    test_sha256: str
    test_per_class: tuple[int, ...]
    in_both: int
    """Test images that are, pixel by pixel, training images as well."""


class HardeningManifest(Record):
    """What was asked for: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["hardening"] = "hardening"
    created: datetime
    command: tuple[str, ...]
    name: str
    """The original model's name in tables."""
    model: str
    """Absolute path of the original model."""
    sha256: str
    """Of the original model."""
    architecture: str
    """Name of the network, as read from the file or given."""
    architecture_option: str
    """What `--arch` said."""
    normalisation: str
    num_classes: int
    image_shape: tuple[int, int, int]
    doubts: tuple[str, ...]
    method: str
    parameters: dict[str, Any]
    """All of the method's, defaults included."""
    data: DataRecord
    protocol: ProtocolRecord
    """How distances are measured."""
    pairs: tuple[Pair, ...]
    """`(source, target)` whose distance is measured before and after."""
    seed: int
    device: str
    threads: int
    versions: dict[str, str]


class MeasuredLine(Record):
    """One finished measurement: the answers on the test images, or the distance of a pair."""

    sha256: str
    """Of the model that was measured."""
    right: str | None = None
    """A `1` or `0` per test image: classified rightly or not."""
    source: int | None = None
    target: int | None = None
    seed: int | None = None
    distance: float | None = None
    asr: float = 0.0
    valid: bool = False
    samples: int = 0
    steps: int = 0


class TrainedRecord(Record):
    """How the training ended."""

    status: Literal["hardened", "inapplicable", "failed"]
    reason: str
    sha256: str
    """Of the new model; empty if there is none."""
    rounds: int
    images_used: int
    """Training images that the method was given."""
    pair_counts: tuple[tuple[int, int, int], ...]
    """Source, target, how often a trigger between them was trained on; pairs without are absent."""
    forward_passes: int
    """Images that went forward through the network, inversions included."""
    backward_passes: int
    seconds: float
    """Of training, all sittings together (s)."""
    peak_memory_bytes: int


class IntervalRecord(Record):
    """A 95 % interval and the method it comes from."""

    low: float
    high: float
    method: str


class AccuracyRecord(Record):
    """The same test images before and after; see `moth_eval.paired.PairedAccuracy`."""

    before: float
    after: float
    lost: int
    """Images that only the original classifies rightly."""
    gained: int
    """Images that only the new model classifies rightly."""
    n: int
    difference: IntervalRecord
    """Of `after - before`."""
    p_value: float
    """Of the exact McNemar test that both are equally often right."""


class PairRecord(Record):
    """The distance of one pair; null where no seed has a valid trigger."""

    source: int
    target: int
    before: float | None
    after: float | None


class IncreaseRecord(Record):
    """How much farther apart classes are; see `moth_eval.distance_increase.Increase`."""

    mean_of_ratios: float
    ratio_of_means: float
    mean_of_ratios_interval: IntervalRecord | None
    ratio_of_means_interval: IntervalRecord | None
    pairs: int
    left_out: tuple[Pair, ...]


class DistanceChange(Record):
    """Class distances of the same pairs on the same test images, before and after."""

    mean_before: float | None
    """Over the pairs that have a distance on both sides; if none has, over those that have one
    before; null if there are none either."""
    mean_after: float | None
    """Over the same pairs; if there are none, over those that have one after."""
    failed_before: tuple[Pair, ...]
    failed_after: tuple[Pair, ...]
    increase: IncreaseRecord | None
    """Null if no pair has a distance above 0 before and one after."""
    pairs: tuple[PairRecord, ...]


class HardeningCard(Record):
    """What was done to a model, and what came of it."""

    schema_version: Literal[1] = 1
    kind: Literal["hardening-card"] = "hardening-card"
    finished: datetime
    run: HardeningManifest
    training: TrainedRecord
    accuracy: AccuracyRecord | None = None
    """Null if the method left no model."""
    distance: DistanceChange | None = None
    """Null if no pairs were asked for, or the method left no model."""
    notes: tuple[str, ...] = ()
    """What speaks against the figures."""


def read_record(path: Path, kind: type[_Kind]) -> _Kind:
    """The record in a JSON file.

    Raises:
        RunError: it is damaged, or of another kind or version.
    """
    try:
        return kind.model_validate_json(read_file(path))
    except ValidationError as error:
        raise RunError(
            f"{path} cannot be read as a {kind.__name__} of schema version {SCHEMA_VERSION}: "
            f"{error.errors()[0]['msg']}; it was damaged, or written by another version or "
            "command: choose another --out"
        ) from error
