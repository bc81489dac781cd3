"""`moth-eval removal`: compare ways of removing a backdoor on a folder of attacked models."""

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
    budget_options,
    data_option,
    method_option,
    only_option,
    require_sandbox,
    retry_option,
    run_folder_option,
    shard_option,
    share_option,
    test_option,
)
from .shards import Shard
from .showing import write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource
    from moth_eval.removal_records import RemovalState

    from .budget import Budget
    from .removal import RemovalPlan, RemovalStudy


@click.command()
@click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of model folders with an attack.json each, or of model files.",
)
@data_option
@test_option
@click.option(
    "--methods",
    default="",
    metavar="NAME,NAME,...",
    help="Methods with their defaults; fine-tuning always is one.  [default: moth-removal,nad,"
    "fine-pruning, unless --method is given]",
)
@method_option
@share_option("--clean-share")
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    help="How many repairs per model and method, or their seeds: 0,1,2.",
)
@architecture_option()
@normalisation_option()
@click.option(
    "--reactivation",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Fine-tune every repaired model on so many poisoned images, and measure again; 0: no.",
)
@require_sandbox
@only_option
@shard_option
@device_option
@budget_options("repair", jobs="1, so that times can be compared")
@retry_option
@run_folder_option()
@click.pass_context
def removal(
    ctx: click.Context,
    models: Path,
    data: ImageSource,
    test: ImageSource | None,
    methods: str,
    more_methods: tuple[str, ...],
    clean_share: float,
    seeds: str,
    architecture: str,
    reactivation: int,
    normalisation: str,
    require_sandbox: bool,
    only: tuple[str, ...],
    shard: str,
    device: str,
    budget: Budget,
    retry: bool,
    out: Path,
) -> None:
    """Compare ways of removing a backdoor; leave tables and every repaired model.

    The same command again continues a run that was stopped. Exit codes: 0 every cell has an
    answer; 2 usage or input error; 3 run incomplete, or cells without an answer.
    """
    from moth_eval.calls import called_as

    from .reactivation import Reactivation
    from .removal import METHODS, RemovalStudy

    named = (*words(methods or NONE), *more_methods)
    admit_own_code(architecture, models)
    study = RemovalStudy(
        models=models,
        data=data,
        run=out,
        methods=named if methods or more_methods else METHODS,
        seeds=seeds_of(seeds),
        clean_share=clean_share,
        test=test,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        only=only,
        shard=Shard.parse(shard) if shard else None,
        reactivation=Reactivation(images=reactivation),
        device=device,
        budget=replace(budget, jobs=budget.jobs or 1),
        retry=retry,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def seeds_of(text: str) -> tuple[int, ...]:
    """The seeds from 0 on, as many as a single number says; or those that are listed, as in `7,`.

    Raises:
        InputError: it is neither.
    """
    listed = tuple(number("--seeds", one) for one in text.removesuffix(",").split(","))
    return listed if "," in text else tuple(range(listed[0]))


def run_study(ctx: click.Context, study: RemovalStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from .removal import plan

    with sitting(study.run, kept="was done"):
        states = _carry_out(plan(study), study)
    write_reports(ctx, study.run)
    return ExitCode.of(complete=all(state.answered for state in states))


def _carry_out(planned: RemovalPlan, study: RemovalStudy) -> list[RemovalState]:
    from rich.console import Console

    from .removal import carry_out
    from .study_progress import CellProgress, removal_line

    total, done = len(planned.cells), len(planned.cells) - len(planned.open)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} cells are done", err=True)
    with CellProgress(Console(stderr=True), total, done, line=removal_line) as progress:
        return carry_out(planned, study, tell=progress.tell, on_end=progress.advance)
