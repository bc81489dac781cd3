"""Keeps a hardening on disk while it is under way: its log line by line, its state as one file."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from moth_eval.errors import RunError
from moth_eval.hardening import LogEntry, Saved
from moth_eval.records import write_whole
from moth_eval.run_files import LARGEST_LEDGER, open_file, read_file

STATE = "state.safetensors"
LOG_LINES = "log.jsonl"

SAVE_SECONDS = 30.0
"""At most so much work is lost with a process that is killed, plus one round."""

_ENTRY = TypeAdapter(LogEntry)


class Lines:
    """A file of JSON lines that is only ever appended to; a torn last line is cut off.

    Attributes:
        path: the file.
        content: its lines without their ends, those appended since included.
    """

    def __init__(self, path: Path, *, keep: int | None = None) -> None:
        """Read the file and cut off what is torn.

        Args:
            path: made if it is not there.
            keep: only the first so many lines, the rest is cut off too; None: all.

        Raises:
            RunError: there are fewer lines than `keep`.
        """
        self.path = path
        raw = read_file(path, largest=LARGEST_LEDGER) if path.is_file() else b""
        # A writer that was killed leaves a line without its end.
        self.content = raw.split(b"\n")[:-1][:keep]
        if keep is not None and len(self.content) < keep:
            raise RunError(
                f"{path} holds {len(self.content)} whole lines, {keep} were written: it was "
                f"altered; delete {path.parent} to start over"
            )
        whole = b"".join(line + b"\n" for line in self.content)
        if whole != raw:
            write_whole(path, whole)

    def append(self, line: bytes) -> None:
        """Add a line; once this returns it survives a power cut."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open_file(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            written = os.write(file, line + b"\n")
            if written != len(line) + 1:
                what = f"the disk took {written} of {len(line) + 1} bytes of a log line"
                raise OSError(errno.ENOSPC, what)
            os.fsync(file)
        finally:
            os.close(file)
        self.content.append(line)


class DiskJournal:
    """A journal in a folder: `state.safetensors`, replaced whole, and `log.jsonl`, appended to.

    Only safetensors and JSON are read back, so nothing in the folder can run. Rounds that were
    noted after the state was kept are done again, so their lines are cut off first.

    Attributes:
        entries: the log so far, earlier sittings included.
    """

    def __init__(
        self,
        folder: Path,
        *,
        save_seconds: float = SAVE_SECONDS,
        save_rounds: int | None = None,
        on_entry: Callable[[LogEntry], None] | None = None,
    ) -> None:
        """Pick up what an earlier sitting left in `folder`.

        Args:
            folder: made if it is not there.
            save_seconds: the state is kept when the last time is so long ago (s).
            save_rounds: or when so many rounds were noted since; None: however many.
            on_entry: told of every line of the log once it is on disk.

        Raises:
            RunError: what is in the folder is damaged.
        """
        self._path = folder / STATE
        self._save_seconds, self._save_rounds = save_seconds, save_rounds
        self._on_entry = on_entry
        self._saved, lines = _read_state(self._path)
        self._lines = Lines(folder / LOG_LINES, keep=lines)
        self.entries = [_entry(line, self._lines.path) for line in self._lines.content]
        self._rounds_since, self._since = 0, time.monotonic()

    def resumed(self) -> Saved | None:
        """Where an earlier sitting stopped; None at a fresh start."""
        return self._saved

    def note(self, entry: LogEntry) -> None:
        """Append a line to the log."""
        self._lines.append(json.dumps(asdict(entry)).encode())
        self.entries.append(entry)
        self._rounds_since += 1
        if self._on_entry is not None:
            self._on_entry(entry)

    def wants_save(self) -> bool:
        """Whether the last state that was kept is old enough."""
        late = time.monotonic() - self._since >= self._save_seconds
        return late or (self._save_rounds is not None and self._rounds_since >= self._save_rounds)

    def save(self, saved: Saved) -> None:
        """Replace the state: after a crash or power cut, the old one or the new one is there."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in saved.tensors.items()}
        values = {"values": saved.values, "log_lines": len(self.entries)}
        write_whole(self._path, save(tensors, {"moth-eval": json.dumps(values)}))
        self._rounds_since, self._since = 0, time.monotonic()


def write_log(path: Path, entries: Sequence[LogEntry]) -> None:
    """Write the log as CSV, a row per entry; pairs as `source-target`, parted by blanks."""
    buffer = io.StringIO()
    columns = [field.name for field in fields(LogEntry)]
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for entry in entries:
        pairs = " ".join(f"{'any' if a < 0 else a}-{b}" for a, b in entry.pairs)
        writer.writerow({**asdict(entry), "pairs": pairs})
    write_whole(path, buffer.getvalue().encode())


def _read_state(path: Path) -> tuple[Saved | None, int]:
    """The state in a file and the lines of the log that belong to it; None and 0 without a file."""
    if not path.is_file():
        return None, 0
    try:
        with safe_open(path, "pt") as file:
            kept: dict[str, Any] = json.loads((file.metadata() or {})["moth-eval"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return Saved(tensors=tensors, values=kept["values"]), int(kept["log_lines"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path} cannot be read as the state of a hardening ({error}): delete it to start the "
            "training over"
        ) from error


def _entry(line: bytes, path: Path) -> LogEntry:
    try:
        return _ENTRY.validate_python(json.loads(line))
    except (ValueError, ValidationError) as error:
        raise RunError(
            f"{path} holds a damaged line ({error}): delete {path.parent} to start over"
        ) from error
