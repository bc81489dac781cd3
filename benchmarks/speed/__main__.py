"""`make bench`: how fast the inversion engine is, as a ratio to a plain loop in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.options import architecture_option, seed_option

from ..options import first_option

if TYPE_CHECKING:
    from moth_eval.inversion.frozen import Precision
    from moth_eval.subject import Subject

    from .inversion import Comparison


@click.command()
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    help="Model file; without one a network is trained on drawn signs first.",
)
@architecture_option()
@click.option(
    "--examples",
    type=click.Path(path_type=Path, exists=True),
    help="Its images: an .npz or a folder.",
)
@click.option("--pairs", default="0-1", show_default=True, help="Source-target classes: 0-1,6-2.")
@click.option("--samples", default=100, show_default=True, help="Images per source class.")
@first_option
@click.option("--passes", default=1000, show_default=True, help="Of the reference loop.")
@seed_option
def bench(
    model: Path | None,
    architecture: str,
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
    subject = _subject(model, architecture, examples, first)
    click.echo(f"{subject.name}: {subject.architecture}, {torch.get_num_threads()} threads")
    _print(compare(subject, wanted, samples=samples, passes=passes, seed=seed))


def _pair(text: str) -> tuple[int, int]:
    source, dash, target = text.partition("-")
    if not dash or not source.isdigit() or not target.isdigit():
        raise click.BadParameter(f"expected SOURCE-TARGET such as 0-1, got {text!r}")
    return int(source), int(target)


def _subject(model: Path | None, arch: str, examples: Path | None, first: int | None) -> Subject:

    import torch

    from moth_eval.loading.architectures import ArchitectureSource
    from moth_eval.loading.rounds import read_round
    from moth_eval.loading.subjects import open_subject

    found = read_round(model or _trained(), examples=examples).models[0]
    return open_subject(
        found,
        architecture=ArchitectureSource.optional(arch),
        device=torch.device("cpu"),
        select=lambda pictures: pictures.first(first),
    ).subject


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
    """A table per precision; sizes are sums of the mask over its pixels, valid on all images."""
    from moth_eval.inversion.frozen import PRECISIONS

    for precision in PRECISIONS:
        click.echo(f"\nengine in {precision}")
        heads = (
            "pair",
            "loop: size",
            "in s",
            "engine: size",
            "in s",
            "common",
            "loop s",
            "engine s",
        )
        click.echo("  ".join(f"{head:>12}" for head in heads))
        for comparison in comparisons:
            click.echo("  ".join(f"{cell:>12}" for cell in _cells(comparison, precision)))
        times = [c.seconds(precision) for c in comparisons]
        known = [pair for pair in times if pair is not None]
        if known:
            loop, engine = sum(a for a, _ in known), max(b for _, b in known)
            click.echo(
                f"time to equal size and success rate, {len(known)} of {len(times)} pairs: "
                f"loop {loop:.1f} s, engine {engine:.1f} s, ratio {loop / engine:.1f}"
            )
            click.echo(_finish(comparisons, precision))


def _finish(comparisons: Sequence[Comparison], precision: Precision) -> str:
    """What a user waits for: the loop has no early stop, and does not know when it could stop."""
    traces = [(c.reference, c.engine[precision]) for c in comparisons]
    loop = sum(reference.ends[0] for reference, _ in traces)
    engine = max(trace.ends[0] for _, trace in traces)
    sizes = [sum(t.sizes[-1] for t in side) / len(side) for side in zip(*traces, strict=True)]
    return (
        f"time until all pairs are finished: loop {loop:.1f} s (mean size {sizes[0]:.1f}), engine "
        f"{engine:.1f} s (mean size {sizes[1]:.1f}), ratio {loop / engine:.1f}"
    )


def _cells(comparison: Comparison, precision: Precision) -> list[str]:
    loop, engine = comparison.reference, comparison.engine[precision]
    ends = [trace[-1] for t in (loop, engine) for trace in (t.sizes, t.seconds)]
    cells = [f"{comparison.source}-{comparison.target}", *(f"{value:.1f}" for value in ends)]
    size, seconds = comparison.common_size(precision), comparison.seconds(precision)
    if size is None or seconds is None:
        return [*cells, "one of them never found a valid trigger"]
    return [*cells, *(f"{value:.1f}" for value in (size, *seconds))]


if __name__ == "__main__":
    bench()
