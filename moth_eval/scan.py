"""What a scanner returns: a score with its evidence, or a reason why there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from .errors import ScanError
from .smallest_trigger import smallest_named
from .subject import Subject


class Status(StrEnum):
    """How a scan ended. Only `SCORED` carries a score."""

    SCORED = "scored"
    INCONCLUSIVE = "inconclusive"
    TIMED_OUT = "timed-out"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One inverted trigger.

    Attributes:
        target: class that stamped images are classified as.
        source: class whose images it was made for; None for every class but the target.
        mask: float32 `(1, H, W)` in `[0, 1]`.
        pattern: float32 `(C, H, W)` in `[0, 1]`.
        size: sum of the mask over its pixels (pixels, 0 to H*W).
        asr: attack success rate in `[0, 1]`, re-measured on every image that the inversion used.
        valid: whether `asr` reached the rate that the scanner asks for. The size of an invalid
            trigger says nothing and must not be compared with others.
    """

    target: int
    source: int | None = None
    mask: Tensor
    pattern: Tensor
    size: float
    asr: float
    valid: bool


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One figure that a scanner took of a class, or of a pair of classes.

    For what is no trigger of a mask and a pattern: margins, weights, filters, directions.

    Attributes:
        what: the figure's name with its unit, such as `largest margin (logits)`.
        value: the figure, finite.
        target: class it speaks about; None: the network as a whole.
        source: class whose images it was taken from; None: none in particular.
        pictures: float32 `(2, C, H, W)` in `[0, 1]`: an image as it was, and with the change that
            the figure is about; None if there is nothing to see.
    """

    what: str
    value: float
    target: int | None = None
    source: int | None = None
    pictures: Tensor | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ScanError(f"evidence must be finite, got {self.value} as {self.what!r}")
        if self.pictures is not None and (self.pictures.ndim != 4 or len(self.pictures) != 2):
            raise ScanError(
                f"pictures of {self.what!r} must be (2, C, H, W), an image before and after, got "
                f"{tuple(self.pictures.shape)}"
            )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a scan spent.

    Attributes:
        forward_passes: images that went forward through the network.
        backward_passes: images whose input gradient was taken.
        seconds: wall-clock time (s).
        peak_memory_bytes: highest resident (CPU) or allocated (CUDA) memory during the scan.
    """

    forward_passes: int = 0
    backward_passes: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0


Origin = Literal["published", "ours", "given"]
"""Whose cut it is: the method's authors', ours, or that of whoever set the scanner's fields."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A scanner's own cut, shown beside the score and never a verdict by itself.

    Attributes:
        name: what the cut is applied to, such as `anomaly index`.
        threshold: a score above it makes a model suspicious.
        false_alarm_rate: fraction of clean models above it, in `[0, 1]`, by simulation; None where
            nothing can be simulated: it is not known.
        source: where the cut comes from and what the simulation assumes.
        origin: whose cut it is.
    """

    name: str
    threshold: float
    false_alarm_rate: float | None
    source: str
    origin: Origin = "published"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The result of one scanner on one subject.

    Attributes:
        status: how the scan ended.
        score: higher is more suspicious; None unless `status` is `SCORED`, and then finite.
        reason: one sentence; empty when scored without remark.
        target: suspected target class, if any is named.
        source: suspected source class, if one is named.
        triggers: every inverted trigger, valid or not.
        evidence: what else the score rests on, the most suspicious first.
        rule: the scanner's own cut, if it has one under its settings.
        cost: what it took.
    """

    status: Status
    score: float | None = None
    reason: str = ""
    target: int | None = None
    source: int | None = None
    triggers: tuple[Trigger, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    rule: Rule | None = None
    cost: Cost = field(default_factory=Cost)

    def __post_init__(self) -> None:
        if (self.status is Status.SCORED) != (self.score is not None):
            raise ScanError(f"status {self.status} with score {self.score}: only 'scored' has one")
        if self.score is not None and not math.isfinite(self.score):
            raise ScanError(f"a score must be finite, got {self.score}: use 'inconclusive'")
        if self.status is not Status.SCORED and not self.reason:
            raise ScanError(f"status {self.status} needs a reason")

    @property
    def smallest(self) -> Trigger | None:
        """The smallest valid trigger of the suspected pair, else of the target, else of all."""
        valid = [t for t in self.triggers if t.valid]
        return smallest_named(valid, self.target, self.source)


@runtime_checkable
class Scanner(Protocol):
    """What the runner needs of a scanner: a frozen dataclass with this verb.

    A scanner reads the subject, draws randomness only from `generator`, and judges nothing but
    its own evidence: timing, checks, seeding and clean-up are the runner's work.
    """

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        ...


@runtime_checkable
class Ruled(Protocol):
    """A scanner that knows before it scans whether a cut will stand beside its scores."""

    def without_rule(self) -> str:
        """Why its settings give no cut; empty if they give one."""
        ...
