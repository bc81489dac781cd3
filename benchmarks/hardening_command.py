"""`moth-eval hardening`: compare hardeners on a folder of models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.comma_lists import NONE, number, words
from moth_eval.errors import ExitCode
from moth_eval.options import architecture_option, device_option, normalisation_option
from moth_eval.own_code import admit_own_code

from .options import (
    OWN_OR_DATA,
    budget_options,
    data_or_own_option,
    distance_pairs_option,
    distance_seeds_option,
    first_option,
    method_option,
    models_option,
    only_option,
    precision_option,
    require_sandbox,
    retry_option,
    run_folder_option,
    shard_option,
    share_option,
    test_option,
)
from .shards import Shard
from .showing import tell_notes, write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.hardening_cells import CellState
    from moth_eval.inversion.frozen import Precision
    from moth_eval.loading.sources import ImageSource

    from .budget import Budget
    from .hardening import HardeningStudy, HardeningStudyPlan


@click.command()
@models_option
@data_or_own_option
@click.option(
    "--methods",
    default="",
    metavar="NAME,NAME,...",
    help="Hardeners with their defaults.  [default: moth,pairwise,universal,adversarial, unless "
    "--method is given]",
)
@method_option
@click.option("--seeds", default="0", show_default=True, help="One hardening per seed: 0,1,2.")
@share_option(unsaid=OWN_OR_DATA)
@test_option
@first_option
@architecture_option()
@normalisation_option()
@require_sandbox
@only_option
@shard_option
@distance_pairs_option("20", type=str, metavar="N|all")
@distance_seeds_option
@precision_option("--distance-precision")
@device_option
@budget_options("hardening", jobs="1, so that times can be compared")
@retry_option
@run_folder_option()
@click.pass_context
def hardening(
    ctx: click.Context,
    models: Path,
    data: ImageSource | None,
    methods: str,
    more_methods: tuple[str, ...],
    seeds: str,
    share: float | None,
    test: ImageSource | None,
    first: int | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    only: tuple[str, ...],
    shard: str,
    distance_pairs: str,
    distance_seeds: int,
    distance_precision: Precision,
    device: str,
    budget: Budget,
    retry: bool,
    out: Path,
) -> None:
    """Compare hardeners on a folder of models; leave a table and every new model.

    The same command again continues a run that was stopped. Exit codes: 0 every cell has a new
    model; 2 usage or input error; 3 run incomplete, or cells without a new model.
    """
    from moth_eval.calls import called_as

    from .hardening import METHODS, HardeningStudy

    named = (*words(methods or NONE), *more_methods)
    admit_own_code(architecture, models)
    study = HardeningStudy(
        models=models,
        data=data,
        run=out,
        methods=named if methods or more_methods else METHODS,
        seeds=tuple(number("--seeds", text) for text in seeds.split(",")),
        share=share,
        test=test,
        first=first,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        only=only,
        shard=Shard.parse(shard) if shard else None,
        distance_pairs=None
        if distance_pairs == "all"
        else number("--distance-pairs", distance_pairs),
        distance_seeds=distance_seeds,
        distance_precision=distance_precision,
        device=device,
        budget=replace(budget, jobs=budget.jobs or 1),
        retry=retry,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: HardeningStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from .hardening import plan

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        tell_notes(planned.round.notes)
        states = _carry_out(planned, study)
    write_reports(ctx, study.run)
    return ExitCode.of(complete=all(state.hardened for state in states))


def _carry_out(planned: HardeningStudyPlan, study: HardeningStudy) -> list[CellState]:
    from rich.console import Console

    from .hardening import carry_out
    from .study_progress import CellProgress, cell_line

    total, done = len(planned.cells), len(planned.cells) - len(planned.open)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} cells are done", err=True)
    with CellProgress(Console(stderr=True), total, done, line=cell_line) as progress:
        return carry_out(planned, study, tell=progress.tell, on_end=progress.advance)
