"""`moth-eval trojai`: scan a folder of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from click.core import ParameterSource

from moth_eval.own_code import admit_own_code as admit_own_code
from moth_eval.text import visible

from .options import (
    address_option,
    architecture_option,
    budget_options,
    engine_option,
    examples_option,
    gpu_share_option,
    only_option,
    require_sandbox,
    retry_option,
    scanner_option,
    shard_option,
)
from .shards import Shard
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource
    from moth_eval.records import ScanRecord

    from .budget import Budget
    from .trojai import Plan, TrojaiStudy


@click.command()
@click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of a TrojAI round, folder of model files, or one model file.",
)
@scanner_option
@click.option(
    "--detector",
    "detectors",
    multiple=True,
    metavar="COMMAND",
    help="Command line of a detector of somebody else's that speaks the contract of TrojAI's "
    "containers; may be given again.  Without --scanner, nothing else runs.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder.  [default: runs/trojai-NAME-OF-MODELS-FOLDER]",
)
@architecture_option
@require_sandbox
@only_option
@shard_option
@engine_option
@address_option
@gpu_share_option
@examples_option
@click.option(
    "--ground-truth",
    type=click.Path(path_type=Path),
    help="The answers, if they do not lie with the models: a tree of ground_truth.csv "
    "or a CSV with model_name and poisoned.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@budget_options("scan", jobs="one per processor as memory allows; one per GPU")
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
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


def run_study(ctx: click.Context, study: TrojaiStudy) -> int:
    """Plan, carry out and report a study; the exit code."""
    from .trojai import exit_code

    with sitting(study.run):
        planned = planned_aloud(study)
        records = carry_out_shown(planned, study)
    write_reports(ctx, study.run)
    return exit_code(planned, records)


def planned_aloud(study: TrojaiStudy) -> Plan:
    """The plan of a study; what was seen on the way is told on the standard error stream."""
    from .trojai import plan

    planned = plan(study)
    for note in planned.round.notes:
        click.echo(f"note: {visible(note)}", err=True)
    return planned


def write_reports(ctx: click.Context, run: Path) -> None:
    """Build the reports of a run and print its table, by way of the front door."""
    from moth_eval.cli import load_command

    ctx.invoke(load_command("report"), run=run, as_json=False)


def carry_out_shown(planned: Plan, study: TrojaiStudy) -> dict[str, ScanRecord]:
    """Carry out a plan with its progress on the standard error stream."""
    from rich.console import Console

    from .progress import ProgressReporter
    from .trojai import carry_out

    total, done = len(planned.tasks), len(planned.finished)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} tasks are done", err=True)
    with ProgressReporter(Console(stderr=True), "scanning", total, done) as reporter:
        return carry_out(planned, study, on_end=lambda record: reporter.advance(_line(record)))


def _line(record: ScanRecord) -> str:
    """One line about a finished task, nothing in which acts on a terminal."""
    if record.score is None:
        return visible(f"{record.model}  {record.scanner}  {record.status}: {record.reason}")
    return visible(
        f"{record.model}  {record.scanner}  score {record.score:.2f}, suspected target "
        f"{record.target}  ({record.seconds:.0f} s)"
    )
