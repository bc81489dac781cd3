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
    """The table; sizes are sums of the mask over its pixels."""
    click.echo(
        f"{'pair':>7} {'size: loop':>11} {'engine':>8} {'common':>8} "
        f"{'s: loop':>9} {'engine':>8} {'s to common: loop':>18} {'engine':>8}"
    )
    loop_total = engine_total = 0.0
    for c in comparisons:
        loop, engine = c.reference, c.engine
        loop_common, engine_common = (t.seconds_to(c.common_size) or 0.0 for t in (loop, engine))
        loop_total += loop_common
        engine_total = max(engine_total, engine_common)
        click.echo(
            f"{c.source:>3}-{c.target:<3} {loop.sizes[-1]:>11.1f} {engine.sizes[-1]:>8.1f} "
            f"{c.common_size:>8.1f} {loop.seconds[-1]:>9.1f} {engine.seconds[-1]:>8.1f} "
            f"{loop_common:>18.1f} {engine_common:>8.1f}"
        )
    ratio = loop_total / engine_total
    click.echo(
        f"all pairs to equal size and success rate: loop {loop_total:.1f} s, "
        f"engine {engine_total:.1f} s, ratio {ratio:.1f}"
    )


if __name__ == "__main__":
    bench()
