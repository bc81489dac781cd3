"""A journal in memory, which breaks off a hardening to see whether it can go on."""

from __future__ import annotations

import json

from ..hardening import LogEntry, Saved


class Noted:
    """A journal that wants to save whenever it can, and may break off after one of the saves.

    Attributes:
        saved: the last state that was kept.
        entries: lines of the log that were noted.
        saves: states that were kept in this sitting.
    """

    def __init__(self, saved: Saved | None = None, *, break_after: int | None = None) -> None:
        """Go on from `saved`, and raise `KeyboardInterrupt` when so many states are kept."""
        self.saved, self.entries, self.saves = saved, list[LogEntry](), 0
        self._break_after = break_after

    def resumed(self) -> Saved | None:
        """Where the earlier sitting stopped."""
        return self.saved

    def note(self, entry: LogEntry) -> None:
        """Take in a line of the log."""
        self.entries.append(entry)

    def wants_save(self) -> bool:
        """Always."""
        return True

    def save(self, saved: Saved) -> None:
        """Keep the state as a file would: in memory of its own, and as plain JSON."""
        tensors = {name: tensor.clone() for name, tensor in saved.tensors.items()}
        self.saved = Saved(tensors=tensors, values=json.loads(json.dumps(saved.values)))
        self.saves += 1
        if self.saves == self._break_after:
            raise KeyboardInterrupt
