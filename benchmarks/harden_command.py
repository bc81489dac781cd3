"""`moth-eval harden`: train a model so that its classes lie further apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode
from moth_eval.options import (
    architecture_option,
    device_option,
    normalisation_option,
    seed_option,
    threads_option,
)
from moth_eval.own_code import admit_own_code

from .options import (
    data_option,
    distance_pairs_option,
    distance_seeds_option,
    first_option,
    precision_option,
    require_sandbox,
    share_option,
    test_option,
)
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.hardening_records import HardeningCard
    from moth_eval.inversion.frozen import Precision
    from moth_eval.loading.sources import ImageSource

    from .harden_plan import HardenPlan, HardenStudy


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--method",
    default="moth",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Hardener to run.",
)
@data_option
@share_option()
@test_option
@first_option
@architecture_option()
@normalisation_option()
@require_sandbox
@distance_pairs_option(20)
@distance_seeds_option
@precision_option("--distance-precision")
@seed_option
@device_option
@threads_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the new model and its card: new, empty, or of the same command.",
)
@click.pass_context
def harden(
    ctx: click.Context,
    model: Path,
    method: str,
    data: ImageSource,
    share: float,
    test: ImageSource | None,
    first: int | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    distance_pairs: int,
    distance_seeds: int,
    distance_precision: Precision,
    seed: int,
    device: str,
    threads: int | None,
    out: Path,
) -> None:
    """Train a model so that its classes lie further apart; leave the new model.

    The original is left as it is. The same command again continues where it was stopped. Exit
    codes: 0 hardened; 2 usage or input error; 3 not finished, or the method left no model.
    """
    from moth_eval.calls import called_as

    from .harden_plan import HardenStudy

    admit_own_code(architecture, model)
    study = HardenStudy(
        model=model,
        data=data,
        run=out,
        method=method,
        share=share,
        test=test,
        first=first,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        distance_pairs=distance_pairs,
        distance_seeds=distance_seeds,
        distance_precision=distance_precision,
        seed=seed,
        device=device,
        threads=threads,
        command=called_as(),
    )
    ctx.exit(run_study(study))


def run_study(study: HardenStudy) -> ExitCode:
    """Plan and carry out a study, and say what came of it; the exit code."""
    from .harden_plan import plan

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        if planned.finished is not None:
            click.echo(f"{study.run} is finished already, nothing is done again", err=True)
        card = _carry_out(planned)
    _say(card, study.run, finished_before=planned.finished is not None)
    return ExitCode.of(complete=card.training.status == "hardened")


def _carry_out(planned: HardenPlan) -> HardeningCard:
    from rich.console import Console

    from .harden_progress import Stages
    from .harden_study import carry_out

    with Stages(Console(stderr=True)) as stages:
        return carry_out(planned, tell=stages.tell)


def _say(card: HardeningCard, run: Path, *, finished_before: bool) -> None:
    from moth_eval.hardening_records import CARD, CARD_TEXT, LOG, WEIGHTS

    from .harden_card import summary_lines

    for line in summary_lines(card):
        click.echo(line)
    if finished_before:
        return
    click.echo()
    for name in (WEIGHTS, CARD, CARD_TEXT, LOG):
        if (run / name).is_file():
            click.echo(f"wrote {run / name}")
