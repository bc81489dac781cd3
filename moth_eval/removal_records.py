"""What `moth-eval removal` writes, and how it is read back. No torch here.

A run folder holds::

    run.json                        one RemovalManifest, replaced whole
    cells/                          the repairs, see `moth_eval.hardening_cells`
    cells/<cell>/removal.json       one RemovalCard, once a repair is measured
    cells/<cell>/variants/          further networks that the method left
    originals/*.json                one BeforeRecord per original and test images
    originals/*.jsonl               accuracies of the originals, shared by the cells
    results.csv, removal.md ...     made from the manifest and the cards by `reports`, never read
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from .errors import RunError
from .hardening_cells import ANSWERS, CELLS, PENDING, CellOutcome, outcome_path
from .hardening_records import CARD, WEIGHTS, HardeningCard, read_record
from .records import ManifestFolder, Record

REMOVAL = "removal.json"
VARIANTS = "variants"
VARIANT_LIST = "variants.json"
CONTROL = "fine-tuning"
"""Table name of the method that all others are held against."""

SELECTION, TARGET = "selection", "target"
"""What an oracle was asked: which candidate, or which class."""

TRUTH = "truth"
"""Value of a method's field `target` that stands for the model's own target class."""

REMOVAL_STATUSES = (
    *ANSWERS, "failed", "crashed", "timed-out", "out-of-memory", "refused", "unreadable", PENDING,
)  # fmt: skip


class RatesRecord(Record):
    """What a model does on the test images; see `moth_eval.metrics`."""

    accuracy: float
    """Fraction of the clean test images, of all classes, that is classified rightly."""
    asr: float | None = None
    """Attack success rate on stamped images; null for a clean control."""
    ra: float | None = None
    """Fraction of the same stamped images that is classified as its true class."""


class FloorRecord(Record):
    """What the trigger does to a clean model of the same task."""

    model: str
    """Name of the clean model."""
    sha256: str
    rates: RatesRecord
    reactivated: RatesRecord | None = None
    """After the re-activation check; null if none was asked for."""


class BeforeRecord(Record):
    """The original on the test images, measured once for all methods."""

    schema_version: Literal[1] = 1
    sha256: str
    """Of the original."""
    rates: RatesRecord
    tested: int
    """Test images."""
    victims: int
    """Test images behind ASR and RA; 0 for a clean control."""
    floor: FloorRecord | None = None
    """Null without a clean model."""
    notes: tuple[str, ...] = ()


class VariantFile(Record):
    """A further network that a method left."""

    kind: Literal["byproduct", "candidate"]
    """`byproduct`: a row of its own; `candidate`: one of those that an oracle chooses from."""
    name: str
    file: str
    """Name of its weights beside the list."""
    sha256: str


class VariantList(Record):
    """All further networks that a method left."""

    schema_version: Literal[1] = 1
    variants: tuple[VariantFile, ...]
    figures: dict[str, float] = Field(default_factory=dict)
    """What the method tells of itself."""


class VariantRecord(Record):
    """One repaired model, read back from its file and measured."""

    name: str
    """Empty: the method's own result; else what the method calls it, such as `teacher`."""
    file: str
    """Its weights, relative to the cell's folder."""
    sha256: str
    rates: RatesRecord
    der: float | None
    """Defence effectiveness rate; null for a clean control."""
    oracle: str = ""
    """Why the row is an oracle's: what of the truth went into it; empty: nothing did."""
    reactivated: RatesRecord | None = None
    """After the re-activation check; null if none was asked for."""


class RemovalCard(Record):
    """What came of one model under one method and seed."""

    schema_version: Literal[1] = 1
    kind: Literal["removal-card"] = "removal-card"
    finished: datetime
    sha256: str
    """Of the original."""
    seed: int
    images_used: int
    """Clean images that the method was given."""
    training_sha256: str
    """Hash of these images; the same for all methods of a seed."""
    test_sha256: str
    seconds: float
    """Of the repair, without measurements (s)."""
    before: BeforeRecord
    variants: tuple[VariantRecord, ...]
    """The method's own result first, unless an oracle chose among its candidates."""
    figures: dict[str, float] = Field(default_factory=dict)
    """What the method tells of itself, such as channels pruned."""
    notes: tuple[str, ...] = ()


class AttackedModel(Record):
    """One model of a study, and what is known of it by construction."""

    name: str
    file: str
    """Absolute path of the model file."""
    sha256: str
    """Empty if the file cannot be read."""
    attack: str
    """Name of the attack; `none`: a clean control."""
    target: int | None
    sources: tuple[int, ...]
    """Empty: every class but the target."""
    threat: str
    """`universal`, `source-specific` ...; empty for a clean control."""
    not_implanted: str
    """Why the model is not scored, as far as its record tells; empty: it may be."""
    folders: dict[str, dict[int, str]]
    """Method as asked for -> seed -> name of the cell's folder."""

    @property
    def clean(self) -> bool:
        """Whether it is a clean control."""
        return self.attack == "none"


