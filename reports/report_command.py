"""`moth-eval report`: rebuild every table, figure and page of a run folder."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
def report(run: Path, as_json: bool) -> None:
    """Rebuild every table, figure and page of the run folder RUN.

    They are made from its manifest, its ledger and its triggers alone, so rebuilding an unchanged
    run gives the same bytes.
    """
    from .build import work_out, write_reports
    from .summary import lines_of, summary_data

    found = work_out(run)
    written = write_reports(found)
    if as_json:
        click.echo(json.dumps(summary_data(found, written), indent=2, allow_nan=False))
        return
    for line in lines_of(found):
        click.echo(line)
    pictures = sum(path.parent != run for path in written)
    click.echo("")
    for path in written:
        if path.parent == run:
            click.echo(f"wrote {path}")
    if pictures:
        click.echo(f"wrote {pictures} pictures of triggers in {run / 'triggers'}")
