"""The table of hardeners: every model x method x seed, resumable, into a run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from moth_eval.errors import InputError, MothError
from moth_eval.hardening_cells import CELLS, CellState
from moth_eval.hardening_study_records import (
    HardeningStudyFolder,
    HardeningStudyManifest,
    StudyModel,
)
from moth_eval.loading.rounds import Round, RoundModel, read_round
from moth_eval.loading.sources import ImageSource, content_hash, default_test, require_source
from moth_eval.removal_records import RemovalManifest

from .budget import Budget
from .cells import Cell, folder_names, is_open, model_path, run_cells
from .harden_plan import HardenStudy
from .oracles import refuse_oracle
from .shards import Shard, named
from .sittings import refuse_differences
from .versions import versions

if TYPE_CHECKING:
    from moth_eval.inversion.frozen import Precision

OWN_SHARE = 1.0
"""Of a model's own clean examples: rounds have 2 to 20 of a class."""
DATA_SHARE = 0.05
"""Of images for all models. Source: 5 % of the data in MOTH (Tao et al., IEEE S&P 2022)."""

METHODS = ("moth", "pairwise", "universal", "adversarial")
"""What is compared unless asked otherwise: the table of the MOTH paper, without its last column."""

ALL_PAIRS = 1 << 40
"""More pairs than any model has."""

ORIGINALS = "originals"

SAME = (
    "models", "data_sha256", "test_sha256", "share", "first", "architecture",
    "normalisation", "distance_pairs", "distance_seeds", "distance_precision", "device",
)  # fmt: skip
"""Fields of the manifest that a run has to keep."""

M = TypeVar("M", HardeningStudyManifest, RemovalManifest)
M_co = TypeVar("M_co", covariant=True)


