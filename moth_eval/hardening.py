"""What a hardener returns: a changed copy of the network, and how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .errors import HardeningError
from .scan import Cost
from .subject import Examples, Subject


class HardeningStatus(StrEnum):
    """How a hardening ended. Only `HARDENED` carries a network."""

    HARDENED = "hardened"
    INAPPLICABLE = "inapplicable"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """One line of a training log.

    Attributes:
        phase: what was going on, such as `warm-up` or `pairs`.
        round: rounds done, this one included.
        steps: optimiser steps done in all.
        loss: mean cross-entropy of the round's training batches.
        accuracy: fraction of the clean images in those batches classified rightly, in `[0, 1]`,
            in training mode; not a measure of the finished network.
        stamped_accuracy: the same for their stamped images; None if none was stamped.
        distance: mean size of the round's triggers (pixels times channels), valid ones only; None
            if there was none. They are short inversions: an estimate from above.
        pairs: `(source, target)` classes that had a turn; a trigger that failed or was too large
            was not trained on. A source of -1 stands for every class but the target.
        seconds: since the start (s), earlier sittings included.
    """

    phase: str
    round: int
    steps: int
    loss: float
    accuracy: float
    stamped_accuracy: float | None = None
    distance: float | None = None
    pairs: tuple[tuple[int, int], ...] = ()
    seconds: float = 0.0


class VariantKind(StrEnum):
    """Why a hardener hands out a further network beside its result."""

    BYPRODUCT = "byproduct"
    """A stage on the way that is worth a row of its own."""
    CANDIDATE = "candidate"
    """What the method would have returned with another threshold."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A further network of one hardening.

    Attributes:
        kind: what it is.
        name: what tables call it, such as `teacher` or `threshold=0.2`.
        module: the network, in eval mode, on the subject's device.
    """

    kind: VariantKind
    name: str
    module: nn.Module


Selection = Literal["validation", "oracle"]
"""Who chooses among the candidates of a method: it by itself, on a slice of the clean images that
it was given; or a study that knows the trigger, which is not to be had outside an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """The result of one hardener on one subject.

    Attributes:
        status: how it ended.
        module: the hardened copy, in eval mode, on the subject's device; None unless `HARDENED`.
        reason: one sentence; empty when hardened without remark.
        log: what happened, round by round.
        pair_counts: int64 `(K, K)`, how often the pair of row and column had a turn, whether or not
            its trigger was fit to be trained on; None for methods without pairs.
        images_used: training images that the method was given.
        variants: further networks; candidates only where the method was asked for `oracle`.
        figures: what the method measured of itself, by name; each method's page says which.
        cost: what it took.
    """

    status: HardeningStatus
    module: nn.Module | None = None
    reason: str = ""
    log: tuple[LogEntry, ...] = ()
    pair_counts: Tensor | None = None
    images_used: int = 0
    variants: tuple[Variant, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if (self.status is HardeningStatus.HARDENED) != (self.module is not None):
            raise HardeningError(
                f"status {self.status} {'with' if self.module else 'without'} a network: only "
                "'hardened' has one"
            )
        if self.module is None and not self.reason:
            raise HardeningError(f"status {self.status} needs a reason")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Where a hardening stands, so that it can go on later: tensors, and plain values as JSON.

    Attributes:
        tensors: by name; no two share memory.
        values: what `json` can write.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, object]


class Journal(Protocol):
    """Where a hardener notes its progress. Nothing that it answers changes the result."""

    def resumed(self) -> Saved | None:
        """Where an earlier sitting stopped; None at a fresh start."""
        ...

    def note(self, entry: LogEntry) -> None:
        """Take in a line of the log."""
        ...

    def wants_save(self) -> bool:
        """Whether it is time to keep the state."""
        ...

    def save(self, saved: Saved) -> None:
        """Keep the state so that a later sitting can go on from it."""
        ...


class Silent:
    """A journal that keeps nothing."""

    def resumed(self) -> Saved | None:
        """A fresh start."""
        return None

    def note(self, entry: LogEntry) -> None:
        """Let it pass."""

    def wants_save(self) -> bool:
        """Never."""
        return False

    def save(self, saved: Saved) -> None:
        """Let it pass."""


SILENT = Silent()


@runtime_checkable
class Hardener(Protocol):
    """What the runner needs of a hardener: a frozen dataclass with this verb.

    A hardener works on a copy, draws randomness only from `generator`, and does not judge itself:
    checks, timing, accuracy and distance before and after are the caller's work.
    """

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A changed copy of the subject's network, trained on `data` alone."""
        ...
