"""What the commands of studies show: notes on the models, the progress of scans, the reports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.text import visible

if TYPE_CHECKING:
    from moth_eval.records import ScanRecord

    from .trojai import Plan, TrojaiStudy


def tell_notes(notes: Iterable[str]) -> None:
    """Tell what was seen in the folder of models, on the standard error stream."""
    for note in notes:
        click.echo(f"note: {visible(note)}", err=True)


def planned_aloud(study: TrojaiStudy) -> Plan:
    """The plan of scans, with notes told."""
    from .trojai import plan

    planned = plan(study)
    tell_notes(planned.round.notes)
    return planned


def carry_out_shown(planned: Plan, study: TrojaiStudy) -> dict[str, ScanRecord]:
    """Carry out a plan with its progress on the standard error stream."""
    from rich.console import Console

    from .progress import ProgressReporter, scan_line
    from .trojai import carry_out

    total, done = len(planned.tasks), len(planned.finished)
    if done:
        click.echo(f"continuing {study.run}: {done} of {total} tasks are done", err=True)
    with ProgressReporter(Console(stderr=True), "scanning", total, done) as reporter:
        return carry_out(planned, study, on_end=lambda record: reporter.advance(scan_line(record)))


def write_reports(ctx: click.Context, run: Path) -> None:
    """Build the reports of a run and print its table, by way of the front door."""
    from moth_eval.cli import load_command

    ctx.invoke(load_command("report"), run=run, as_json=False)
