"""The table of removals: every model x method x seed, resumable, into a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attacks.trigger import Threat
from moth_eval.errors import InputError
from moth_eval.hardening_cells import CELLS, CellOutcome, write_outcome
from moth_eval.loading.images import read_pictures
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.rounds import RoundModel
from moth_eval.loading.sources import (
    ImageSource,
    TorchvisionSet,
    content_hash,
    default_test,
    require_source,
)
from moth_eval.loading.stacking import Size
from moth_eval.pictures import Pictures, memory_for_images
from moth_eval.removal_records import (
    CONTROL,
    TARGET,
    AttackedModel,
    ReactivationRecord,
    RemovalFolder,
    RemovalManifest,
    RemovalState,
    oracle_of,
    without_truth,
)
from moth_eval.splits import check_names, in_both

from .budget import Budget
from .cells import Cell, folder_names, is_open, model_path, run_cells
from .harden_plan import HardenStudy
from .hardening import (
    ORIGINALS,
    as_json,
    check_architecture,
    continued,
    model_hash,
    parse_hardener,
    problem_of,
)
from .reactivation import Reactivation
from .removal_cells import RemovalCell, remove
from .removal_models import Attacked, find_attacked
from .shards import Shard, named
from .versions import versions

METHODS = ("moth-removal", "nad", "fine-pruning")
"""What is compared unless asked otherwise; fine-tuning always is."""

SAME = (
    "models", "data_sha256", "test_sha256", "clean_share", "architecture", "normalisation",
    "reactivation", "device",
)  # fmt: skip
"""Fields of the manifest that a run has to keep."""


@dataclass(frozen=True, kw_only=True)
class RemovalStudy:
    """What to repair, with what, and how; the fields are the command's options.

    Attributes:
        models: folder of model folders with an `attack.json` each, or of model files.
        data: clean, labelled images for every model: a folder, an `.npz`, or a torchvision set.
        run: folder for the results.
        methods: specifications, `NAME` or `NAME:field=value,...`.
        seeds: of the repairs; each decides all that is random of its cells.
        clean_share: fraction of each class that a method is given, in `(0, 1]`.
        test: images for testing; None: the test part of a torchvision set, else a fifth of each
            class of the data is held out.
        architecture: where networks come from whose files hold only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        only: names of the models that are looked at; empty: all.
        shard: the part of the models that is this run's; None: all.
        reactivation: the check after a repair.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        budget: what the run may use of the machine.
        retry: whether cells without an answer are carried out again.
        command: how the run was called, for the record.
    """

    models: Path
    data: ImageSource
    run: Path
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0, 1, 2)
    clean_share: float = 0.05
    test: ImageSource | None = None
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    only: tuple[str, ...] = ()
    shard: Shard | None = None
    reactivation: Reactivation = field(default_factory=lambda: Reactivation(images=0))
    device: str = "auto"
    budget: Budget = field(default_factory=lambda: Budget(jobs=1))
    retry: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RemovalPlan:
    """What a study will do.

    Attributes:
        manifest: everything needed to repeat the run.
        cells: all that this call asks for.
        open: those of them that are to be carried out.
    """

    manifest: RemovalManifest
    cells: tuple[RemovalCell, ...]
    open: tuple[RemovalCell, ...]


def plan(study: RemovalStudy) -> RemovalPlan:
    """Find the models, check everything that can be checked at once, and write the manifest.

    Raises:
        InputError: an option or the folder of models is unusable; nothing was written.
        RunError: the run folder holds another run.
    """
    from moth_eval.runner import resolve_device

    study = replace(study, test=default_test(study.data, study.test))
    study.budget.check()
    specs, control = with_control(study.methods)
    methods = {spec: parse_hardener(without_truth(spec), oracle=True) for spec in specs}
    if not study.seeds:
        raise InputError("expected at least one seed, got none")
    for path, option in ((study.data, "--data"), (study.test, "--test")):
        if path is not None:
            require_source(path, option)
    check_architecture(study.architecture, study.models)
    everyone = find_attacked(study.models, examples=study.data, normalisation=study.normalisation)
    found = _asked_for(study, everyone)
    _refuse_overlap(study, found)
    manifest = _manifest(study, found, methods, control, str(resolve_device(study.device)))
    folder = RemovalFolder(study.run)
    if folder.exists:
        manifest = continued(folder, manifest, SAME)
    folder.write_manifest(manifest)
    cells = tuple(_cells(study, specs, found, everyone, manifest))
    return RemovalPlan(
        manifest=manifest,
        cells=cells,
        open=tuple(cell for cell in cells if is_open(cell, retry=study.retry)),
    )


def _refuse_overlap(study: RemovalStudy, found: tuple[Attacked, ...]) -> None:
    """Make sure that no test image is, pixel by pixel, one that methods may be given.

    Images are read as the first usable model's; every cell looks at its own again. The parts of a
    data set of torchvision are as they are: nobody can take images out, and cards say how many.
    """
    model = next((one.model for one in found if one.model.usable), None)
    if study.test is None or model is None or isinstance(study.data, TorchvisionSet):
        return
    data = _read(study.data, model, stated_size(model.file))
    test = _read(study.test, model, Size.of(data))
    check_names(data.classes, test.classes)
    doubled = in_both(data, test)
    if doubled:
        raise InputError(
            f"{doubled} of {len(test)} test images are, pixel by pixel, among the images of "
            "--data: take them out of --data or --test"
        )


def _read(source: ImageSource, model: RoundModel, size: Size | None) -> Pictures:
    return read_pictures(
        source,
        layout=model.layout,
        crop=model.crop,
        num_classes=None,
        most_bytes=memory_for_images(),
        size=size,
    )


def carry_out(
    plan: RemovalPlan,
    study: RemovalStudy,
    *,
    tell: Callable[[RemovalCell, str, float | None, str], None],
    on_end: Callable[[RemovalState], None],
) -> list[RemovalState]:
    """Carry out the open cells of a plan; how all cells of this call stand in the end.

    A `KeyboardInterrupt` passes through after the worker is gone; the run folder then holds what
    was done, and the same study continues from there.

    Args:
        plan: from `plan`.
        study: the same study.
        tell: told of the progress within a cell.
        on_end: told of every cell that is over.
    """
    refused = [cell for cell in plan.open if cell.not_implanted]
    for cell in refused:
        outcome = CellOutcome(status="not-implanted", reason=cell.not_implanted, seconds=0.0)
        write_outcome(cell.study.run, outcome)
        on_end(cell.state)
    waiting = [cell for cell in plan.open if not cell.not_implanted]
    for state in run_cells(waiting, study.budget, plan.manifest.device, tell=tell, work=remove):
        on_end(state)
    return [cell.state for cell in plan.cells]


def with_control(specs: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The methods with the control among them, and what it was asked for as.

    Plain fine-tuning is added in front, unless it is there with settings of its own.
    """
    each = tuple(dict.fromkeys(specs))
    given = [spec for spec in each if spec.partition(":")[0] == CONTROL]
    return (each, given[0]) if given else ((CONTROL, *each), CONTROL)


