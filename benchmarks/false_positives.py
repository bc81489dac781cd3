"""What hardening does to false alarms: scan, harden what is flagged, scan again. Resumable."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moth_eval.errors import InputError
from moth_eval.false_positive_records import (
    AFTER,
    AGAIN,
    BEFORE,
    FalsePositivesFolder,
    FalsePositivesManifest,
    flag,
)
from moth_eval.hardening_cells import CELLS, CellState
from moth_eval.hardening_records import WEIGHTS
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.sources import ImageSource, content_hash, require_source
from moth_eval.records import ModelEntry, RunFolder, ScanRecord
from moth_eval.seeds import derive_seed

from . import trojai
from .budget import Budget
from .cells import Cell, folder_names, is_open, model_path, run_cells
from .harden_plan import HardenStudy
from .hardening import (
    ORIGINALS,
    OnTell,
    as_json,
    data_of,
    parse_hardener,
    problem_of,
    trained_share,
)
from .rules import require_rules
from .sittings import refuse_differences
from .tasks import Task
from .versions import versions


@dataclass(frozen=True, kw_only=True)
class FalsePositivesStudy:
    """What to scan and harden, and how; the fields are the command's options.

    Attributes:
        models: folder of a round, folder of model files, or one model file.
        run: folder for the results.
        scanner: scanner specification, `NAME` or `NAME:field=value,...`.
        threshold: a score above it flags a model; None: the cut that the scanner states.
        method: hardener specification, `NAME` or `NAME:field=value,...`.
        data: clean, labelled images for every model; None: its own clean examples.
        share: fraction of each class that is trained on, of what is not held out, in `(0, 1]`;
            None: all of a model's own examples, a twentieth of `data`.
        distance_pairs: pairs of classes whose distance is measured; 0: none.
        architecture: where networks come from whose files hold only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        ground_truth: where the answers are, if they do not lie with the models.
        seed: decides everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        budget: what the run may use of the machine.
        retry: whether scans and hardenings without a result are done again.
        command: how the run was called, for the record.
    """

    models: Path
    run: Path
    scanner: str = "nc"
    threshold: float | None = None
    method: str = "moth"
    data: ImageSource | None = None
    share: float | None = None
    distance_pairs: int = 0
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    ground_truth: Path | None = None
    seed: int = 0
    device: str = "auto"
    budget: Budget = field(default_factory=Budget)
    retry: bool = False
    command: tuple[str, ...] = ()

    @property
    def trained_share(self) -> float:
        """The share that is trained on."""
        return trained_share(self.share, self.data)

    @property
    def scan(self) -> trojai.TrojaiStudy:
        """The scan of the models as they came."""
        return trojai.TrojaiStudy(
            models=self.models,
            run=self.run / BEFORE,
            scanners=(self.scanner,),
            seed=self.seed,
            device=self.device,
            budget=self.budget,
            architecture=self.architecture,
            normalisation=self.normalisation,
            require_sandbox=self.require_sandbox,
            examples=self.data,
            ground_truth=self.ground_truth,
            retry=self.retry,
            command=self.command,
        )


@dataclass(frozen=True, kw_only=True)
class FalsePositivesPlan:
    """What a study will do; which models are flagged is known only after the first scan.

    Attributes:
        scan: the scan of all models.
        manifest: everything needed to repeat the run.
    """

    scan: trojai.Plan
    manifest: FalsePositivesManifest


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who is told of the progress.

    Attributes:
        begin: told of a stage, how many parts it has and how many of them are done.
        scanned: told of every scan that is over.
        tell: told of the progress within a hardening.
        hardened: told of every hardening that is over.
    """

    begin: Callable[[str, int, int], None]
    scanned: Callable[[ScanRecord], None]
    tell: OnTell
    hardened: Callable[[CellState], None]


