"""What every resumable command does: hold its run folder, stop when told to, go on as it began."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from moth_eval.errors import RunError
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
        RunError: another process works on it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("w") as file:
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
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def refuse_differences(folder: Path, pairs: Iterable[Difference]) -> None:
    """Make sure that a run goes on as it was begun.

    Args:
        folder: of the run.
        pairs: what it is, what it was, what it would be now.

    Raises:
        RunError: something differs.
    """
    for what, before, now in pairs:
        if before != now:
            raise RunError(
                f"{folder} holds a run with {what} {before!r}, this one has {now!r}: choose "
                "another --out, or repeat the earlier command to continue it"
            )


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
