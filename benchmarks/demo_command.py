"""`moth-eval demo`: the main job on models made on the spot."""

from __future__ import annotations

from pathlib import Path

import click


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
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.pass_context
def demo(ctx: click.Context, out: Path, models: int, seed: int, device: str) -> None:
    """Generate a small round, scan it and show where the report is.

    No data and no weights are downloaded: the images are drawn and the networks are trained here.
    The same command again continues where it stopped.
    """
    from attacks.generate_command import generate

    from .trojai import TrojaiStudy, called_as
    from .trojai_command import run_study

    click.echo(f"1. Training {models} small networks on drawn traffic signs, half with a backdoor")
    ctx.invoke(
        generate,
        out=out / "round",
        models=models,
        classes=5,
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
        scanners=("nc:log_sizes=true",),
        seed=seed,
        device=device,
        command=called_as(),
    )
    if run_study(ctx, study) == 3:
        ctx.exit(3)
    click.echo(f"\n3. Open {(out / 'run' / 'report.html').resolve()}")
