"""The main study: every model of a round x every scanner, resumable, into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from moth_eval.errors import ExitCode, MothError
from moth_eval.loading.rounds import Round, RoundModel
from moth_eval.loading.sources import ImageSource, content_hash
from moth_eval.records import (
    LOGS,
    LOST,
    AttemptRecord,
    ModelEntry,
    RunFolder,
    RunManifest,
    ScanRecord,
    records_of,
)

from .bounded_copies import LARGEST_EXAMPLES
from .budget import Budget
from .ledger import LedgerWriter, attempts_of
from .pool import Outcome, Pool
from .scan_manifest import continued, relative
from .several_rounds import read_rounds
from .shards import Shard, named
from .tasks import Task, execute, parse_scanner, record_of
from .third_party import METHOD, PREFIX, discard, parse_detector
from .versions import versions

UNANSWERED = ("failed", "timed-out", "crashed", "out-of-memory")
"""Statuses that another attempt may change."""


@dataclass(frozen=True, kw_only=True)
class TrojaiStudy:
    """What to scan, with what, and how; the fields are the command's options.

    Attributes:
        models: folder of a round, folder of model files, or one model file.
        more: further ones.
        answers: whether ground truth is looked for.
        run: folder for the results.
        scanners: scanner specifications, `NAME` or `NAME:field=value,...`.
        detectors: command lines of detectors of others, which speak the contract of TrojAI's
            containers.
        seed: decides everything random.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        budget: what the run may use of the machine.
        engine: where tasks run: `local`, or `ray`.
        address: of the Ray cluster; empty: one on this machine alone.
        gpu_share: fraction of a GPU that a task takes on Ray, in `(0, 1]`.
        limit: only the first so many models; None: all.
        architecture: where networks come from whose files hold only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        only: names of the models that are looked at; empty: all.
        shard: the part of the models that is this run's; None: all.
        examples: clean images for every model, if they do not lie with it.
        ground_truth: where the answers are, if they do not lie with the models.
        retry: whether tasks that failed or timed out are done again.
        command: how the run was called, for the record.
    """

    models: Path
    more: tuple[Path, ...] = ()
    answers: bool = True
    run: Path
    scanners: tuple[str, ...] = ("nc",)
    detectors: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    budget: Budget = field(default_factory=Budget)
    engine: Literal["local", "ray"] = "local"
    address: str = ""
    gpu_share: float = 1.0
    limit: int | None = None
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    only: tuple[str, ...] = ()
    shard: Shard | None = None
    examples: ImageSource | None = None
    ground_truth: Path | None = None
    retry: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will do: all its tasks, and what is known of them already.

    Attributes:
        round: the models.
        manifest: of the run.
        tasks: all of them.
        finished: task key -> record, of those that need not be done.
        earlier: task key -> attempts at those that were begun and not finished.
    """

    round: Round
    manifest: RunManifest
    tasks: tuple[Task, ...]
    finished: dict[str, ScanRecord]
    earlier: dict[str, tuple[AttemptRecord, ...]]

    @property
    def open_tasks(self) -> list[Task]:
        """The tasks without a record; those that the run did not survive come last."""
        left = [task for task in self.tasks if task.key not in self.finished]
        return sorted(left, key=lambda task: self.earlier.get(task.key, ()).count(LOST))


def plan(study: TrojaiStudy) -> Plan:
    """Read the round, check everything that can be checked at once, and write the manifest.

    Raises:
        InputError: an option or the folder of models is unusable; nothing was written.
        RunError: the run folder holds another run.
    """
    from moth_eval.runner import resolve_device

    study.budget.check()
    found, roots = read_rounds(
        (study.models, *study.more),
        examples=study.examples,
        ground_truth=study.ground_truth,
        answers=study.answers,
    )
    models = named(found.models, study.only)[: study.limit]
    if study.shard is not None:
        models = study.shard.part(models)
    methods = {spec: parse_scanner(spec) for spec in study.scanners}
    methods |= {f"{PREFIX}{one}": (METHOD, parse_detector(one)) for one in study.detectors}
    _check_architecture(study)
    _check_examples(study, models)
    device = str(resolve_device(study.device))
    models = tuple(replace(one, normalisation=study.normalisation) for one in models)
    # Once for examples that all models share: they may be larger than any of them.
    examples_hash = cache(content_hash)
    hashes = {model.name: _hashes(model, examples_hash) for model in models}
    folder = RunFolder(study.run)
    tasks = tuple(
        Task(
            model=model,
            sha256=hashes[model.name][0],
            data_sha256=hashes[model.name][1],
            scanner=spec,
            method=method,
            parameters=parameters,
            seed=study.seed,
            device=device,
            architecture=study.architecture,
            require_sandbox=study.require_sandbox,
            models=roots[model.name],
            run=study.run.resolve(),
        )
        for model in models
        for spec, (method, parameters) in methods.items()
    )
    manifest = _manifest(study, found, tasks, methods, device)
    if folder.exists:
        manifest = continued(folder, manifest)
    folder.write_manifest(manifest)
    return planned(found, folder, manifest, tasks, retry=study.retry)


def planned(
    found: Round,
    folder: RunFolder,
    manifest: RunManifest,
    tasks: tuple[Task, ...],
    *,
    retry: bool,
) -> Plan:
    """The plan of these tasks, with what a run folder knows of them.

    Args:
        found: the models.
        folder: of the run.
        manifest: of the run.
        tasks: all of them.
        retry: whether those without an answer are done again.
    """
    lines = list(folder.lines())
    records, again = records_of(lines), UNANSWERED if retry else ()
    return Plan(
        round=found,
        manifest=manifest,
        tasks=tasks,
        finished={
            task.key: records[task.key]
            for task in tasks
            if task.key in records and records[task.key].status not in again
        },
        earlier=attempts_of(lines),
    )


