"""`moth-eval removal`: compare ways of removing a backdoor on a folder of attacked models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .comma_lists import number
from .image_sources import test_images, training_images
from .options import budget_options, only_option, require_sandbox, shard_option
from .shards import Shard
from .sittings import INCOMPLETE, sitting

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
@click.option(
    "--data",
    required=True,
    type=training_images,
    help="Clean images that methods are given a share of: a folder, an .npz with images and "
    "labels, or torchvision:NAME:FOLDER.",
)
@click.option(
    "--test",
    type=test_images,
    help="Images that everything is measured on.  [default: the test part of a torchvision set, "
    "else a fifth of each class of --data, held out]",
)
@click.option(
    "--methods",
    default="",
    metavar="NAME,NAME,...",
    help="Methods with their defaults; fine-tuning always is one.  [default: moth-removal,nad,"
    "fine-pruning, unless --method is given]",
)
@click.option(
    "--method",
    "more_methods",
    multiple=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="One more method; may be given again.",
)
@click.option(
    "--clean-share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of each class that a method is given, of what is not held out.",
)
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    help="How many repairs per model and method, or their seeds: 0,1,2.",
)
@click.option(
    "--arch",
    "architecture",
    default="",
    help="Network of files that hold only weights: a torchvision name, "
    "package.module:factory or package.module (your own, trusted code).",
)
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
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@budget_options("repair", jobs="1, so that times can be compared")
@click.option(
    "--retry-failed",
    "retry",
    is_flag=True,
    help="Carry out again what failed, was refused or ran out of time.",
)
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Run folder."
)
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
    from .trojai_command import admit_own_code

    named = tuple(word.strip() for word in methods.split(",") if word.strip())
    admit_own_code(architecture, models)
    study = RemovalStudy(
        models=models,
        data=data,
        run=out,
        methods=(*named, *more_methods) or METHODS,
        seeds=seeds_of(seeds),
        clean_share=clean_share,
        test=test,
        architecture=architecture,
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


def run_study(ctx: click.Context, study: RemovalStudy) -> int:
    """Plan, carry out and report a study; the exit code."""
    from .removal import plan
    from .trojai_command import write_reports

    with sitting(study.run, kept="was done"):
        states = _carry_out(plan(study), study)
    write_reports(ctx, study.run)
    return 0 if all(state.answered for state in states) else INCOMPLETE


def _carry_out(planned: RemovalPlan, study: RemovalStudy) -> list[RemovalState]:
    from rich.console import Console

    from .removal import carry_out
    from .study_progress import CellProgress, removal_line

    total, done = len(planned.cells), len(planned.cells) - len(planned.open)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} cells are done", err=True)
    with CellProgress(Console(stderr=True), total, done, line=removal_line) as progress:
        return carry_out(planned, study, tell=progress.tell, on_end=progress.advance)
