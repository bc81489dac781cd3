"""The plain half of a saved hardening: checked when it is read back."""

from __future__ import annotations

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ..hardening import LogEntry

_ENTRY = TypeAdapter(LogEntry)


class SavedValues(BaseModel):
    """What a sitting keeps beside its tensors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: int
    steps: int
    images: int
    passes: tuple[int, int]
    seconds: float
    cursor: int = 0
    images_at_once: int | None = None
    log: list[dict[str, object]]


def entry_values(entry: LogEntry) -> dict[str, object]:
    """A log entry as JSON can hold it."""
    return asdict(entry)


def entry_from(values: dict[str, object]) -> LogEntry:
    """The log entry again."""
    return _ENTRY.validate_python(values)
