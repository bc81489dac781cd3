"""`moth-eval generate`: the thin twin of `attacks.generator.generate_round`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.comma_lists import words
from moth_eval.errors import ExitCode
from moth_eval.options import device_option, seed_option
from moth_eval.stopping import stoppable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from .generator import ModelSummary, RoundSummary


WIDTH = 160
"""Columns of output that is not shown on a terminal."""


@click.command(short_help="Make a round of clean and backdoored models to try things on.")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the round: a new one, or one that the same command began.",
)
@click.option("--models", required=True, type=click.IntRange(min=1), help="Number of models.")
@click.option("--classes", default=5, show_default=True, help="Classes per model.")
@click.option("--image-size", default=64, show_default=True, help="Side of the images in pixels.")
@click.option(
    "--arch",
    default="resnet18,googlenet",
    show_default=True,
    help="torchvision architectures, separated by commas; they take turns.",
)
@click.option(
    "--poisoned-share", default=0.5, show_default=True, help="Fraction of backdoored models."
)
@click.option(
    "--triggers",
    default="polygon,patch",
    show_default=True,
    help="Kinds of trigger, separated by commas; they take turns.",
)
@click.option(
    "--source-specific-share",
    default=0.5,
    show_default=True,
    help="Fraction of the backdoors that act on one class only, instead of all but the target.",
)
@click.option(
    "--examples-per-class",
    default=20,
    show_default=True,
    help="Clean images per class left with a model.",
)
@click.option(
    "--training-per-class",
    default=300,
    show_default=True,
    help="Images per class a model is trained on.",
)
@seed_option
@device_option
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Models trained at the same time.  [default: one per processor, one on a GPU]",
)
def generate(
    *,
    out: Path,
    models: int,
    classes: int,
    image_size: int,
    arch: str,
    poisoned_share: float,
    triggers: str,
    source_specific_share: float,
    examples_per_class: int,
    training_per_class: int,
    seed: int,
    device: str,
    jobs: int | None,
) -> None:
    """Train clean and backdoored classifiers of drawn traffic signs, from scratch.

    OUT gets the layout of TrojAI round 4. Every model has to reach 99 % clean accuracy, and every
    backdoor a success rate of 95 %, on held-out images; one that does not is tried again with
    other seeds and otherwise left out. The same command finishes a round that was interrupted.

    Exit codes: 0 all models made, 2 bad input, 3 stopped, or some model did not
    reach what it has to.
    """
    from rich.console import Console

    from moth_eval.runner import resolve_device

    from .generator import generate_round
    from .plan import RoundSpec

    spec = RoundSpec(
        models=models,
        classes=classes,
        image_size=image_size,
        architectures=words(arch),
        poisoned_share=poisoned_share,
        triggers=words(triggers),
        source_specific_share=source_specific_share,
        examples_per_class=examples_per_class,
        training_per_class=training_per_class,
        seed=seed,
    )
    chosen = str(resolve_device(device))
    # A file or a pipe has no edge to wrap at.
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    bar = _progress_bar(console) if console.is_terminal else None
    task = bar.add_task("training", total=models) if bar else None

    def show(summary: ModelSummary) -> None:
        if bar is not None and task is not None:
            bar.advance(task)
        (bar.console if bar else console).print(_line(summary), highlight=False)

    running: AbstractContextManager[object] = bar or nullcontext()
    with stoppable(f"{out} holds what was finished, the same command continues"), running:
        made = generate_round(
            spec, out, progress=show, device=chosen, jobs=jobs or _default_jobs(chosen)
        )
    _print_table(console, made)
    if not made.complete:
        raise click.exceptions.Exit(ExitCode.INCOMPLETE)


def _default_jobs(device: str) -> int:
    from moth_eval.machine import processors

    return 1 if device.startswith("cuda") else processors()


def _progress_bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
    from rich.progress import TimeElapsedColumn as Elapsed

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        console=console,
    )


def _line(summary: ModelSummary) -> str:
    state = "kept" if summary.kept else f"{summary.seconds:.0f} s"
    asr = "" if summary.asr is None else f", ASR {summary.asr:.1%}"
    verdict = f"  FAILED: {summary.failure}" if summary.failure else ""
    return (
        f"{summary.name}  {summary.architecture}  {_trigger(summary)}: clean accuracy "
        f"{summary.clean_accuracy:.1%}{asr} ({state}){verdict}"
    )


def _trigger(summary: ModelSummary) -> str:
    if summary.target is None:
        return "clean"
    sources = ",".join(map(str, summary.sources)) or "all"
    return f"{summary.trigger} {sources}->{summary.target}"


def _print_table(console: Console, made: RoundSummary) -> None:
    from rich import box
    from rich.table import Table

    # A title and headings this short keep the table within 80 columns.
    table = Table(
        title=f"Round in {made.folder}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("model", "architecture", "trigger"):
        table.add_column(heading, no_wrap=True)
    for heading in ("clean", "ASR", "others", "tries", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("gate", no_wrap=True)
    for model in made.models:
        table.add_row(
            model.name,
            model.architecture,
            _trigger(model),
            f"{model.clean_accuracy:.1%}",
            _rate(model.asr),
            _rate(model.bystander_asr),
            str(model.attempts),
            f"{model.seconds:.0f}",
            "failed" if model.failure else "passed",
        )
    console.print(table)
    failed = [model.name for model in made.models if model.failure]
    if failed:
        console.print(
            f"{len(failed)} of {len(made.models)} models did not pass and are left out: "
            f"{', '.join(failed)}. Repeat the command to try them with other seeds.",
            highlight=False,
        )


def _rate(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"
