"""`moth-eval reproduce`: carry out one cell of a run again, and compare."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from moth_eval.errors import ExitCode
from moth_eval.text import visible


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("cell")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="Relative difference up to which two numbers count as equal.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder that is kept of it.  [default: none]",
)
@click.pass_context
def reproduce(ctx: click.Context, run: Path, cell: str, tolerance: float, out: Path | None) -> None:
    """Carry out one cell of the run folder RUN again, and compare.

    CELL is MODEL or MODEL/SCANNER in a run of scans, MODEL/METHOD/SEED in a study of hardening
    or removal, and SOURCE-TARGET in a run of distances. RUN stays as it is. Exit codes: 0 all
    figures agree; 1 some do not; 2 usage or input error; 3 there was no result this time.
    """
    from .reproducing import find_cell, held_together
    from .run_command import carry_out
    from .study_files import line_of_options

    found = find_cell(run, cell)
    before = found.figures(run)
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(TemporaryDirectory(prefix="moth-eval-"))) / "run"
        line = line_of_options(found.command, {**found.options, "out": str(folder)})
        code = carry_out(ctx, found.command, line)
        if code not in (ExitCode.DONE, ExitCode.FOUND):
            ctx.exit(code)
        figures = held_together(before, found.figures(folder))
    width = max(len(figure.name) for figure in figures)
    click.echo("")
    for figure in figures:
        mark = " " if figure.agrees(tolerance) else "!"
        values = visible(f"{_shown(figure.before)} -> {_shown(figure.now)}")
        click.echo(f"{mark} {figure.name:{width}}  {values}")
    agree = all(figure.agrees(tolerance) for figure in figures)
    ctx.exit(ExitCode.DONE if agree else ExitCode.FOUND)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
