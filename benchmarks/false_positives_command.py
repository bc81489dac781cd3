"""`moth-eval false-positives`: scan models, harden those that are flagged, scan them again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode, InputError
from moth_eval.options import architecture_option, device_option, normalisation_option, seed_option
from moth_eval.own_code import admit_own_code

from .image_sources import training_images
from .options import (
    OWN_OR_DATA,
    budget_options,
    distance_pairs_option,
    ground_truth_option,
    models_option,
    require_sandbox,
    retry_option,
    run_folder_option,
    share_option,
)
from .showing import tell_notes, write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource

    from .budget import Budget
    from .false_positives import FalsePositivesPlan, FalsePositivesStudy

PUBLISHED = "published"


@click.command("false-positives")
@models_option
@click.option(
    "--scanner",
    default="nc",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Scanner to run, before and after.",
)
@click.option(
    "--threshold",
    default=PUBLISHED,
    show_default=True,
    metavar="NUMBER|published",
    help="A score above it flags a model; published: the cut that the scanner states.",
)
@click.option(
    "--harden",
    "method",
    default="moth",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Hardener for the flagged models.",
)
@click.option(
    "--data",
    type=training_images,
    help="Clean images for all models, to scan and to train with: a folder, an .npz with "
    "images and labels, or torchvision:NAME:FOLDER.  [default: each model's own clean examples]",
)
@share_option(unsaid=OWN_OR_DATA)
@distance_pairs_option(0)
@architecture_option()
@normalisation_option()
@require_sandbox
@ground_truth_option
@seed_option
@device_option
@budget_options("task", jobs="one per processor as memory allows; one per GPU")
@retry_option
@run_folder_option("runs/false-positives-NAME-OF-MODELS-FOLDER")
@click.pass_context
def false_positives(
    ctx: click.Context,
    models: Path,
    scanner: str,
    threshold: str,
    method: str,
    data: ImageSource | None,
    share: float | None,
    distance_pairs: int,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    ground_truth: Path | None,
    seed: int,
    device: str,
    budget: Budget,
    retry: bool,
    out: Path | None,
) -> None:
    """Scan models, harden those that are flagged, and scan them again.

    The same command again continues a run that was stopped. Exit codes: 0 every model has an
    answer; 2 usage or input error; 3 run incomplete, or models without an answer.
    """
    from moth_eval.calls import called_as

    from .false_positives import FalsePositivesStudy

    admit_own_code(architecture, models)
    study = FalsePositivesStudy(
        models=models,
        run=out or Path("runs") / f"false-positives-{models.resolve().name}",
        scanner=scanner,
        threshold=_threshold(threshold),
        method=method,
        data=data,
        share=share,
        distance_pairs=distance_pairs,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        ground_truth=ground_truth,
        seed=seed,
        device=device,
        budget=budget,
        retry=retry,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: FalsePositivesStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from .false_positives import plan

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        tell_notes(planned.scan.round.notes)
        complete = _carry_out(planned, study)
    write_reports(ctx, study.run)
    return ExitCode.of(complete=complete)


def _threshold(text: str) -> float | None:
    if text == PUBLISHED:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--threshold: expected a number or {PUBLISHED!r}, got {text!r}") from None


def _carry_out(planned: FalsePositivesPlan, study: FalsePositivesStudy) -> bool:
    from rich.console import Console

    from .false_positives import Listeners, carry_out
    from .study_progress import StagesProgress

    with StagesProgress(Console(stderr=True)) as stages:
        listen = Listeners(
            begin=stages.begin,
            scanned=stages.scanned,
            tell=stages.tell,
            hardened=stages.hardened,
        )
        return carry_out(planned, study, listen)
