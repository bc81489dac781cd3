"""Scanners and hardeners behind the command-line contract of NIST's TrojAI containers."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from moth_eval.errors import InputError, MothError
from moth_eval.loading.layouts import CLEAN_FOLDERS, MODEL_FILE
from moth_eval.loading.sidecars import sidecar_path
from moth_eval.platt import Logistic, fit_logistic
from moth_eval.records import ScanRecord, write_whole

from .budget import Budget
from .detector_settings import Metaparameters, read_learned, write_learned
from .rules import require_rules
from .trojai import TrojaiStudy, carry_out, plan

if TYPE_CHECKING:
    from moth_eval.loading.architectures import ArchitectureSource
    from moth_eval.loading.subjects import Opened

UNDECIDED = 0.5
"""Probability of a model without a score, as the contract wants a number."""

INSTEAD = "set infer_centre in the metaparameters, or learn the curve with configure"

MITIGATED = "mitigated.pt"
RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """What the contract asks of `infer`.

    Attributes:
        model: the model file; its folder may hold nothing that tells which model it is.
        result: file for the probability.
        scratch: folder for what is needed on the way.
        examples: folder of clean images; None: those beside the model.
        settings: the metaparameters.
        learned: folder of learned parameters, or None.
        architecture: `--arch`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    model: Path
    result: Path
    scratch: Path
    examples: Path | None
    settings: Metaparameters
    learned: Path | None = None
    architecture: str = ""
    device: str = "auto"


def infer(wish: Detection) -> tuple[float | None, ScanRecord]:
    """The probability that a model is poisoned, and its scan; the result file is written.

    A model without a score has none, and neither has one whose score there is nothing to hold
    against; the file says one half then.

    Raises:
        InputError: something that was given cannot be used; no result was written.
    """
    if not wish.model.is_file():
        raise InputError(f"{wish.model} is not there: expected a model file (--model_filepath)")
    curve = read_learned(wish.learned, wish.settings.infer_scanner)
    if curve is None and wish.settings.infer_centre is None:
        require_rules([wish.settings.infer_scanner], instead=INSTEAD)
    [record] = _scanned(
        wish.model, wish.examples, wish.scratch, wish.settings, wish.architecture, wish.device
    )
    found, curve = None, curve or stated(wish.settings, record)
    if record.score is not None and curve is not None:
        found = probability(record.score, wish.settings, curve)
    write_whole(wish.result, f"{UNDECIDED if found is None else found:.6f}\n".encode())
    return found, record


def stated(settings: Metaparameters, record: ScanRecord) -> Logistic | None:
    """The curve that the metaparameters describe; None if there is no cut in its centre's place."""
    centre = record.cut if settings.infer_centre is None else settings.infer_centre
    if centre is None:
        return None
    return Logistic(slope=settings.infer_slope, intercept=-settings.infer_slope * centre)


def probability(score: float, settings: Metaparameters, curve: Logistic) -> float:
    """A score on the curve, kept away from 0 and 1."""
    least = settings.infer_least
    return min(max(curve.probability(score), least), 1 - least)


def configure(
    models: Path,
    learned: Path,
    scratch: Path,
    settings: Metaparameters,
    *,
    architecture: str = "",
    device: str = "auto",
) -> tuple[Logistic, int]:
    """Learn the curve from labelled models, and on how many it rests.

    Raises:
        InputError: there are not two scored models of either kind.
    """
    study = TrojaiStudy(
        models=models,
        run=scratch / "configure",
        scanners=(settings.infer_scanner,),
        seed=settings.infer_seed,
        architecture=architecture,
        device=device,
    )
    planned = plan(study)
    records = carry_out(planned, study, on_end=lambda record: None)
    truth = planned.round.truth
    known = [
        (record.score, int(truth[record.model].poisoned))
        for record in records.values()
        if record.score is not None and record.model in truth and not truth[record.model].errata
    ]
    labels = [label for _, label in known]
    if min(labels.count(0), labels.count(1)) < 2:
        raise InputError(
            f"{models}: expected two scored models of either kind with known truth, got "
            f"{labels.count(0)} clean and {labels.count(1)} poisoned"
        )
    shutil.rmtree(study.run, ignore_errors=True)
    curve = fit_logistic([score for score, _ in known], labels)
    write_learned(learned, curve, settings)
    return curve, len(known)


