"""A study's hardenings on disk: one folder per model, method and seed. No torch here.

A folder of cells holds::

    <model>--<method>--<seed>/       what `moth-eval harden` leaves, `card.json` among it
    <model>--<method>--<seed>.json   one CellOutcome, where a cell ended without a card
    <model>--<method>--<seed>.log    what the work wrote while it was under way, if anything
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .errors import RunError
from .hardening_records import CARD, HardeningCard, read_record
from .records import AttemptRecord, Record, write_whole

CELLS = "cells"
PENDING = "pending"
ANSWERS = ("hardened", "inapplicable", "not-implanted")
"""Statuses that say all there is to say of a cell."""

STATUSES = (
    "hardened", "inapplicable", "failed", "crashed", "timed-out", "out-of-memory", "refused",
    "unreadable", PENDING,
)  # fmt: skip


class CellOutcome(Record):
    """How a cell ended that left no card."""

    schema_version: Literal[1] = 1
    status: Literal[
        "failed",
        "crashed",
        "timed-out",
        "out-of-memory",
        "refused",
        "inapplicable",
        "not-implanted",
    ]
    """The last two are answers: in a study of removal there is nothing that could be scored."""
    reason: str
    seconds: float
    """Of the last attempt (s)."""
    attempts: tuple[AttemptRecord, ...] = ()
    """Attempts before that one in the same sitting, oldest first."""


@dataclass(frozen=True, kw_only=True)
class CellState:
    """What is known of one model under one method and seed.

    Attributes:
        model: name of the model.
        method: the method as it was asked for.
        seed: of the hardening.
        status: one of `STATUSES`.
        reason: one sentence; empty where there is nothing to say.
        card: what was done and what came of it; None where there is none that counts.
    """

    model: str
    method: str
    seed: int
    status: str
    reason: str = ""
    card: HardeningCard | None = None

    @property
    def hardened(self) -> HardeningCard | None:
        """The card, if there is a new model."""
        return self.card if self.status == "hardened" else None

    @property
    def label(self) -> str:
        """What the cell is called in lines of text."""
        return f"{self.model} under {self.method}, seed {self.seed}"


def outcome_path(folder: Path) -> Path:
    """Where the outcome of the cell in `folder` is, if it left no card."""
    return folder.with_name(f"{folder.name}.json")


def log_path(folder: Path) -> Path:
    """Where the words are that the work on the cell in `folder` wrote."""
    return folder.with_name(f"{folder.name}.log")


def write_outcome(folder: Path, outcome: CellOutcome) -> None:
    """Keep how a cell ended that left no card."""
    write_whole(outcome_path(folder), outcome.model_dump_json(indent=2).encode() + b"\n")


def read_cell(folder: Path, *, model: str, sha256: str, method: str, seed: int) -> CellState:
    """How a cell stands; a damaged or foreign record is a status, not an error.

    Args:
        folder: of the cell; need not be there.
        model: name of the model in tables.
        sha256: of the model's file; a card of another file does not count.
        method: the method as it was asked for.
        seed: of the hardening.
    """
    status, reason, card = _read(folder)
    if card is not None and (card.run.sha256, card.run.seed) != (sha256, seed):
        status, card = "unreadable", None
        reason = f"{folder / CARD} is of another model file or seed"
    return CellState(model=model, method=method, seed=seed, status=status, reason=reason, card=card)


def _read(folder: Path) -> tuple[str, str, HardeningCard | None]:
    try:
        if (folder / CARD).is_file():
            card = read_record(folder / CARD, HardeningCard)
            return card.training.status, card.training.reason, card
        if outcome_path(folder).is_file():
            outcome = read_record(outcome_path(folder), CellOutcome)
            return outcome.status, outcome.reason, None
    except RunError as error:
        return "unreadable", str(error), None
    return PENDING, "", None
