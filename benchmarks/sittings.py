"""What every resumable command does: hold its run folder, stop when told to, go on as it began."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moth_eval.errors import RunError
from moth_eval.run_files import open_file, require_no_links
from moth_eval.stopping import stoppable

LOCK = ".lock"
"""File of the run folder that the process working on it holds locked."""

Difference = tuple[str, object, object]
"""What it is, what it was, what it would be now."""


@contextmanager
def sitting(run: Path, *, kept: str = "was finished") -> Iterator[None]:
    """Hold the run folder while it is worked on; Ctrl-C and SIGTERM end the command.

    Args:
        run: the folder.
        kept: what the message says of the work that is in the folder.

    Raises:
        RunError: another process works on it.
        click.exceptions.Exit: the run was stopped; the exit code says that it is incomplete.
    """
    with stoppable(f"{run} holds what {kept}, the same command continues"), exclusively(run):
        yield


@contextmanager
def exclusively(run: Path) -> Iterator[None]:
    """Hold the run folder for this process until leaving.

    Raises:
        RunError: it cannot be made, another process works on it, or there are links in it.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the run folder {run} cannot be made: {error.strerror}; give another --out"
        ) from error
    require_no_links(run)
    with _lock(run / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is working on {run}: wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            if [path.name for path in run.iterdir()] == [LOCK]:  # nothing came of it
                (run / LOCK).unlink()
                run.rmdir()


@contextmanager
def waiting_for(lock: Path) -> Iterator[None]:
    """Hold a lock file until leaving, when whoever holds it now has let it go."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _lock(lock) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(path: Path) -> BinaryIO:
    """The lock file, open; what is in it stays, and a link in its place is refused."""
    return os.fdopen(open_file(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


GO_ON = "choose another --out, or repeat the earlier command to continue it"


def refuse_differences(folder: Path, pairs: Iterable[Difference], *, advice: str = GO_ON) -> None:
    """Make sure that a run goes on as it was begun.

    Args:
        folder: of the run.
        pairs: what it is, what it was, what it would be now.
        advice: how to mend it.

    Raises:
        RunError: something differs.
    """
    unlike = first_unlike(pairs)
    if unlike is not None:
        what, before, now = unlike
        raise RunError(
            f"{folder} holds a run with {what} {before!r}, this one has {now!r}: {advice}"
        )


def first_unlike(pairs: Iterable[Difference]) -> Difference | None:
    """The first of the pairs that really differs; None if none does."""
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


def same_ground(
    old_device: str, new_device: str, old: Mapping[str, str], new: Mapping[str, str]
) -> list[Difference]:
    """For `refuse_differences`: the kind of device, and the versions that move results.

    Args:
        old_device: of the run, such as `cuda:0`.
        new_device: that it would have now.
        old: its versions, as `benchmarks.versions` gives them.
        new: those of now.
    """
    devices = (old_device.partition(":")[0], new_device.partition(":")[0])
    return [
        ("the device", *devices),
        *((name, old.get(name), new.get(name)) for name in ("torch", "moth-eval")),
    ]
