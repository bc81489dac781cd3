"""Hardenings of a study, each in a process of its own: a crash or a hang costs one cell."""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from pathlib import Path

from moth_eval.errors import MothError, RefusedFile
from moth_eval.hardening_cells import CellOutcome, CellState, outcome_path, read_cell, write_outcome
from moth_eval.loading.layouts import FILES
from moth_eval.loading.rounds import RoundModel
from moth_eval.records import canonical, write_whole

from .harden_plan import HardenPlan, HardenStudy
from .tasks import file_name
from .workers import GRACE_SECONDS, epitaph, leave_with

Tell = Callable[[str, float | None, str], None]
"""As in `harden_study`: what is going on, which share of it is done (None: unknown), a line."""

Message = tuple[str, float | None, str] | CellOutcome | None
"""From a worker: progress; in the end an outcome, or None where it left a card."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model under one method and seed; no ground truth among it.

    Attributes:
        model: name of the model in tables.
        sha256: of its file; empty if that cannot be read.
        method: as it was asked for.
        study: what to harden and how; its folder is the cell's.
        originals: folder of what was measured of original models; shared by cells.
        problem: why the model cannot be hardened; empty if nothing is known.
    """

    model: str
    sha256: str
    method: str
    study: HardenStudy
    originals: Path
    problem: str = ""

    @property
    def state(self) -> CellState:
        """How it stands on disk."""
        return read_cell(
            self.study.run,
            model=self.model,
            sha256=self.sha256,
            method=self.method,
            seed=self.study.seed,
        )


Work = Callable[[Cell, Tell], None]

FolderNames = dict[str, dict[str, dict[int, str]]]
"""Model -> method -> seed -> name of the cell's folder."""


def folder_names(
    models: Iterable[str], methods: Sequence[str], seeds: Sequence[int]
) -> FolderNames:
    """The name of every cell's folder, safe as a file name."""
    return {
        model: {m: {s: f"{file_name(model)}--{file_name(m)}--{s}" for s in seeds} for m in methods}
        for model in models
    }


def model_path(model: RoundModel) -> Path:
    """What names this model alone: its file, or its folder where more belongs to it."""
    return (model.file if model.layout == FILES else model.file.parent).resolve()


def is_open(cell: Cell, *, retry: bool) -> bool:
    """Whether a cell still has to be carried out.

    Args:
        cell: the cell.
        retry: whether cells without a model are carried out again.
    """
    status = cell.state.status
    return status == "pending" or (retry and status not in ("hardened", "inapplicable"))


def run_cells(
    cells: Iterable[Cell],
    *,
    timeout: float | None,
    tell: Callable[[Cell, str, float | None, str], None],
    work: Work | None = None,
) -> Iterator[CellState]:
    """Carry out cells one after the other; how each stands in the end.

    On leaving early (an exception, or the caller stops) the process at work is killed. A cell that
    was stopped, killed or out of time goes on where it was when it is carried out again.

    Args:
        cells: those to carry out.
        timeout: seconds after which a cell is given up; None: never.
        tell: told of the progress within a cell.
        work: what a worker does; a function of a module, for tests.
    """
    for cell in cells:
        outcome_path(cell.study.run).unlink(missing_ok=True)
        outcome = _carried_out(cell, timeout, tell, work or harden_cell)
        if outcome is not None:
            write_outcome(cell.study.run, outcome)
        yield cell.state


def harden_cell(cell: Cell, tell: Tell) -> None:
    """Carry out a cell here and now; its folder then holds the card.

    Raises:
        MothError: the model, the images or an option cannot be used.
    """
    from .harden_plan import plan
    from .harden_study import carry_out

    planned = plan(cell.study)
    if planned.finished is None:
        _share_originals(planned, cell.originals, tell)
    carry_out(planned, tell=tell)


def _share_originals(planned: HardenPlan, folder: Path, tell: Tell) -> None:
    """Measure the original model, unless another cell did so on the same images; hand it on.

    All methods of a model and seed are compared with one and the same measurement.
    """
    from moth_eval.hardening_records import MEASURED

    from .harden_measure import Measurements

    run, own = planned.manifest, planned.folder / MEASURED
    if own.is_file():
        return
    what = {
        "model": run.sha256,
        "test": run.data.test_sha256,
        "protocol": run.protocol.model_dump(),
        "normalisation": run.normalisation,
        "device": run.device,
        "versions": run.versions,
    }
    shared = folder / f"{hashlib.sha256(canonical(what).encode()).hexdigest()[:32]}.jsonl"
    shared.parent.mkdir(parents=True, exist_ok=True)
    measured = Measurements(shared, planned.data.test, planned.protocol)
    measured.right(planned.subject)
    if run.pairs:
        pairs = f"{len(run.pairs)} pairs"
        measured.distances(
            planned.subject,
            run.pairs,
            on_share=lambda share: tell("distances before", share, pairs),
        )
    write_whole(own, shared.read_bytes())


def _carried_out(
    cell: Cell,
    timeout: float | None,
    tell: Callable[[Cell, str, float | None, str], None],
    work: Work,
) -> CellOutcome | None:
    """How a cell ended; None if it left a card."""
    if cell.problem:
        return CellOutcome(status="failed", reason=cell.problem, seconds=0.0)
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preload"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(cell, theirs, work), daemon=True)
    process.start()
    theirs.close()
    started = time.monotonic()
    try:
        while ours.poll(None if timeout is None else max(0.0, started + timeout - _now())):
            message: Message = ours.recv()
            if not isinstance(message, tuple):
                process.join(GRACE_SECONDS)
                return message
            tell(cell, *message)
        reason = f"no result within {timeout:g} s (--timeout)"
        return CellOutcome(status="timed-out", reason=reason, seconds=_now() - started)
    except (EOFError, OSError):  # it died before or while it answered
        process.join(GRACE_SECONDS)
        reason = epitaph(process.exitcode)
        return CellOutcome(status="failed", reason=reason, seconds=_now() - started)
    finally:
        ours.close()
        if process.is_alive():
            process.kill()
        process.join(GRACE_SECONDS)


def _now() -> float:
    return time.monotonic()


def _work(cell: Cell, answer: connection.Connection, work: Work) -> None:
    """In the worker process: carry out the cell and say how it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=leave_with, args=(answer,), daemon=True).start()
    started = time.monotonic()
    try:
        work(cell, lambda *message: answer.send(message))
        answer.send(None)
        return
    except RefusedFile as error:
        ended: Mapping[str, str] = {"status": "refused", "reason": str(error)}
    except MothError as error:
        ended = {"status": "failed", "reason": str(error)}
    except Exception as error:  # a worker must answer, whatever a file or the machine does to it
        ended = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    seconds = time.monotonic() - started
    answer.send(CellOutcome.model_validate({**ended, "seconds": seconds}))
