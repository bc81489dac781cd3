"""`moth-eval honesty`: check whether a grown class distance is real."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.comma_lists import fraction, number, pair, words
from moth_eval.errors import ExitCode
from moth_eval.options import (
    architecture_option,
    device_option,
    normalisation_option,
    seed_option,
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
    from moth_eval.honesty_records import CheckRecord
    from moth_eval.inversion.frozen import Precision
    from moth_eval.loading.sources import ImageSource

    from .honesty_plan import HonestyPlan, HonestyStudy

ALL = "all"
"""What `--pairs` says for every ordered pair."""


@click.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--examples",
    required=True,
    type=test_images,
    help="Clean images: a folder, an .npz with images and labels, or torchvision:NAME:FOLDER.",
)
@first_option
@architecture_option()
@normalisation_option()
@require_sandbox
@click.option(
    "--arch-after", default="", help="Network of AFTER, if it is another.  [default: as --arch]"
)
@click.option(
    "--pairs",
    default="",
    help="Source-target classes: 0-1,6-2; or all.  [default: one per source class; all of up to "
    "4 classes]",
)
@click.option(
    "--restarts",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Inversions of each pair, by each inverter on each network; the smallest counts.",
)
@click.option(
    "--images-per-class",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images of a source class that triggers and patches are made for.",
)
@click.option(
    "--patches",
    default="solid,crop,optimised",
    show_default=True,
    help="Kinds of patches; none: no patches.",
)
@click.option(
    "--patch-sizes", default="2,4,6,8", show_default=True, help="Sides of the patches (pixels)."
)
@click.option(
    "--epsilon",
    "epsilons",
    default="8/255,0.5",
    show_default=True,
    help="Largest change of a channel by PGD, an attack for each; none: no attack.",
)
@precision_option()
@seed_option
@device_option
@threads_option
@run_folder_option()
@click.pass_context
def honesty(
    ctx: click.Context,
    before: Path,
    after: Path,
    examples: ImageSource,
    first: int | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    arch_after: str,
    pairs: str,
    restarts: int,
    images_per_class: int,
    patches: str,
    patch_sizes: str,
    epsilons: str,
    precision: Precision,
    seed: int,
    device: str,
    threads: int | None,
    out: Path,
) -> None:
    """Check in several ways whether hardening moved the classes of a model apart.

    BEFORE is a model, AFTER its hardened copy: a model file, or the folder that `moth-eval harden`
    wrote. The same command again continues a run that was stopped. Exit codes: 0 measured,
    whatever was found; 2 usage or input error; 3 run incomplete.
    """
    from moth_eval.calls import called_as

    from .honesty_plan import HonestyStudy

    named = () if pairs in ("", ALL) else tuple(pair("--pairs", p) for p in pairs.split(","))
    study = HonestyStudy(
        before=before,
        after=after,
        examples=examples,
        run=out,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        architecture_after=arch_after,
        first=first,
        pairs=named if pairs else None,
        restarts=restarts,
        images_per_class=images_per_class,
        patch_kinds=words(patches),
        patch_sizes=tuple(number("--patch-sizes", text) for text in words(patch_sizes)),
        epsilons=tuple(dict.fromkeys(fraction("--epsilon", text) for text in words(epsilons))),
        precision=precision,
        seed=seed,
        device=device,
        threads=threads,
        command=called_as(),
    )
    here = Path.cwd().resolve()
    # Nothing is imported from beside either model, so the one that lies around us counts.
    nearest = after if here.is_relative_to(after.resolve()) else before
    for option in dict.fromkeys((architecture, arch_after)):
        admit_own_code(option, nearest)
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: HonestyStudy) -> ExitCode:
    """Plan, carry out and report a study; the exit code."""
    from .honesty_plan import plan

    with sitting(study.run):
        _carry_out(plan(study))
    write_reports(ctx, study.run)
    return ExitCode.DONE


def _carry_out(planned: HonestyPlan) -> None:
    from rich.console import Console

    from .honesty_study import carry_out
    from .progress import ProgressReporter

    total, done = len(planned.settings.checks), len(planned.finished)
    if done == total:
        click.echo(f"{planned.run} is finished already, nothing is done again", err=True)
        return
    if done:
        click.echo(f"continuing {planned.run}: {done} of {total} checks are done", err=True)
    with ProgressReporter(Console(stderr=True), "checking", total, done) as reporter:
        carry_out(planned, on_check=lambda record: reporter.advance(_line(record)))


def _line(record: CheckRecord) -> str:
    return f"{record.name}  ({record.seconds:.0f} s)"
