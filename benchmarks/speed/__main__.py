"""`make bench`: how fast the inversion engine is, as a ratio to a plain loop in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moth_eval.subject import Subject

    from .inversion import Comparison


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="Model file; without one a network is trained on drawn signs first.",
)
@click.option("--arch", default="", help="Its network, as for moth-eval trojai.")
@click.option(
    "--examples",
    type=click.Path(path_type=Path, exists=True),
    help="Its images: an .npz or a folder.",
)
@click.option("--pairs", default="0-1", show_default=True, help="Source-target classes: 0-1,6-2.")
@click.option("--samples", default=100, show_default=True, help="Images per source class.")
@click.option("--first", type=int, help="Only the first so many images of the examples.")
@click.option("--passes", default=1000, show_default=True, help="Of the reference loop.")
@click.option("--seed", default=0, show_default=True)
def bench(
    model: Path | None,
    arch: str,
    examples: Path | None,
    pairs: str,
    samples: int,
    first: int | None,
    passes: int,
    seed: int,
) -> None:
    """Compare the inversion engine with a plain loop on the same pairs, images and machine."""
    import torch

    from .inversion import compare

    wanted = [_pair(text) for text in pairs.split(",")]
    subject = _subject(model, arch, examples, first)
    click.echo(f"{subject.name}: {subject.architecture}, {torch.get_num_threads()} threads")
    _print(compare(subject, wanted, samples=samples, passes=passes, seed=seed))


def _pair(text: str) -> tuple[int, int]:
    source, dash, target = text.partition("-")
    if not dash or not source.isdigit() or not target.isdigit():
        raise click.BadParameter(f"expected SOURCE-TARGET such as 0-1, got {text!r}")
    return int(source), int(target)


def _subject(model: Path | None, arch: str, examples: Path | None, first: int | None) -> Subject:
    from dataclasses import replace

    import torch

    from moth_eval.loading.architectures import ArchitectureSource
    from moth_eval.loading.rounds import read_round
    from moth_eval.loading.subjects import open_subject
    from moth_eval.subject import Examples

    found = read_round(model or _trained(), examples=examples).models[0]
    source = ArchitectureSource.parse(arch) if arch else None
    subject = open_subject(found, architecture=source, device=torch.device("cpu")).subject
    if first is None:
        return subject
    images, labels = subject.examples.images[:first], subject.examples.labels[:first]
    return replace(subject, examples=Examples(images=images, labels=labels))


def _trained() -> Path:
    """A generated round of one clean model with many example images, made once."""
    from attacks.generator import generate_round
    from attacks.plan import RoundSpec

    out = Path("runs") / "bench-round"
    click.echo(f"no --model: training a network on drawn signs in {out}")
    spec = RoundSpec(
        models=1,
        poisoned_share=0.0,
        image_size=32,
        architectures=("resnet18",),
        examples_per_class=100,
    )
    generate_round(spec, out)
    return out


def _print(comparisons: Sequence[Comparison]) -> None:
    """The table; sizes are sums of the mask over its pixels, each valid on all images."""
    heads = ("pair", "loop: size", "in s", "engine: size", "in s", "common", "loop s", "engine s")
    click.echo("  ".join(f"{head:>12}" for head in heads))
    loop_total = engine_total = 0.0
    for c in comparisons:
        row = (
            f"{c.source}-{c.target}",
            c.reference.sizes[-1],
            c.reference.seconds[-1],
            c.engine.sizes[-1],
            c.engine.seconds[-1],
        )
        cells = [f"{value:>12.1f}" if isinstance(value, float) else f"{value:>12}" for value in row]
        if c.common_size is None:
            click.echo("  ".join([*cells, "one of them never found a valid trigger"]))
            continue
        times = [trace.seconds_to(c.common_size) for trace in (c.reference, c.engine)]
        loop, engine = (time if time is not None else float("nan") for time in times)
        loop_total, engine_total = loop_total + loop, max(engine_total, engine)
        cells += [f"{value:>12.1f}" for value in (c.common_size, loop, engine)]
        click.echo("  ".join(cells))
    if engine_total:
        click.echo(
            f"time to equal size and success rate, all such pairs: loop {loop_total:.1f} s, "
            f"engine {engine_total:.1f} s, ratio {loop_total / engine_total:.1f}"
        )


if __name__ == "__main__":
    bench()