def with_truth(spec: str, target: int | None) -> str:
    """The specification with the model's own target class in the place of `target=truth`.

    Args:
        spec: as it was asked for.
        target: of the model; None leaves the method without one, which no cell then carries out.
    """
    plain = without_truth(spec)
    if plain == spec or target is None:
        return plain
    return f"{plain}{',' if ':' in plain else ':'}{TARGET}={target}"


def _asked_for(study: RemovalStudy, everyone: tuple[Attacked, ...]) -> tuple[Attacked, ...]:
    models = named([one.model for one in everyone], study.only)
    if study.shard is not None:
        models = study.shard.part(models)
    names = {model.name for model in models}
    return tuple(one for one in everyone if one.model.name in names)


def _cells(
    study: RemovalStudy,
    specs: tuple[str, ...],
    found: tuple[Attacked, ...],
    everyone: tuple[Attacked, ...],
    manifest: RemovalManifest,
) -> list[RemovalCell]:
    entries = {entry.name: entry for entry in manifest.entries}
    spare = next((one.model for one in everyone if one.clean and one.model.usable), None)
    return [
        RemovalCell(
            cell=_cell(study, one, entries[one.model.name], spec, seed, manifest.device),
            artefact=None if one.clean else one.artefact,
            control=one.twin or spare,
            reactivation=study.reactivation,
            oracle=oracle_of(spec, manifest.methods[spec]),
            not_implanted=one.not_implanted,
        )
        for one in found
        for spec in specs
        for seed in dict.fromkeys(study.seeds)
    ]


def _cell(
    study: RemovalStudy, one: Attacked, entry: AttackedModel, spec: str, seed: int, device: str
) -> Cell:
    """What the method is given: a model and clean images, and of the truth what was asked for."""
    return Cell(
        model=entry.name,
        sha256=entry.sha256,
        method=spec,
        problem=problem_of(one.model),
        originals=study.run.resolve() / ORIGINALS,
        study=HardenStudy(
            model=model_path(one.model),
            data=study.data.resolve(),
            run=study.run.resolve() / CELLS / entry.folders[spec][seed],
            method=with_truth(spec, entry.target),
            share=study.clean_share,
            test=study.test and study.test.resolve(),
            architecture=study.architecture,
            normalisation=one.model.normalisation,
            require_sandbox=study.require_sandbox,
            distance_pairs=0,
            seed=seed,
            device=device,
            command=study.command,
            variants=True,
        ),
    )


def _manifest(
    study: RemovalStudy,
    found: tuple[Attacked, ...],
    methods: dict[str, tuple[str, dict[str, Any]]],
    control: str,
    device: str,
) -> RemovalManifest:
    seeds = tuple(dict.fromkeys(study.seeds))
    folders = folder_names([one.model.name for one in found], list(methods), seeds)
    return RemovalManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        models=str(study.models.resolve()),
        data=str(study.data.resolve()),
        data_sha256=content_hash(study.data),
        test="" if study.test is None else str(study.test.resolve()),
        test_sha256=content_hash(study.test),
        clean_share=study.clean_share,
        architecture=study.architecture,
        normalisation=study.normalisation,
        methods=as_json({spec: {"method": m, **values} for spec, (m, values) in methods.items()}),
        control=control,
        seeds=seeds,
        reactivation=ReactivationRecord(**asdict(study.reactivation)),
        device=device,
        timeout_seconds=study.budget.timeout,
        versions=versions(),
        entries=tuple(_entry(one, folders[one.model.name]) for one in found),
    )


def _entry(one: Attacked, folders: dict[str, dict[int, str]]) -> AttackedModel:
    record = one.record
    model: RoundModel = one.model
    return AttackedModel(
        name=model.name,
        file=str(model.file.resolve()),
        sha256=model_hash(model),
        attack=one.attack,
        target=None
        if record is None or one.clean or one.threat == Threat.ALL_TO_ALL
        else record.target,
        sources=record.sources if record else (),
        threat=one.threat,
        not_implanted=one.not_implanted,
        folders=folders,
    )
