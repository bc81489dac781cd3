"""`moth-eval runs`: list, show, check and merge run folders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode, InputError, RunError
from moth_eval.text import visible

from .showing import write_reports
from .sittings import sitting

if TYPE_CHECKING:
    from .run_states import RunState

UNREMARKABLE = ("scored", "done", "hardened")
"""Statuses that `show` counts and does not list."""


@click.group()
def runs() -> None:
    """List, show, check and merge run folders."""


@runs.command("ls")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known as JSON.")
def list_runs(folder: Path, as_json: bool) -> None:
    """List the run folders in FOLDER (default: runs), and how far each is."""
    from .run_states import as_data, find_runs, state_of

    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; give the folder that run folders lie in")
    states = [state_of(run) for run in find_runs(folder)]
    if as_json:
        click.echo(json.dumps([as_data(state) for state in states], indent=2))
        return
    width = max((len(_name(state)) for state in states), default=0)
    for state in states:
        click.echo(f"{_name(state):{width}}  {_standing(state)}")
    if not states:
        click.echo(f"no run folders in {visible(str(folder))}")


@runs.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print everything that is known as JSON.")
@click.pass_context
def show(ctx: click.Context, run: Path, as_json: bool) -> None:
    """Show how RUN was made, how far it is, and what went wrong in it.

    Exit codes: 0 everything is done; 2 no run folder; 3 something is not done yet.
    """
    from .run_states import as_data

    state = _readable(run)
    if as_json:
        click.echo(json.dumps(as_data(state), indent=2))
    else:
        _show(state)
    ctx.exit(ExitCode.of(complete=state.complete))


@runs.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.pass_context
def validate(ctx: click.Context, run: Path) -> None:
    """Check RUN: every manifest, every line of every ledger, the hash of every file they name.

    Exit codes: 0 sound and complete; 1 damaged; 2 no run folder; 3 sound, but not complete.
    """
    from .run_states import unsound

    state = _readable(run)
    problems = list(unsound(state))
    for problem in problems:
        click.echo(visible(problem))
    if not problems:
        click.echo(f"{visible(str(run))} is sound: {_standing(state)}")
    ctx.exit(ExitCode.FOUND if problems else ExitCode.of(complete=state.complete))


@runs.command()
@click.argument("run", type=click.Path(path_type=Path))
def toml(run: Path) -> None:
    """Print the study file that repeats RUN; see moth-eval run."""
    from .study_files import repeated

    click.echo(repeated(_readable(run).command), nl=False)


@runs.command()
@click.argument("sources", metavar="RUN...", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder: a new one, or one that is to have the others' content as well.",
)
@click.pass_context
def merge(ctx: click.Context, sources: tuple[Path, ...], out: Path) -> None:
    """Put the content of several run folders into one, and report on it.

    They have to be of one kind, on the same models, with the same settings, as the shards of one
    job are. Exit codes: 0 the merged run is complete; 2 they cannot be merged; 3 not complete.
    """
    from .merging import merge as merge_runs
    from .run_states import state_of

    with sitting(out, kept="was merged"):
        merge_runs(sources, out)
    write_reports(ctx, out)
    ctx.exit(ExitCode.of(complete=state_of(out).complete))


def _readable(run: Path) -> RunState:
    from .run_states import state_of

    state = state_of(run)
    if state.problem and not state.kind:
        raise RunError(f"{state.problem}; give the folder that --out named")
    return state


def _name(state: RunState) -> str:
    return visible(str(state.path))


def _standing(state: RunState) -> str:
    if state.problem:
        return visible(f"damaged: {state.problem}")
    counts = ", ".join(f"{count} {status}" for status, count in state.counts.items())
    kind, begun = visible(state.command_word), visible(state.created[:10])
    return f"{kind}  {begun}  {state.done} of {len(state.pieces)}: {counts}"


def _show(state: RunState) -> None:
    click.echo(f"{_name(state)}  {_standing(state)}")
    click.echo(visible(f"command: {' '.join(state.command)}"))
    versions = ", ".join(f"{name} {version}" for name, version in state.versions.items())
    click.echo(visible(versions))
    odd = [p for p in state.pieces if p.status not in (*UNREMARKABLE, "pending") or p.attempts]
    for piece in odd:
        click.echo(f"  {visible(f'{piece.name}: {piece.status} {piece.reason}'.rstrip())}")
        for status, number in Counter(a.status for a in piece.attempts).items():
            click.echo(f"    {number} earlier {'attempt' if number == 1 else 'attempts'} {status}")