def carry_out(
    plan: Plan, study: TrojaiStudy, *, on_end: Callable[[ScanRecord], None]
) -> dict[str, ScanRecord]:
    """Do the open tasks of a plan; task key -> record of every task that has one in the end.

    A `KeyboardInterrupt` (also for SIGTERM) passes through after the workers are gone; the run
    folder then holds all that was finished, and the same study continues from there.

    Args:
        plan: from `plan`.
        study: the same study.
        on_end: called with every record as soon as it is on disk.
    """
    records = dict(plan.finished)
    device, budget = plan.manifest.device, study.budget
    with LedgerWriter(study.run) as ledger:
        pool = Pool(
            work=execute,
            places=budget.places(device),
            limits=budget.limits(device, shared=study.engine == "local"),
            alone=budget.alone(shared=study.engine == "local"),
            earlier=lambda task: plan.earlier.get(task.key, ()),
            on_start=lambda task, number, place: ledger.start(task),
            on_retry=ledger.retry,
            log=lambda task: task.run / LOGS / f"{task.file_name}.log",
        )
        with closing(_outcomes(pool, plan, study)) as outcomes:
            for outcome in outcomes:
                record = record_of(outcome)
                if outcome.task.method == METHOD:
                    discard(outcome.task)
                ledger.end(record)
                records[record.key] = record
                on_end(record)
    return records


def _outcomes(
    pool: Pool[Task, ScanRecord], plan: Plan, study: TrojaiStudy
) -> Generator[Outcome[Task, ScanRecord]]:
    if study.engine == "local":
        return pool.run(plan.open_tasks)
    from .ray_engine import RayEngine

    engine = RayEngine(
        address=study.address,
        device=plan.manifest.device,
        threads=study.budget.threads or 1,
        gpu_share=study.gpu_share,
        memory_bytes=study.budget.memory_bytes,
    )
    return engine.run(pool, plan.open_tasks)


def exit_code(plan: Plan, records: dict[str, ScanRecord]) -> ExitCode:
    """0: nothing found; 1: a score above its scanner's cut, or a refused file; 3: not all done.

    A model without an answer (pending, failed, timed out, inconclusive) makes it 3: it must not
    pass for a clean one.
    """
    statuses = [records[t.key].status if t.key in records else "pending" for t in plan.tasks]
    if any(status not in ("scored", "refused") for status in statuses):
        return ExitCode.INCOMPLETE
    found = any(is_finding(records[task.key]) for task in plan.tasks)
    return ExitCode.FOUND if found else ExitCode.DONE


def is_finding(record: ScanRecord) -> bool:
    """Whether a record is something to look at: above its scanner's cut, or refused."""
    return record.status == "refused" or record.above_cut is True


def _manifest(
    study: TrojaiStudy,
    found: Round,
    tasks: Sequence[Task],
    methods: dict[str, tuple[str, dict[str, Any]]],
    device: str,
) -> RunManifest:
    models = {task.model.name: task.model for task in tasks}
    hashes = {task.model.name: task.sha256 for task in tasks}
    keys: dict[str, dict[str, str]] = {name: {} for name in models}
    for task in tasks:
        keys[task.model.name][task.scanner] = task.key
    return RunManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        models=" ".join(str(path.resolve()) for path in (study.models, *study.more)),
        seed=study.seed,
        device=device,
        scanners={spec: {"method": m, **parameters} for spec, (m, parameters) in methods.items()},
        versions=versions(),
        architecture=study.architecture,
        normalisation=study.normalisation,
        examples=str(study.examples.resolve()) if study.examples else "",
        timeout_seconds=study.budget.timeout,
        entries=tuple(
            ModelEntry(
                name=model.name,
                file=str(model.file) if study.more else relative(model.file, study.models),
                sha256=hashes[model.name],
                architecture=model.architecture,
                truth=found.truth.get(model.name),
                keys=keys[model.name],
            )
            for model in models.values()
        ),
    )


def _check_examples(study: TrojaiStudy, models: Sequence[RoundModel]) -> None:
    """Read images that are meant for all models once, so that a mistake in them is told once.

    Raises:
        InputError: they cannot be used.
    """
    model = next((one for one in models if one.usable), None)
    if study.examples is None or model is None:
        return
    from moth_eval.loading.images import read_pictures
    from moth_eval.pictures import memory_for_images

    read_pictures(
        study.examples,
        layout=model.layout,
        crop=model.crop,
        num_classes=None,
        most_bytes=memory_for_images(),
    )


def _check_architecture(study: TrojaiStudy) -> None:
    if study.architecture:
        from moth_eval.loading.architectures import ArchitectureSource

        for path in (study.models, *study.more):
            ArchitectureSource.parse(study.architecture, forbidden=path.resolve())


def _hashes(model: RoundModel, examples_hash: Callable[..., str]) -> tuple[str, str]:
    """Hash of the model file and of its example images; empty where there are none."""
    from moth_eval.loading.files import sha256_of

    if not model.usable:
        return "", ""
    weights = examples = ""
    # What cannot be read has no hash; its task will say what is wrong with it.
    with suppress(OSError, MothError):
        weights = sha256_of(model.file) if model.file.is_file() else ""
    with suppress(OSError, MothError):
        most = None if model.examples_named else LARGEST_EXAMPLES
        examples = examples_hash(model.examples, most_bytes=most) if model.examples else ""
    return weights, examples