def plan(study: FalsePositivesStudy) -> FalsePositivesPlan:
    """Check everything that can be checked at once, and write the manifests.

    Raises:
        InputError: an option or the folder of models is unusable.
        RunError: the run folder holds another run.
    """
    study.budget.check()
    if study.threshold is not None and not math.isfinite(study.threshold):
        raise InputError(f"--threshold must be 'published' or a number, got {study.threshold}")
    if study.threshold is None:
        require_rules([study.scanner], instead="give --threshold as a number")
    folder = FalsePositivesFolder(study.run)
    manifest = _manifest(study)
    if folder.exists:  # before anything is added to the scan that is there
        manifest = _continued(folder, manifest)
    scan = trojai.plan(study.scan)
    names = [entry.name for entry in scan.manifest.entries]
    made = folder_names(names, [study.method], [study.seed])
    folders = {name: made[name][study.method][study.seed] for name in names}
    manifest = manifest.model_copy(update={"folders": folders})
    folder.write_manifest(manifest)
    return FalsePositivesPlan(scan=scan, manifest=manifest)


def _manifest(study: FalsePositivesStudy) -> FalsePositivesManifest:
    """The manifest without the folders of its cells, which only the models' names tell."""
    from moth_eval.runner import resolve_device

    if study.data is not None:
        require_source(study.data, "--data")
    method, parameters = parse_hardener(study.method, option="--harden")
    return FalsePositivesManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        models=str(study.models.resolve()),
        scanner=study.scanner,
        threshold=study.threshold,
        method=study.method,
        parameters=as_json({"method": method, **parameters}),
        data="" if study.data is None else str(study.data.resolve()),
        data_sha256=content_hash(study.data),
        share=study.trained_share,
        distance_pairs=study.distance_pairs,
        architecture=study.architecture,
        normalisation=study.normalisation,
        seed=study.seed,
        device=str(resolve_device(study.device)),
        timeout_seconds=study.budget.timeout,
        versions=versions(),
        folders={},
    )


def carry_out(plan: FalsePositivesPlan, study: FalsePositivesStudy, listen: Listeners) -> bool:
    """Scan, harden what is flagged, scan it again; whether every model has an answer in the end.

    A `KeyboardInterrupt` passes through after the workers are gone; the run folder then holds what
    was finished, and the same study continues from there.

    Args:
        plan: from `plan`.
        study: the same study.
        listen: told of the progress.

    Raises:
        RunError: scores cannot be held against a cut, as the scanner states none.
    """
    before = _scan(plan.scan, study.scan, listen, "scanning")
    flagged = [task for task in plan.scan.tasks if _is_flagged(task, before, study)]
    again = _scan_again(plan, study, flagged)
    rescanned = _scan(again, replace(study.scan, run=study.run / AGAIN), listen, "scanning again")
    states = _harden(plan, study, [_read_as(task, before) for task in flagged], listen)
    after = _scan_hardened(plan, study, flagged, states, before)
    scanned = _scan(after, replace(study.scan, run=study.run / AFTER), listen, "scanning hardened")
    answered = (
        record.score is not None for one in (before, rescanned, scanned) for record in one.values()
    )
    return all(state.hardened for state in states) and all(answered)


def _scan(
    plan: trojai.Plan, study: trojai.TrojaiStudy, listen: Listeners, what: str
) -> Mapping[str, ScanRecord]:
    listen.begin(what, len(plan.tasks), len(plan.tasks) - len(plan.open_tasks))
    return trojai.carry_out(plan, study, on_end=listen.scanned)


def _is_flagged(task: Task, records: Mapping[str, ScanRecord], study: FalsePositivesStudy) -> bool:
    return flag(records[task.key], study.threshold) is True


def _scan_again(
    plan: FalsePositivesPlan, study: FalsePositivesStudy, flagged: Iterable[Task]
) -> trojai.Plan:
    """The control: what a second look under another seed does without any hardening."""
    # As wide as JSON and every reader of it can hold exactly.
    seed = derive_seed(study.seed, "again") % (1 << 31)
    tasks = [replace(t, seed=seed, run=(study.run / AGAIN).resolve()) for t in flagged]
    return _further_scan(plan, study, AGAIN, tasks)


def _scan_hardened(
    plan: FalsePositivesPlan,
    study: FalsePositivesStudy,
    flagged: Iterable[Task],
    states: Iterable[CellState],
    before: Mapping[str, ScanRecord],
) -> trojai.Plan:
    """Scans of the new models: the same scanner, examples, normalisation and seed as before."""
    tasks = []
    for task, state in zip(flagged, states, strict=True):
        if state.hardened is None:
            continue
        folder = (study.run / CELLS / plan.manifest.folders[task.model.name]).resolve()
        tasks.append(
            replace(
                task,
                model=_hardened_model(folder, _read_as(task, before).model),
                sha256=state.hardened.training.sha256,
                models=folder,
                run=(study.run / AFTER).resolve(),
            )
        )
    return _further_scan(plan, study, AFTER, tasks)


