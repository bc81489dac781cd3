"""`moth-eval distance`: measure how close the classes of a model are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from moth_eval.comma_lists import number, pair
from moth_eval.errors import ExitCode, InputError
from moth_eval.options import (
    architecture_option,
    device_option,
    normalisation_option,
    threads_option,
)
from moth_eval.own_code import admit_own_code

from .image_sources import test_images
from .options import (
    first_option,
    precision_option,
    require_sandbox,
    run_folder_option,
)
from .showing import write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.inversion.frozen import Precision
    from moth_eval.loading.sources import ImageSource

    from .distance_study import DistancePlan, DistanceStudy
    from .progress import Reporter


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@architecture_option()
@normalisation_option()
@require_sandbox
@click.option(
    "--examples",
    type=test_images,
    help="Clean images, if they do not lie with the model: a folder, an .npz with images "
    "and labels, or torchvision:NAME:FOLDER.",
)
@first_option
@click.option(
    "--preset",
    type=click.Choice(("fast", "paper")),
    default="fast",
    show_default=True,
    help="Schedule of the inversions: ours, or the published one.",
)
@click.option(
    "--seeds",
    default="1024,557540351,157301989",
    show_default=True,
    help="One inversion per pair and seed; the smallest counts.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images per source class, drawn anew for every seed.",
)
@click.option("--pairs", default="", help="Source-target classes: 0-1,6-2.  [default: all]")
@click.option(
    "--stability",
    type=click.IntRange(min=2),
    help="Mean and spread over so many random sets of images, in place of --seeds.",
)
@precision_option()
@device_option
@threads_option
@run_folder_option("runs/distance-NAME-OF-MODEL")
@click.pass_context
def distance(
    ctx: click.Context,
    model: Path,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    examples: ImageSource | None,
    first: int | None,
    preset: str,
    seeds: str,
    samples: int,
    pairs: str,
    stability: int | None,
    precision: Precision,
    device: str,
    threads: int | None,
    out: Path | None,
) -> None:
    """Measure how close the classes of a model are, pair by pair.

    The same command again continues a run that was stopped. Exit codes: 0 measured, pairs without
    a trigger included; 2 usage or input error; 3 run incomplete.
    """
    from moth_eval.calls import called_as
    from moth_eval.distance import DistanceProtocol

    from .distance_study import DistanceStudy

    if stability and ctx.get_parameter_source("seeds") is not ParameterSource.DEFAULT:
        raise InputError("--stability draws its own seeds: leave --seeds out")
    protocol = DistanceProtocol(
        preset=preset,
        samples=samples,
        seeds=tuple(number("--seeds", text) for text in seeds.split(",")),
        precision=precision,
    )
    wanted = tuple(pair("--pairs", text) for text in pairs.split(",")) if pairs else None
    admit_own_code(architecture, model)
    study = DistanceStudy(
        model=model,
        run=out or Path("runs") / f"distance-{model.resolve().stem}",
        protocol=protocol,
        stability_sets=stability,
        pairs=wanted,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        examples=examples,
        first=first,
        device=device,
        threads=threads,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: DistanceStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from .distance_study import plan

    with sitting(study.run):
        _carry_out(plan(study), study.run)
    write_reports(ctx, study.run)
    return ExitCode.DONE


def _carry_out(planned: DistancePlan, run: Path) -> None:
    from rich.console import Console

    from .distance_study import carry_out
    from .progress import ProgressReporter

    total, before = planned.total, planned.done
    if before:
        click.echo(f"continuing {run}: {before} of {total} inversions are done", err=True)
    if before == total:
        return
    share = 100 * before // total
    with ProgressReporter(Console(stderr=True), "measuring, %", 100, share) as reporter:
        progress = _Percent(reporter, total, before)
        carry_out(planned, run, on_progress=progress)


class _Percent:
    """Advances a reporter by whole percents of all steps: inversions end many at a time."""

    def __init__(self, reporter: Reporter, total: int, before: int) -> None:
        self._reporter, self._total, self._before = reporter, total, before
        self._shown = 100 * before // total

    def __call__(self, taken: int, steps: int, finished: int) -> None:
        now = self._before + (self._total - self._before) * taken / steps
        while self._shown < int(100 * now / self._total):
            self._shown += 1
            self._reporter.advance(f"% of the steps; {finished} of {self._total} inversions done")