class ReactivationRecord(Record):
    """How the re-activation check fine-tunes."""

    images: int
    """Stamped, relabelled images; 0: no check."""
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float


class RemovalManifest(Record):
    """What was asked for: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["removal"] = "removal"
    created: datetime
    command: tuple[str, ...]
    models: str
    """Absolute path that `--models` named."""
    data: str
    """Absolute path that `--data` named."""
    data_sha256: str
    test: str
    """Absolute path that `--test` named; empty: test images are held out of the data."""
    test_sha256: str
    clean_share: float
    architecture: str
    """What `--arch` said."""
    methods: dict[str, dict[str, Any]]
    """Method as asked for -> its table name as `method`, and all its parameters."""
    control: str
    """The method, as asked for, that all others are held against."""
    seeds: tuple[int, ...]
    reactivation: ReactivationRecord
    device: str
    timeout_seconds: float | None
    versions: dict[str, str]
    entries: tuple[AttackedModel, ...]


@dataclass(frozen=True, kw_only=True)
class RemovalState:
    """What is known of one model under one method and seed.

    Attributes:
        model: name of the model.
        method: the method as it was asked for.
        seed: of the repair.
        status: one of `REMOVAL_STATUSES`.
        reason: one sentence; empty where there is nothing to say.
        card: what came of it; None unless `hardened`.
    """

    model: str
    method: str
    seed: int
    status: str
    reason: str = ""
    card: RemovalCard | None = None

    @property
    def answered(self) -> bool:
        """Whether there is nothing left to find out."""
        return self.status in ANSWERS

    @property
    def label(self) -> str:
        """What the cell is called in lines of text."""
        return f"{self.model} under {self.method}, seed {self.seed}"


def read_removal(folder: Path, *, model: str, sha256: str, method: str, seed: int) -> RemovalState:
    """How a cell stands; a damaged or foreign record is a status, not an error.

    Args:
        folder: of the cell; need not be there.
        model: name of the model in tables.
        sha256: of the model's file; a card of another file does not count.
        method: the method as it was asked for.
        seed: of the repair.
    """
    status, reason, card = _read(folder)
    if card is not None and (card.sha256, card.seed) != (sha256, seed):
        status, card = "unreadable", None
        reason = f"{folder / REMOVAL} is of another model file or seed"
    return RemovalState(
        model=model, method=method, seed=seed, status=status, reason=reason, card=card
    )


def _read(folder: Path) -> tuple[str, str, RemovalCard | None]:
    try:
        if (folder / REMOVAL).is_file():
            return "hardened", "", read_record(folder / REMOVAL, RemovalCard)
        if outcome_path(folder).is_file():
            outcome = read_record(outcome_path(folder), CellOutcome)
            return outcome.status, outcome.reason, None
        if (folder / CARD).is_file():
            training = read_record(folder / CARD, HardeningCard).training
            if training.status != "hardened":  # else it is not measured yet
                return training.status, training.reason, None
    except RunError as error:
        return "unreadable", str(error), None
    return PENDING, "", None


def without_truth(spec: str) -> str:
    """The specification of a method without a target that only the study knows."""
    name, _, rest = spec.partition(":")
    kept = [one for one in rest.split(",") if one and one != f"{TARGET}={TRUTH}"]
    return f"{name}:{','.join(kept)}" if kept else name


def oracle_of(spec: str, parameters: Mapping[str, Any]) -> str:
    """What a method is told of the truth: `selection`, `target`, or nothing.

    Args:
        spec: the method as it was asked for.
        parameters: of the method, without such a target.
    """
    if without_truth(spec) != spec:
        return TARGET
    return SELECTION if parameters.get(SELECTION) == "oracle" else ""


def files_of(folder: Path, card: RemovalCard) -> dict[Path, str]:
    """Every file of weights that a card names, with its hash."""
    return {folder / one.file: one.sha256 for one in card.variants if one.file != WEIGHTS}


class RemovalFolder(ManifestFolder[RemovalManifest]):
    """The folder of a removal study."""

    schema = RemovalManifest
    kind = "removal study"

    def cells(self) -> list[RemovalState]:
        """How every cell of the manifest stands: by model, then method, then seed.

        Raises:
            RunError: there is no manifest, or it is damaged.
        """
        manifest = self.manifest()
        return [
            read_removal(
                self.path / CELLS / entry.folders[method][seed],
                model=entry.name,
                sha256=entry.sha256,
                method=method,
                seed=seed,
            )
            for entry in manifest.entries
            for method in manifest.methods
            for seed in manifest.seeds
        ]
