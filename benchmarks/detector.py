"""Scanners and hardeners behind the command-line contract of NIST's TrojAI containers."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from moth_eval.errors import InputError
from moth_eval.loading.bounded import is_there
from moth_eval.loading.layouts import CLEAN_FOLDERS, IMAGE_SUFFIXES, MODEL_FILE
from moth_eval.loading.sidecars import sidecar_path
from moth_eval.platt import Logistic, fit_logistic
from moth_eval.records import ScanRecord, write_whole

from .bounded_copies import copy_model, copy_small
from .budget import Budget
from .detector_settings import Metaparameters, read_learned, write_learned
from .rules import require_rules
from .trojai import TrojaiStudy, carry_out, plan

UNDECIDED = 0.5
"""Probability of a model without a score, as the contract wants a number."""

INSTEAD = "set infer_centre in the metaparameters, or learn the curve with configure"

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
        normalisation: `--normalisation`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
    """

    model: Path
    result: Path
    scratch: Path
    examples: Path | None
    settings: Metaparameters
    learned: Path | None = None
    architecture: str = ""
    normalisation: str = ""
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
    [record] = _scanned(wish)
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
    normalisation: str = "",
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
        normalisation=normalisation,
        device=device,
    )
    planned = plan(study)
    with _removed_afterwards(study.run):
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
    curve = fit_logistic([score for score, _ in known], labels)
    write_learned(learned, curve, settings)
    return curve, len(known)


@contextmanager
def _removed_afterwards(run: Path) -> Iterator[None]:
    """Remove a run folder in the end; of work that is interrupted it stays, to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        shutil.rmtree(run, ignore_errors=True)
        raise
    shutil.rmtree(run, ignore_errors=True)


def logits_of(
    model: Path,
    dataset: Path,
    out: Path,
    *,
    architecture: str = "",
    normalisation: str = "",
    device: str = "auto",
) -> Path:
    """Write the logits of every image of a folder, by the file's name; labels may be hidden.

    Images go in as the rounds of this kind want them, between 0 and 1, unless told otherwise.

    Raises:
        InputError: there is no such normalisation.
        MothError: the model cannot be opened, or there are no images.
    """
    import torch

    from moth_eval.loading.architectures import ArchitectureSource
    from moth_eval.loading.forward import require_bounded
    from moth_eval.loading.images import read_image
    from moth_eval.loading.preprocessing import preprocessing_of
    from moth_eval.loading.rounds import read_round
    from moth_eval.loading.subjects import load_member
    from moth_eval.runner import resolve_device

    files = sorted(path for path in dataset.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{dataset} holds no images: expected {', '.join(IMAGE_SUFFIXES)}")
    where = resolve_device(device)
    preprocessing = preprocessing_of(normalisation or "unit")
    source = ArchitectureSource.optional(architecture, forbidden=model.parent)
    [known] = read_round(model, answers=False).models
    module, sizes = load_member(known, source).module.eval(), set[tuple[int, int, int]]()
    found: dict[str, list[float]] = {}
    for path in files:
        image = torch.from_numpy(read_image(path)).float().div(255)[None].to(where)
        _, channels, height, width = image.shape
        if (channels, height, width) not in sizes:
            require_bounded(module.cpu(), (channels, height, width))
            sizes.add((channels, height, width))
            module = module.to(where)
        with torch.no_grad():
            found[path.name] = [float(one) for one in module(preprocessing(image))[0].cpu()]
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
    copy_model(model, active / MODEL_FILE)
    side_car = sidecar_path(model)
    if is_there(side_car) and side_car.is_file():
        copy_small(side_car, sidecar_path(active / MODEL_FILE), model.parent.resolve())
    name = examples.name if examples.name in CLEAN_FOLDERS else "example_data"
    _copy_images(examples, active / name)
    return active / MODEL_FILE


def _copy_images(source: Path, target: Path) -> None:
    """Copy the images of a folder and of its folders per class, with their side-cars."""
    root = source.resolve()
    target.mkdir()
    for path in sorted([*source.glob("*"), *source.glob("*/*")]):
        if path.suffix.lower() in (*IMAGE_SUFFIXES, ".json") and not path.is_dir():
            place = target / path.relative_to(source)
            place.parent.mkdir(exist_ok=True)
            copy_small(path, place, root)


def _finite(found: dict[str, list[float]]) -> dict[str, list[float]]:
    """The same without images whose logits are no numbers: JSON has none for those."""
    return {name: row for name, row in found.items() if all(map(math.isfinite, row))}


def _scanned(wish: Detection) -> Sequence[ScanRecord]:
    """The record of one model, by the machinery of all other scans."""
    model, examples = wish.model, wish.examples
    wish.scratch.mkdir(parents=True, exist_ok=True)
    # Rounds leave the scratch folder as it is from one model to the next.
    with tempfile.TemporaryDirectory(dir=wish.scratch, prefix="moth-eval-") as run:
        if not _in_place(model, examples):
            model, examples = _placed(model, examples, Path(run) / "active"), None
        study = TrojaiStudy(
            models=model,
            answers=False,
            run=Path(run) / "run",
            scanners=(wish.settings.infer_scanner,),
            seed=wish.settings.infer_seed,
            examples=examples,
            architecture=wish.architecture,
            normalisation=wish.normalisation,
            device=wish.device,
            budget=replace(Budget(), jobs=1),
        )
        records = carry_out(plan(study), study, on_end=lambda record: None)
        return tuple(records.values())