def mitigate(
    model: Path,
    dataset: Path,
    out: Path,
    settings: Metaparameters,
    *,
    name: str = MITIGATED,
    architecture: str = "",
    device: str = "auto",
) -> Path:
    """Harden a model on clean images and write it as a whole module, as the contract wants.

    Raises:
        MothError: the model cannot be opened, or the method gives none.
    """
    import torch

    from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
    from moth_eval.hardening import Hardener, HardeningStatus
    from moth_eval.plugins import build, resolve
    from moth_eval.runner import run_hardening

    from .hardening import parse_hardener

    if Path(name).name != name:
        raise InputError(f"--model_output_name: expected the name of a file, got {name!r}")
    method, parameters = parse_hardener(settings.mitigate_method, option="mitigate_method")
    hardener = build(resolve(method, HARDENERS, ENTRY_POINTS), parameters)
    assert isinstance(hardener, Hardener)  # noqa: S101 - parse_hardener looked
    subject = _opened(model, dataset, architecture, device).subject
    done = run_hardening(
        hardener, subject, subject.examples, name=method, seed=settings.mitigate_seed
    )
    if done.status is not HardeningStatus.HARDENED or done.module is None:
        raise MothError(f"{settings.mitigate_method} gives no model: {done.reason}")
    out.mkdir(parents=True, exist_ok=True)
    torch.save(done.module.cpu().eval(), out / name)
    return out / name


def logits_of(
    model: Path, dataset: Path, out: Path, *, architecture: str = "", device: str = "auto"
) -> Path:
    """Write the logits of every image of a folder, by the file's name; labels may be hidden.

    Images go in as the rounds of this kind want them, between 0 and 1.

    Raises:
        MothError: the model cannot be opened, or there are no images.
    """
    import torch

    from moth_eval.loading.files import load_network
    from moth_eval.loading.images import read_image
    from moth_eval.loading.layouts import IMAGE_SUFFIXES
    from moth_eval.runner import resolve_device

    files = sorted(path for path in dataset.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{dataset} holds no images: expected {', '.join(IMAGE_SUFFIXES)}")
    where = resolve_device(device)
    loaded = load_network(model, architecture=_source(architecture, model))
    module = loaded.module.to(where).eval()
    found: dict[str, list[float]] = {}
    for path in files:
        image = torch.from_numpy(read_image(path)).float().div(255)[None].to(where)
        with torch.no_grad():
            found[path.name] = [float(one) for one in module(image)[0].cpu()]
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / RESULTS, (json.dumps(_finite(found)) + "\n").encode())
    return out / RESULTS


def _in_place(model: Path, examples: Path | None) -> bool:
    """Whether the images lie with the model as a round has them, or are no folder of a round."""
    if examples is None or not examples.is_dir():
        return True
    return model.name == MODEL_FILE and examples.resolve().parent == model.resolve().parent


def _placed(model: Path, examples: Path | None, active: Path) -> Path:
    """A copy of a model with its images beside it: their place tells how they are to be cut."""
    assert examples is not None  # noqa: S101 - _in_place looked
    active.mkdir()
    shutil.copyfile(model, active / MODEL_FILE)
    side_car = sidecar_path(model)
    if side_car.is_file():
        shutil.copyfile(side_car, sidecar_path(active / MODEL_FILE))
    name = examples.name if examples.name in CLEAN_FOLDERS else "example_data"
    shutil.copytree(examples, active / name)
    return active / MODEL_FILE


def _finite(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """The same without images whose logits are no numbers: JSON has none for those."""
    return {name: row for name, row in found.items() if all(map(math.isfinite, row))}


def _source(architecture: str, model: Path) -> ArchitectureSource | None:
    from moth_eval.loading.architectures import ArchitectureSource

    return ArchitectureSource.parse(architecture, forbidden=model.parent) if architecture else None


def _opened(model: Path, examples: Path, architecture: str, device: str) -> Opened:
    from moth_eval.loading.rounds import read_round
    from moth_eval.loading.subjects import open_subject
    from moth_eval.runner import resolve_device

    [found] = read_round(model, examples=examples, answers=False).models
    # `test` feeds images between 0 and 1, so the model has to be hardened on such.
    found = replace(found, normalisation="unit")
    return open_subject(
        found, architecture=_source(architecture, model), device=resolve_device(device)
    )


def _scanned(
    model: Path,
    examples: Path | None,
    scratch: Path,
    settings: Metaparameters,
    architecture: str,
    device: str,
) -> Sequence[ScanRecord]:
    """The record of one model, by the machinery of all other scans."""
    scratch.mkdir(parents=True, exist_ok=True)
    # Rounds leave the scratch folder as it is from one model to the next.
    with tempfile.TemporaryDirectory(dir=scratch, prefix="moth-eval-") as run:
        if not _in_place(model, examples):
            model, examples = _placed(model, examples, Path(run) / "active"), None
        study = TrojaiStudy(
            models=model,
            answers=False,
            run=Path(run) / "run",
            scanners=(settings.infer_scanner,),
            seed=settings.infer_seed,
            examples=examples,
            architecture=architecture,
            device=device,
            budget=replace(Budget(), jobs=1),
        )
        records = carry_out(plan(study), study, on_end=lambda record: None)
        return tuple(records.values())
