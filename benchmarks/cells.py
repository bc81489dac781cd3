"""Hardenings of a study, each in a process of its own: a crash or a hang costs one cell."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from moth_eval.errors import MothError, OutOfMemory, RefusedFile
from moth_eval.hardening_cells import (
    ANSWERS,
    CellOutcome,
    CellState,
    log_path,
    outcome_path,
    read_cell,
    write_outcome,
)
from moth_eval.hardening_records import HardeningCard
from moth_eval.loading.layouts import FILES
from moth_eval.loading.rounds import RoundModel
from moth_eval.records import AttemptRecord, canonical, write_whole
from moth_eval.text import file_name

from .budget import Budget
from .harden_plan import HardenPlan, HardenStudy
from .pool import Pool
from .sittings import waiting_for
from .supervisor import Ended, Place, Tell


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
    def label(self) -> str:
        """What the cell is called in logs."""
        return f"{self.model} under {self.method}, seed {self.study.seed}"

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


S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)


class Stands(Protocol):
    """How a cell stands."""

    @property
    def status(self) -> str:
        """One of the statuses that its study knows."""
        ...


class AnyCell(Protocol[S_co]):
    """What is carried out in a process of its own: a `Cell`, or one of another study."""

    @property
    def problem(self) -> str:
        """Why it cannot be carried out; empty if nothing is known."""
        ...

    @property
    def study(self) -> HardenStudy:
        """What to harden and how."""
        ...

    @property
    def state(self) -> S_co:
        """How it stands on disk."""
        ...


Work = Callable[[Any, Place, Tell], CellOutcome | None]
"""Carries out a cell; it leaves a card, or says why there is none."""

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


def is_open(cell: AnyCell[Stands], *, retry: bool) -> bool:
    """Whether a cell still has to be carried out.

    Args:
        cell: the cell.
        retry: whether cells without an answer are carried out again.
    """
    status = cell.state.status
    return status == "pending" or (retry and status not in ANSWERS)


def run_cells(
    cells: Sequence[AnyCell[S]],
    budget: Budget,
    device: str,
    *,
    tell: Callable[[Any, str, float | None, str], None],
    work: Work | None = None,
) -> Iterator[S]:
    """Carry out cells; how each stands in the end, as they end.

    On leaving early (an exception, or the caller stops) the processes at work are killed. A cell
    that was stopped, killed or out of time goes on where it was when it is carried out again.

    Args:
        cells: those to carry out.
        budget: what they may use of the machine.
        device: where: `cpu`, `cuda` for all GPUs, or `cuda:N`.
        tell: told of the progress within a cell.
        work: what a worker does; a function of a module, for tests.
    """
    chosen: Work = work or harden_cell
    pool: Pool[AnyCell[S], CellOutcome | None] = Pool(
        work=chosen,
        places=budget.places(device),
        limits=budget.limits(device),
        alone=budget.alone(),
        on_start=lambda cell, number, place: outcome_path(cell.study.run).unlink(missing_ok=True),
        on_message=tell,
        log=lambda cell: log_path(cell.study.run),
    )
    for cell in cells:
        if cell.problem:
            failed = CellOutcome(status="failed", reason=cell.problem, seconds=0.0)
            write_outcome(cell.study.run, failed)
            yield cell.state
    with closing(pool.run(cell for cell in cells if not cell.problem)) as outcomes:
        for outcome in outcomes:
            ended = outcome.ended
            if ended.status != "answered":
                write_outcome(outcome.task.study.run, _outcome(ended, outcome.earlier))
            elif ended.answer is not None:
                write_outcome(outcome.task.study.run, ended.answer)
            yield outcome.task.state


def _outcome(ended: Ended[CellOutcome | None], earlier: tuple[AttemptRecord, ...]) -> CellOutcome:
    return CellOutcome.model_validate(
        {
            "status": ended.status,
            "reason": ended.reason,
            "seconds": ended.seconds,
            "attempts": earlier,
        }
    )


def harden_cell(cell: Cell, place: Place, tell: Tell) -> CellOutcome | None:
    """Carry out a cell here and now; its folder then holds the card, or it is said why not.

    Args:
        cell: what to do.
        place: where; its threads are those that are used.
        tell: told of the progress.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
    """
    with outcome_of_errors() as ended:
        finish(planned(cell.study, place), cell.originals, tell)
    return ended.outcome


@dataclass
class Ending:
    """How work in a worker ended, if it left no card."""

    outcome: CellOutcome | None = None


@contextmanager
def outcome_of_errors() -> Iterator[Ending]:
    """Turn an error made for the user into an outcome, which can be read after leaving.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
    """
    started, ending = time.monotonic(), Ending()
    try:
        yield ending
    except OutOfMemory:
        raise
    except MothError as error:
        status: Literal["refused", "failed"] = "failed"
        if isinstance(error, RefusedFile):
            status = "refused"
        seconds = time.monotonic() - started
        ending.outcome = CellOutcome(status=status, reason=str(error), seconds=seconds)


def planned(study: HardenStudy, place: Place) -> HardenPlan:
    """The plan of a hardening that is carried out here."""
    from .harden_plan import plan

    return plan(replace(study, threads=place.threads, device=place.device))


def finish(planned: HardenPlan, originals: Path, tell: Tell) -> HardeningCard:
    """Do what is left of a hardening, with what other cells measured of the original."""
    from .harden_study import carry_out

    if planned.finished is None:
        _share_originals(planned, originals, tell)
    return carry_out(planned, tell=tell)


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
    with waiting_for(shared.with_suffix(".lock")):  # of a cell that measures the same
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
