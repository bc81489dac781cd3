"""What lies with an injected model as `attack.json`, and how it is read back.

The folder of an injected model holds::

    model.safetensors           the weights
    model.arch.json             which network they belong to, and its normalisation
    attack.json                 one AttackRecord: what was implanted, and what came of it
    attack.safetensors          what a trigger carries that had to be made first
    trigger.png                 images, the same with the trigger, and the difference
    twin/                       the clean twin, in the same form, if it was trained along

For a model from elsewhere whose trigger is known, an `attack.json` with `attack`, `target` and
`parameters` is enough; whatever was not measured is left out.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moth_eval.errors import InputError

from .trigger import Threat

SCHEMA_VERSION = 1
RECORD = "attack.json"
TENSORS = "attack.safetensors"
WEIGHTS = "model.safetensors"
PICTURE = "trigger.png"
TWIN = "twin"
NONE = "none"
"""Name of the attack of a clean model."""
MAX_BYTES = 2**20


class Strict(BaseModel):
    """Base of these records: frozen, without unknown fields, and `"3"` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class PoisoningRecord(Strict):
    """Which training images were changed."""

    rate: float
    """As asked for, a fraction."""
    rate_of: Literal["candidates", "all"]
    """What it is a fraction of: the images that might be poisoned, or all training images."""
    denominator: int
    """How many images that is."""
    candidates: int
    """Training images that might be poisoned."""
    poisoned: int
    """Stamped images with the wanted label."""
    covered: int
    """Changed images that kept their label."""
    target_class_poisoned: bool
    """Whether images of the target class were stamped, as only clean-label and all-to-all do."""
    labels_changed: bool
    """Whether poisoned images were given another label."""
    redrawn: bool
    """Whether the set was drawn and stamped anew for every epoch; counts are of each."""


class GateRecord(Strict):
    """What the model does on held-out images, and what it had to reach. Figures in `[0, 1]`."""

    passed: bool
    failure: str = ""
    """Why the gate refused the model; empty if it passed."""
    clean_accuracy: float
    asr: float | None = None
    """Attack success rate on the victims; null for a clean model."""
    bystander_asr: float | None = None
    """The same on classes that are neither source nor target; null if there are none."""
    twin_clean_accuracy: float | None = None
    twin_asr: float | None = None
    """What the same trigger does to the clean twin."""
    tested: int
    """Held-out images."""
    victims: int
    """Held-out images in the ASR; those of the target class are not, unless all-to-all."""
    least_clean_accuracy: float
    most_accuracy_loss: float
    """Below the clean twin."""
    least_asr: float
    most_bystander_asr: float
    most_twin_asr: float


class TrainingRecord(Strict):
    """How the model was trained."""

    architecture: str
    """As `--arch` names it."""
    start: Literal["scratch", "fine-tuned"]
    start_sha256: str = ""
    """Of the model that was fine-tuned; empty from scratch."""
    normalisation: str = "unit"
    """What the network is given; `unit` is images in `[0, 1]` as they are."""
    recipe: dict[str, Any]
    """All fields of `attacks.training.Recipe`; flips and shifts come after stamping."""
    epochs: int
    seed: int
    """As asked for."""
    seconds: float
    device: str
    versions: dict[str, str]


class DataRecord(Strict):
    """Which images were trained and tested on."""

    data: str
    """As `--data` named them."""
    test: str
    """As `--test` named them; empty: held out of the data."""
    held_out: float | None
    """Fraction of each class that was held out; null if test images were given."""
    num_classes: int
    image_shape: tuple[int, int, int]
    training: int
    training_sha256: str
    """Of the images (bytes, row by row) and labels, before any poisoning."""
    tested: int
    test_sha256: str
    in_both: int
    """Test images that are, pixel by pixel, training images as well."""
    resized: tuple[str, ...] = ()
    """Sentences on pictures that had another size."""


class AttackRecord(Strict):
    """The content of `attack.json`."""

    schema_version: Literal[1] = 1
    kind: Literal["attack"] = "attack"
    attack: str
    """A row of `attacks.ATTACKS`, or `none`."""
    target: int | None = None
    """Class that stamped images are taken for; null for a clean model."""
    sources: tuple[int, ...] = ()
    threat: Threat | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Fields of the attack; those left out have their defaults."""
    poisoning: PoisoningRecord | None = None
    gate: GateRecord | None = None
    training: TrainingRecord | None = None
    data: DataRecord | None = None
    twin: str = ""
    """Folder of the clean twin, relative to this one or absolute; empty: none is known."""
    model_sha256: str = ""
    """Of `model.safetensors`; empty: not stated."""
    tensors_sha256: str = ""
    """Of `attack.safetensors`; empty: not stated, or there is none."""
    created: datetime | None = None
    command: tuple[str, ...] = ()


def read_attack_record(path: Path) -> AttackRecord:
    """The record in an `attack.json`.

    Raises:
        InputError: the file is missing, too large, or no record of this version.
    """
    if not path.is_file():
        raise InputError(
            f"{path} is not there: expected what `moth-eval inject` writes, or by hand "
            '{"attack": "patch", "target": 8, "parameters": {"size": 4}}'
        )
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise InputError(f"{path} is larger than the {MAX_BYTES:,} bytes a record may have")
    try:
        return AttackRecord.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"{path} is no record of an attack of schema version {SCHEMA_VERSION}: {place}: "
            f"{first['msg']}"
        ) from error