class CellsFolder(Protocol[M_co]):
    """The run folder of a study that consists of cells."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    def manifest(self) -> M_co:
        """What was asked for."""
        ...


OnTell = Callable[[Cell, str, float | None, str], None]


@dataclass(frozen=True, kw_only=True)
class HardeningStudy:
    """What to harden, with what, and how; the fields are the command's options.

    Attributes:
        models: folder of a round, folder of model files, or one model file.
        data: clean, labelled images for every model: a folder, an `.npz`, or a torchvision set;
            None: each model's own clean examples.
        run: folder for the results.
        methods: hardener specifications, `NAME` or `NAME:field=value,...`.
        seeds: of the hardenings; each decides all that is random of its cells.
        share: fraction of each class that is trained on, of what is not held out, in `(0, 1]`;
            None: `OWN_SHARE` of a model's own examples, `DATA_SHARE` of `data`.
        test: images for testing; None: the test part of a torchvision set, else a fifth of each
            class of the data is held out.
        first: only the first so many images of the data; None: all.
        architecture: where networks come from whose files hold only weights (`--arch`).
        normalisation: what the networks were trained with (`--normalisation`); empty: what their
            side-cars state, else found by trial.
        require_sandbox: whether to refuse models where the kernel does not offer every guard for
            the process that opens them.
        only: names of the models that are looked at; empty: all.
        shard: the part of the models that is this run's; None: all.
        distance_pairs: pairs whose distance is measured before and after; None: all, 0: none.
        distance_seeds: inversions per pair, 1 to 3; the smallest counts.
        distance_precision: of the gradients of these inversions.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        budget: what the run may use of the machine.
        retry: whether cells that left no model are carried out again.
        command: how the run was called, for the record.
    """

    models: Path
    data: ImageSource | None
    run: Path
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)
    share: float | None = None
    test: ImageSource | None = None
    first: int | None = None
    architecture: str = ""
    normalisation: str = ""
    require_sandbox: bool = False
    only: tuple[str, ...] = ()
    shard: Shard | None = None
    distance_pairs: int | None = 20
    distance_seeds: int = 1
    distance_precision: Precision = "float32"
    device: str = "auto"
    budget: Budget = field(default_factory=lambda: Budget(jobs=1))
    retry: bool = False
    command: tuple[str, ...] = ()

    @property
    def trained_share(self) -> float:
        """The share that is trained on."""
        return trained_share(self.share, self.data)


@dataclass(frozen=True, kw_only=True)
class HardeningStudyPlan:
    """What a study will do.

    Attributes:
        round: the models.
        manifest: everything needed to repeat the run.
        cells: all that this call asks for.
        open: those of them that are to be carried out.
    """

    round: Round
    manifest: HardeningStudyManifest
    cells: tuple[Cell, ...]
    open: tuple[Cell, ...]


def plan(study: HardeningStudy) -> HardeningStudyPlan:
    """Read the models, check everything that can be checked at once, and write the manifest.

    Raises:
        InputError: an option or the folder of models is unusable; nothing was written.
        RunError: the run folder holds another run.
    """
    from moth_eval.runner import resolve_device

    study = replace(study, test=default_test(study.data, study.test))
    study.budget.check()
    methods = {spec: parse_hardener(spec) for spec in study.methods}
    if not methods or not study.seeds:
        raise InputError("expected at least one method and one seed, got none")
    found = read_round(study.models, examples=study.data)
    found = replace(found, models=named(found.models, study.only))
    if study.shard is not None:
        found = replace(found, models=study.shard.part(found.models))
    if study.test is not None:
        require_source(study.test, "--test")
    check_architecture(study.architecture, study.models)
    device = str(resolve_device(study.device))
    manifest = _manifest(study, found, methods, device)
    folder = HardeningStudyFolder(study.run)
    if folder.exists:
        manifest = continued(folder, manifest, SAME)
    folder.write_manifest(manifest)
    cells = tuple(_cells(study, found, manifest))
    return HardeningStudyPlan(
        round=found,
        manifest=manifest,
        cells=cells,
        open=tuple(cell for cell in cells if is_open(cell, retry=study.retry)),
    )


def carry_out(
    plan: HardeningStudyPlan,
    study: HardeningStudy,
    *,
    tell: OnTell,
    on_end: Callable[[CellState], None],
) -> list[CellState]:
    """Carry out the open cells of a plan; how all cells of this call stand in the end.

    A `KeyboardInterrupt` passes through after the worker is gone; the run folder then holds what
    was done, and the same study continues from there.

    Args:
        plan: from `plan`.
        study: the same study.
        tell: told of the progress within a cell.
        on_end: told of every cell that is over.
    """
    for state in run_cells(plan.open, study.budget, plan.manifest.device, tell=tell):
        on_end(state)
    return [cell.state for cell in plan.cells]


def parse_hardener(
    spec: str, *, oracle: bool = False, option: str = "--method"
) -> tuple[str, dict[str, Any]]:
    """The hardener and all its parameters from `NAME` or `NAME:field=value,...`.

    Args:
        spec: what the user wrote.
        oracle: whether there is somebody who knows the truth that the method may ask for.
        option: that it was given by.

    Raises:
        InputError: no such hardener, no such field, or a value that the field does not take.
    """
    from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
    from moth_eval.hardening import Hardener
    from moth_eval.plugins import parse_spec

    found = parse_spec(
        spec, HARDENERS, ENTRY_POINTS, kind="method", contract=Hardener, option=option
    )
    if not oracle:
        refuse_oracle(*found)
    return found


def check_architecture(architecture: str, models: Path) -> None:
    """Make sure that `--arch` names something.

    Raises:
        ArchitectureError: it does not.
    """
    from moth_eval.loading.architectures import ArchitectureSource

    ArchitectureSource.optional(architecture, forbidden=models)


def model_hash(model: RoundModel) -> str:
    """SHA-256 of a model's file; empty where it cannot be read, which its cell will tell."""
    from moth_eval.loading.files import sha256_of

    try:
        return sha256_of(model.file) if model.usable and model.file.is_file() else ""
    except (OSError, MothError):
        return ""


def problem_of(model: RoundModel) -> str:
    """Why a model cannot be opened, as its round tells; empty if nothing is known."""
    return "" if model.usable else f"{model.name} cannot be opened: {'; '.join(model.problems)}"


def trained_share(share: float | None, data: ImageSource | None) -> float:
    """What part of each class is trained on: as said, else by where the images come from."""
    if share is not None:
        return share
    return OWN_SHARE if data is None else DATA_SHARE


def data_of(data: ImageSource | None, model: RoundModel) -> ImageSource:
    """The clean images of a model's cell: what was named for all models, or its own examples."""
    own = data or model.examples
    return model.file.parent.resolve() if own is None else own.resolve()


