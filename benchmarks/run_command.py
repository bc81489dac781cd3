"""`moth-eval run`: carry out a study that a TOML file describes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from moth_eval.errors import ExitCode, InputError

WORST_FIRST = (ExitCode.BAD_INPUT, ExitCode.INCOMPLETE, ExitCode.FOUND)
"""Exit codes of which the first that occurs is the study's."""


@click.command()
@click.argument("study", type=click.Path(path_type=Path), required=False)
@click.option("--dry", is_flag=True, help="Print the commands, and carry out none.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of study files.")
@click.pass_context
def run(ctx: click.Context, study: Path | None, dry: bool, schema: bool) -> None:
    """Carry out the commands that the file STUDY describes, one after the other.

    The same command goes on where it was stopped. Exit codes are those of the commands; of several
    the worst: 2 before 3 before 1. After a 2 nothing more is done.
    """
    from .study_files import read_study, study_model

    if schema:
        click.echo(json.dumps(study_model().model_json_schema(by_alias=True), indent=2))
        return
    if study is None:
        raise InputError("expected a study file, got none; see moth-eval run --help")
    codes: list[int] = [ExitCode.DONE]
    for word, line in read_study(study):
        click.echo(f"$ moth-eval {shlex.join([word, *line])}", err=not dry)
        if not dry:
            codes.append(carry_out(ctx, word, line))
        if codes[-1] == ExitCode.BAD_INPUT:
            break
    ctx.exit(next((code for code in WORST_FIRST if code in codes), ExitCode.DONE))


def carry_out(ctx: click.Context, word: str, line: list[str]) -> int:
    """The exit code of a command of ours, carried out here and now."""
    from moth_eval.cli import main
    from moth_eval.log import current_settings

    told = current_settings()
    to = [f"--log-to={place}" for place in told.to]
    call = [f"--log-level={told.level}", f"--log-format={told.form}", *to, word, *line]
    code = main.main(call, prog_name="moth-eval", standalone_mode=False, obj=ctx.obj)
    return int(code or 0)