def _read_as(task: Task, before: Mapping[str, ScanRecord]) -> Task:
    """The task under the normalisation of its first scan, which must not be found anew."""
    known = before[task.key].normalisation
    return replace(task, model=replace(task.model, normalisation=known))


def _hardened_model(folder: Path, original: RoundModel) -> RoundModel:
    """The new model with everything of the original that is not the network's."""
    weights = folder / WEIGHTS
    if not weights.is_file():  # its scan will say so
        return replace(original, file=weights)
    [found] = read_round(weights, examples=original.examples).models
    return replace(
        found,
        name=original.name,
        examples_named=original.examples_named,
        layout=original.layout,
        crop=original.crop,
        normalisation=original.normalisation,
    )


def _further_scan(
    plan: FalsePositivesPlan, study: FalsePositivesStudy, name: str, tasks: list[Task]
) -> trojai.Plan:
    """A run of its own over some of the models, in a folder beside the first scan.

    Ground truth is not written a second time: it stands in the first scan's manifest alone.
    """
    folder = RunFolder(study.run / name)
    entries = tuple(
        ModelEntry(
            name=task.model.name,
            file=str(task.model.file),
            sha256=task.sha256,
            architecture=task.model.architecture,
            keys={task.scanner: task.key},
        )
        for task in tasks
    )
    seed = tasks[0].seed if tasks else plan.scan.manifest.seed
    manifest = plan.scan.manifest.model_copy(update={"entries": entries, "seed": seed})
    folder.write_manifest(manifest)
    found = replace(plan.scan.round, models=tuple(task.model for task in tasks), truth={})
    return trojai.planned(found, folder, manifest, tuple(tasks), retry=study.retry)


def _harden(
    plan: FalsePositivesPlan,
    study: FalsePositivesStudy,
    flagged: Iterable[Task],
    listen: Listeners,
) -> list[CellState]:
    cells = [_cell(plan, study, task) for task in flagged]
    waiting = [cell for cell in cells if is_open(cell, retry=study.retry)]
    listen.begin("hardening", len(cells), len(cells) - len(waiting))
    for state in run_cells(waiting, study.budget, plan.manifest.device, tell=listen.tell):
        listen.hardened(state)
    return [cell.state for cell in cells]


def _cell(plan: FalsePositivesPlan, study: FalsePositivesStudy, task: Task) -> Cell:
    model = task.model
    return Cell(
        model=model.name,
        sha256=task.sha256,
        method=study.method,
        problem=problem_of(model),
        originals=study.run.resolve() / ORIGINALS,
        study=HardenStudy(
            model=model_path(model),
            data=data_of(study.data, model),
            data_named=study.data is not None,
            run=study.run.resolve() / CELLS / plan.manifest.folders[model.name],
            method=study.method,
            share=study.trained_share,
            architecture=study.architecture,
            normalisation=model.normalisation,
            require_sandbox=study.require_sandbox,
            distance_pairs=study.distance_pairs,
            seed=study.seed,
            device=plan.manifest.device,
            # The command line says where the answers are; it stands in the study's manifest alone.
            command=(),
        ),
    )


def _continued(folder: FalsePositivesFolder, new: FalsePositivesManifest) -> FalsePositivesManifest:
    """The old manifest, if the new one asks for the same.

    Raises:
        RunError: it asks for something else.
    """
    old = folder.manifest()
    same: tuple[str, ...] = (
        "models", "scanner", "threshold", "method", "parameters", "data_sha256", "share",
        "distance_pairs", "architecture", "normalisation", "seed", "device",
    )  # fmt: skip
    pairs: list[tuple[str, Any, Any]] = [(n, getattr(old, n), getattr(new, n)) for n in same]
    refuse_differences(folder.path, pairs)
    return old.model_copy(update={"timeout_seconds": new.timeout_seconds})