def _cells(study: HardeningStudy, found: Round, manifest: HardeningStudyManifest) -> list[Cell]:
    models = {model.name: model for model in found.models}
    return [
        Cell(
            model=entry.name,
            sha256=entry.sha256,
            method=spec,
            problem=problem_of(models[entry.name]),
            originals=study.run.resolve() / ORIGINALS,
            study=HardenStudy(
                model=model_path(models[entry.name]),
                data=data_of(study.data, models[entry.name]),
                data_named=study.data is not None,
                run=study.run.resolve() / CELLS / entry.folders[spec][seed],
                method=spec,
                share=study.trained_share,
                test=study.test and study.test.resolve(),
                first=study.first,
                architecture=study.architecture,
                normalisation=study.normalisation,
                require_sandbox=study.require_sandbox,
                distance_pairs=ALL_PAIRS if study.distance_pairs is None else study.distance_pairs,
                distance_seeds=study.distance_seeds,
                distance_precision=study.distance_precision,
                seed=seed,
                device=manifest.device,
                command=study.command,
            ),
        )
        for entry in manifest.entries
        for spec in dict.fromkeys(study.methods)
        for seed in dict.fromkeys(study.seeds)
    ]


def _manifest(
    study: HardeningStudy,
    found: Round,
    methods: dict[str, tuple[str, dict[str, Any]]],
    device: str,
) -> HardeningStudyManifest:
    seeds = tuple(dict.fromkeys(study.seeds))
    folders = folder_names([model.name for model in found.models], list(methods), seeds)
    return HardeningStudyManifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=study.command,
        models=str(study.models.resolve()),
        data="" if study.data is None else str(study.data.resolve()),
        data_sha256=content_hash(study.data),
        test="" if study.test is None else str(study.test.resolve()),
        test_sha256=content_hash(study.test),
        share=study.trained_share,
        first=study.first,
        architecture=study.architecture,
        normalisation=study.normalisation,
        methods=as_json({spec: {"method": m, **values} for spec, (m, values) in methods.items()}),
        seeds=seeds,
        distance_pairs=study.distance_pairs,
        distance_seeds=study.distance_seeds,
        distance_precision=study.distance_precision,
        device=device,
        timeout_seconds=study.budget.timeout,
        versions=versions(),
        entries=tuple(
            StudyModel(
                name=model.name,
                file=str(model.file.resolve()),
                sha256=model_hash(model),
                folders=folders[model.name],
            )
            for model in found.models
        ),
    )


def as_json(value: Any) -> Any:
    """The value as JSON gives it back, so that it can be compared with an earlier sitting's."""
    import json

    return json.loads(json.dumps(value, default=str))


def continued(folder: CellsFolder[M], new: M, same: Sequence[str]) -> M:
    """The manifest of a run that goes on: the old one, with the methods and seeds that are new.

    Args:
        folder: of the run.
        new: what is asked for now.
        same: fields that have to be as they were.

    Raises:
        RunError: the folder holds a run of other models, images or settings.
    """
    old = folder.manifest()
    pairs: list[tuple[str, object, object]] = [
        (name, getattr(old, name), getattr(new, name)) for name in same
    ]
    pairs += [
        (f"method {spec}", old.methods[spec], new.methods[spec])
        for spec in old.methods.keys() & new.methods.keys()
    ]
    was, now = ({e.name: e.sha256 for e in m.entries} for m in (old, new))
    pairs.append(("models named", sorted(was), sorted(now)))
    pairs += [(f"hash of {name}", was[name], now[name]) for name in was if name in now]
    refuse_differences(folder.path, pairs)
    return united(old, new).model_copy(update={"timeout_seconds": new.timeout_seconds})


def united(old: M, new: M) -> M:
    """A manifest with the models, methods and seeds of both."""
    methods = {**old.methods, **new.methods}
    seeds = tuple(dict.fromkeys([*old.seeds, *new.seeds]))
    known = {entry.name: entry for entry in [*new.entries, *old.entries]}
    folders = folder_names(known, list(methods), seeds)
    entries = (known[name].model_copy(update={"folders": folders[name]}) for name in sorted(known))
    return old.model_copy(update={"methods": methods, "seeds": seeds, "entries": tuple(entries)})
