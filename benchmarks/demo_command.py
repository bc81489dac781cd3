"""`moth-eval demo`: the main job on models made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode, InputError, RunError
from moth_eval.options import device_option, seed_option

if TYPE_CHECKING:
    from .trojai import TrojaiStudy

HARDENING = (
    "moth:rounds=12,pairs_per_round=3,warm_up_rounds=1,inversion_images=16,clean=40,"
    "first_steps=12,next_steps=6"
)
"""A short training, for a network of four classes and eighty images."""


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the generated round and the run.",
)
@click.option(
    "--models",
    default=6,
    show_default=True,
    type=click.IntRange(min=2),
    help="Models to train, half of them backdoored.",
)
@seed_option
@device_option
@click.pass_context
def demo(ctx: click.Context, out: Path, models: int, seed: int, device: str) -> None:
    """Generate a small round, scan it, harden the worst and show the report.

    No data and no weights are downloaded: the images are drawn and the networks are trained here.
    The same command again continues where it stopped.
    """
    begun = out.exists()
    try:
        _demo(ctx, out, models, seed, device)
    except (InputError, RunError) as error:  # as after an update, which may have other settings
        if not begun:
            raise
        raise RunError(f"{error}; or remove {out}, where a demo was begun otherwise") from error


def _demo(ctx: click.Context, out: Path, models: int, seed: int, device: str) -> None:
    from attacks.generate_command import generate
    from moth_eval.calls import called_as

    from .trojai import TrojaiStudy
    from .trojai_command import run_study

    click.echo(f"1. Training {models} small networks on drawn traffic signs, half with a backdoor")
    ctx.invoke(
        generate,
        out=out / "round",
        models=models,
        classes=4,
        image_size=32,
        arch="resnet18,googlenet",
        source_specific_share=0.0,
        seed=seed,
        device=device,
    )
    click.echo("\n2. Scanning them with Neural Cleanse, as if nothing were known of them")
    study = TrojaiStudy(
        models=out / "round",
        run=out / "run",
        scanners=("nc:statistic=size",),
        seed=seed,
        device=device,
        command=called_as(),
    )
    if run_study(ctx, study) == ExitCode.INCOMPLETE:
        ctx.exit(ExitCode.INCOMPLETE)
    suspect = _most_suspicious(study.run)
    click.echo(
        f"\n3. Hardening the most suspicious model, {suspect}, with MOTH on its clean examples"
    )
    ctx.exit(_harden(out, suspect, seed, device) or _scan_again(ctx, out, suspect, study))


def _most_suspicious(run: Path) -> str:
    """Name of the model with the highest score."""
    from moth_eval.records import RunFolder

    scored = [(r.score, r.model) for r in RunFolder(run).records().values() if r.score is not None]
    return max(scored)[1]


def _harden(out: Path, suspect: str, seed: int, device: str) -> ExitCode:
    """Harden a model of the round into `out/hardened`; the exit code."""
    from moth_eval.calls import called_as

    from .harden_command import run_study as run_harden
    from .harden_plan import HardenStudy

    model = out / "round" / "models" / suspect
    return run_harden(
        HardenStudy(
            model=model,
            data=model / "clean_example_data",
            run=out / "hardened",
            method=HARDENING,
            share=1.0,
            # A pair takes a minute before and another after; the second scan shows the effect.
            distance_pairs=0,
            seed=seed,
            device=device,
            command=called_as(),
        )
    )


def _scan_again(ctx: click.Context, out: Path, suspect: str, study: TrojaiStudy) -> ExitCode:
    """Scan the hardened model as the original was, and say both scores; the exit code."""
    from dataclasses import replace

    from moth_eval.records import RunFolder

    from .budget import Budget
    from .trojai_command import run_study

    click.echo("\n4. Scanning it again")
    again = replace(
        study,
        models=out / "hardened" / "model.safetensors",
        run=out / "run-hardened",
        examples=out / "round" / "models" / suspect / "clean_example_data",
        budget=Budget(jobs=1),
    )
    if run_study(ctx, again) == ExitCode.INCOMPLETE:
        return ExitCode.INCOMPLETE
    scores = [
        next(record.score for record in RunFolder(run).records().values() if record.model == name)
        for run, name in ((study.run, suspect), (again.run, "model"))
    ]
    click.echo(f"\nscore of {suspect}: {scores[0]:.2f} as found, {scores[1]:.2f} hardened")
    click.echo(f"\n5. Open {(out / 'run' / 'report.html').resolve()}")
    return ExitCode.DONE
