"""`moth-eval hardening`: compare hardeners on a folder of models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.text import visible

from .comma_lists import number
from .image_sources import test_images, training_images
from .options import budget_options, only_option, require_sandbox, shard_option
from .shards import Shard
from .sittings import INCOMPLETE, sitting

if TYPE_CHECKING:
    from moth_eval.hardening_cells import CellState
    from moth_eval.inversion.frozen import Precision
    from moth_eval.loading.sources import ImageSource

    from .budget import Budget
    from .hardening import HardeningStudy, HardeningStudyPlan


@click.command()
@click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of a TrojAI round, folder of model files, or one model file.",
)
@click.option(
    "--data",
    required=True,
    type=training_images,
    help="Clean images for all models: a folder, an .npz with images and labels, or "
    "torchvision:NAME:FOLDER.",
)
@click.option(
    "--methods",
    default="",
    metavar="NAME,NAME,...",
    help="Hardeners with their defaults.  [default: moth,pairwise,universal,adversarial, unless "
    "--method is given]",
)
@click.option(
    "--method",
    "more_methods",
    multiple=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="One more hardener; may be given again.",
)
@click.option("--seeds", default="0", show_default=True, help="One hardening per seed: 0,1,2.")
@click.option(
    "--share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of each class that is trained on, of what is not held out.",
)
@click.option(
    "--test",
    type=test_images,
    help="Images that accuracy and distance are measured on.  [default: the test part of a "
    "torchvision set, else a fifth of each class of --data, held out]",
)
@click.option(
    "--first", type=click.IntRange(min=1), help="Only the first so many images of --data."
)
@click.option(
    "--arch",
    "architecture",
    default="",
    help="Network of files that hold only weights: a torchvision name, "
    "package.module:factory or package.module (your own, trusted code).",
)
@require_sandbox
@only_option
@shard_option
@click.option(
    "--distance-pairs",
    default="20",
    show_default=True,
    metavar="N|all",
    help="Pairs of classes whose distance is measured before and after; 0: none.",
)
@click.option(
    "--distance-seeds",
    type=click.IntRange(min=1, max=3),
    default=1,
    show_default=True,
    help="Inversions per pair; the smallest counts.",
)
@click.option(
    "--distance-precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the gradients of these inversions; what counts is always float32.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@budget_options("hardening", jobs="1, so that times can be compared")
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
def hardening(
    ctx: click.Context,
    models: Path,
    data: ImageSource,
    methods: str,
    more_methods: tuple[str, ...],
    seeds: str,
    share: float,
    test: ImageSource | None,
    first: int | None,
    architecture: str,
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
    from .trojai_command import admit_own_code

    named = tuple(word.strip() for word in methods.split(",") if word.strip())
    admit_own_code(architecture, models)
    study = HardeningStudy(
        models=models,
        data=data,
        run=out,
        methods=(*named, *more_methods) or METHODS,
        seeds=tuple(number("--seeds", text) for text in seeds.split(",")),
        share=share,
        test=test,
        first=first,
        architecture=architecture,
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


def run_study(ctx: click.Context, study: HardeningStudy) -> int:
    """Plan, carry out and report a study; the exit code."""
    from .hardening import plan
    from .trojai_command import write_reports

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        for note in planned.round.notes:
            click.echo(f"note: {visible(note)}", err=True)
        states = _carry_out(planned, study)
    write_reports(ctx, study.run)
    return 0 if all(state.hardened for state in states) else INCOMPLETE


def _carry_out(planned: HardeningStudyPlan, study: HardeningStudy) -> list[CellState]:
    from rich.console import Console

    from .hardening import carry_out
    from .study_progress import CellProgress, cell_line

    total, done = len(planned.cells), len(planned.cells) - len(planned.open)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} cells are done", err=True)
    with CellProgress(Console(stderr=True), total, done, line=cell_line) as progress:
        return carry_out(planned, study, tell=progress.tell, on_end=progress.advance)
