"""`moth-eval reproduce`: carry out one cell of a run again, and compare."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from moth_eval.errors import ExitCode, InputError
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
@click.option(
    "--trust-run",
    "trusted",
    is_flag=True,
    help="Also run the programs (--detector) and code (--arch) that RUN names, and on the cluster "
    "that it names.",
)
@click.pass_context
def reproduce(
    ctx: click.Context, run: Path, cell: str, tolerance: float, out: Path | None, trusted: bool
) -> None:
    """Carry out one cell of the run folder RUN again, and compare.

    CELL is MODEL or MODEL/SCANNER in a run of scans, MODEL/METHOD/SEED in a study of hardening
    or removal, and SOURCE-TARGET in a run of distances. RUN stays as it is. The command that its
    record asks for is printed, and refused if it would run programs or code of others. Exit codes:
    0 all figures agree; 1 some do not; 2 usage or input error; 3 there was no result this time.
    """
    from moth_eval.loading.import_guard import nothing_imported_from

    from .reproducing import find_cell, held_together
    from .run_command import carry_out
    from .study_files import line_of_options

    found = find_cell(run, cell)
    before = found.figures(run)
    with ExitStack() as stack:
        stack.enter_context(nothing_imported_from(run.resolve()))
        folder = out or Path(stack.enter_context(TemporaryDirectory(prefix="moth-eval-"))) / "run"
        line = line_of_options(found.command, {**found.options, "out": str(folder)})
        click.echo(f"$ moth-eval {visible(shlex.join([found.command, *line]))}", err=True)
        if trusted:
            _require_elsewhere(run)
        else:
            found.require_ours()
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


def _require_elsewhere(run: Path) -> None:
    """Refuses to look for code of the user's in a run folder, which is where it is called."""
    here = Path.cwd().resolve()
    if here.is_relative_to(run.resolve()):
        raise InputError(
            f"--trust-run: code is looked for in the present folder, and {here} lies in the run "
            "folder; call it from the folder of your own code"
        )


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
