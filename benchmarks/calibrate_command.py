"""`moth-eval calibrate`: what clean models score, for the thresholds of `scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode, InputError
from moth_eval.options import architecture_option, device_option, normalisation_option, seed_option
from moth_eval.own_code import admit_own_code
from moth_eval.text import visible

from .options import (
    budget_options,
    dataset_option,
    examples_option,
    require_sandbox,
    retry_option,
    scanner_option,
)
from .showing import carry_out_shown, planned_aloud
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource

    from .budget import Budget
    from .trojai import TrojaiStudy

SHOWN = 5
"""Names of backdoored models in an error, at most."""


@click.command()
@click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of models that are known to be clean.",
)
@scanner_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Calibration file.",
)
@dataset_option
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder.  [default: runs/calibrate-NAME-OF-MODELS-FOLDER]",
)
@architecture_option()
@normalisation_option()
@require_sandbox
@examples_option
@device_option
@budget_options("scan", jobs="one per processor as memory allows; one per GPU")
@seed_option
@retry_option
@click.pass_context
def calibrate(
    ctx: click.Context,
    models: Path,
    scanners: tuple[str, ...],
    out: Path,
    dataset: str,
    run_folder: Path | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    examples: ImageSource | None,
    device: str,
    seed: int,
    retry: bool,
    budget: Budget,
) -> None:
    """Scan clean models; leave the file by which `scan` keeps its budget of false alarms.

    The same command again continues a run that was stopped. Exit codes: 0 the file was written
    and every model has an answer, 2 usage or input error, 3 stopped, or models without an answer.
    """
    from moth_eval.calls import called_as
    from moth_eval.late_files import require_writable

    from .trojai import TrojaiStudy

    admit_own_code(architecture, models)
    _refuse_backdoored(models, examples)
    require_writable(out, "--out")
    study = TrojaiStudy(
        models=models,
        answers=False,
        run=run_folder or Path("runs") / f"calibrate-{models.resolve().name}",
        scanners=scanners,
        seed=seed,
        device=device,
        budget=budget,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        examples=examples,
        retry=retry,
        command=called_as(),
    )
    ctx.exit(_calibrated(study, out, dataset))


def _refuse_backdoored(models: Path, examples: ImageSource | None) -> None:
    """Make sure that no ground truth in the folder contradicts that its models are clean.

    Raises:
        InputError: one does.
    """
    from moth_eval.loading.rounds import read_round

    found = read_round(models, examples=examples)
    backdoored = sorted(name for name, truth in found.truth.items() if truth.poisoned)
    if backdoored:
        shown = ", ".join(backdoored[:SHOWN]) + (", ..." if len(backdoored) > SHOWN else "")
        raise InputError(
            f"{models}: expected clean models only, got {len(backdoored)} of {len(found.models)} "
            f"that are backdoored by their own ground truth ({shown}): move them elsewhere"
        )


def _calibrated(study: TrojaiStudy, out: Path, dataset: str) -> ExitCode:
    from moth_eval.scan_calibration import write_calibration
    from moth_eval.scan_doubts import doubts_of, wrong_examples

    from .calibrating import calibration_of, counts, lines_of

    with sitting(study.run):
        planned = planned_aloud(study)
        found = carry_out_shown(planned, study)
    records = [found[task.key] for task in planned.tasks if task.key in found]
    made = calibration_of(planned.manifest, records, dataset=dataset, command=study.command)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_calibration(out, made)
    for line in lines_of(made, out):
        click.echo(visible(line))
    for record in records:
        if counts(record):
            told = [f"doubt: {doubt}" for doubt in doubts_of(record)]
        else:
            told = [record.reason if record.score is None else wrong_examples(record)]
        for text in told:
            click.echo(visible(f"{record.model}, {record.scanner}: {text}"), err=True)
    return ExitCode.of(complete=all(map(counts, records)))
