"""The append-only record of a run: one file per writer, every line on disk before work goes on."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from moth_eval.records import LEDGER, LOST, AttemptRecord, LedgerLine, ScanRecord, encode
from moth_eval.run_files import open_file

from .tasks import Task


class LedgerFile:
    """A ledger file of one writer's own, which never touches what another left."""

    def __init__(self, run: Path) -> None:
        """Open a new file in the run folder's ledger; its name sorts after all earlier ones."""
        folder = run / LEDGER
        folder.mkdir(parents=True, exist_ok=True)
        # A clock may have been set back.
        latest = max((_began(path) for path in folder.glob("*.jsonl")), default=0)
        began = max(time.time_ns(), latest + 1)
        name = f"{began:020d}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        self._file = open_file(folder / name, flags)

    def append(self, line: bytes) -> None:
        """Add a line; once this returns it survives a power cut."""
        written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"the disk took {written} of {len(line)} bytes of a ledger line")
        os.fsync(self._file)

    def close(self) -> None:
        """End the file."""
        os.close(self._file)


class LedgerWriter:
    """Notes in a ledger file of its own what becomes of tasks."""

    def __init__(self, run: Path) -> None:
        """Open the file in the run folder's ledger."""
        self._file = LedgerFile(run)

    def __enter__(self) -> LedgerWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def start(self, task: Task) -> None:
        """Note that a task has been handed out."""
        self._append(
            LedgerLine(event="start", key=task.key, model=task.model.name, scanner=task.scanner)
        )

    def retry(self, task: Task, attempt: AttemptRecord) -> None:
        """Note how an attempt ended that is not the last at its task."""
        self._append(
            LedgerLine(
                event="retry",
                key=task.key,
                model=task.model.name,
                scanner=task.scanner,
                attempt=attempt,
            )
        )

    def end(self, record: ScanRecord) -> None:
        """Note a task's result; once this returns it survives a power cut."""
        self._append(
            LedgerLine(
                event="end",
                key=record.key,
                model=record.model,
                scanner=record.scanner,
                record=record,
            )
        )

    def _append(self, line: LedgerLine) -> None:
        self._file.append(encode(line))


def _began(path: Path) -> int:
    """When a ledger file was begun, by its name (ns); 0 if it does not say."""
    word = path.name.partition("-")[0]
    return int(word) if word.isdecimal() else 0


def attempts_of(lines: Iterable[LedgerLine]) -> dict[str, tuple[AttemptRecord, ...]]:
    """Task key -> attempts at a task that has no result yet, oldest first."""
    known: dict[str, list[AttemptRecord]] = {}
    begun: set[str] = set()
    for line in lines:
        if line.event == "end":
            known.pop(line.key, None)
            begun.discard(line.key)
        elif line.event == "retry" and line.attempt is not None:
            known.setdefault(line.key, []).append(line.attempt)
            begun.discard(line.key)
        else:
            if line.key in begun:
                known.setdefault(line.key, []).append(LOST)
            begun.add(line.key)
    for key in begun:
        known.setdefault(key, []).append(LOST)
    return {key: tuple(attempts) for key, attempts in known.items()}
