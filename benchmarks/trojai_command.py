"""`moth-eval trojai`: scan a folder of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from moth_eval.errors import ExitCode
from moth_eval.options import architecture_option, device_option, normalisation_option, seed_option
from moth_eval.own_code import admit_own_code

from .options import (
    address_option,
    budget_options,
    engine_option,
    examples_option,
    gpu_share_option,
    ground_truth_option,
    models_option,
    only_option,
    require_sandbox,
    retry_option,
    run_folder_option,
    scanner_option,
    shard_option,
)
from .shards import Shard
from .showing import carry_out_shown, planned_aloud, write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource

    from .budget import Budget
    from .trojai import TrojaiStudy


@click.command()
@models_option
@scanner_option
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="COMMAND",
    help="Command line of a detector of somebody else's that speaks the contract of TrojAI's "
    "containers; may be given again.  Without --scanner, nothing else runs.",
)
@run_folder_option("runs/trojai-NAME-OF-MODELS-FOLDER")
@architecture_option()
@normalisation_option()
@require_sandbox
@only_option
@shard_option
@engine_option
@address_option
@gpu_share_option
@examples_option
@ground_truth_option
@device_option
@budget_options("scan", jobs="one per processor as memory allows; one per GPU")
@seed_option
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many models.")
@retry_option
@click.pass_context
def trojai(
    ctx: click.Context,
    models: Path,
    scanners: tuple[str, ...],
    detectors: tuple[str, ...],
    out: Path | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    only: tuple[str, ...],
    shard: str,
    engine: Literal["local", "ray"],
    address: str,
    gpu_share: float,
    examples: ImageSource | None,
    ground_truth: Path | None,
    device: str,
    seed: int,
    limit: int | None,
    retry: bool,
    budget: Budget,
) -> None:
    """Scan a folder of models; leave scores, ROC and a report.

    The same command again continues a run that was stopped. Exit codes: 0 nothing found,
    1 something found, 2 usage or input error, 3 run incomplete or models without an answer.
    """
    from moth_eval.calls import called_as

    from .trojai import TrojaiStudy

    admit_own_code(architecture, models)
    unsaid = ctx.get_parameter_source("scanners") is ParameterSource.DEFAULT
    study = TrojaiStudy(
        models=models,
        run=out or Path("runs") / f"trojai-{models.resolve().name}",
        scanners=() if detectors and unsaid else scanners,
        detectors=detectors,
        seed=seed,
        device=device,
        budget=budget,
        limit=limit,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        only=only,
        shard=Shard.parse(shard) if shard else None,
        engine=engine,
        address=address,
        gpu_share=gpu_share,
        examples=examples,
        ground_truth=ground_truth,
        retry=retry,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: TrojaiStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from moth_eval.scan_calibration import POLICY

    from .trojai import exit_code

    with sitting(study.run):
        planned = planned_aloud(study)
        # Of an earlier `scan`; with it, the report would be its verdicts. `scan` writes it again.
        (study.run / POLICY).unlink(missing_ok=True)
        records = carry_out_shown(planned, study)
    write_reports(ctx, study.run)
    return exit_code(planned, records)
