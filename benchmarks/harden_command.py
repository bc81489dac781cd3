"""`moth-eval harden`: train a model so that its classes lie further apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .image_sources import test_images, training_images
from .options import require_sandbox
from .sittings import INCOMPLETE, sitting

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
@click.option(
    "--data",
    required=True,
    type=training_images,
    help="Clean images to train on: a folder, an .npz with images and labels, or "
    "torchvision:NAME:FOLDER.",
)
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
    help="Network of a file that holds only weights: a torchvision name, "
    "package.module:factory or package.module (your own, trusted code).",
)
@require_sandbox
@click.option(
    "--distance-pairs",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
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
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
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
    from .trojai_command import admit_own_code

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


def run_study(study: HardenStudy) -> int:
    """Plan and carry out a study, and say what came of it; the exit code."""
    from .harden_plan import plan

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        if planned.finished is not None:
            click.echo(f"{study.run} is finished already, nothing is done again", err=True)
        card = _carry_out(planned)
    _say(card, study.run, finished_before=planned.finished is not None)
    return 0 if card.training.status == "hardened" else INCOMPLETE


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
