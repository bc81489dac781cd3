"""`moth-eval report`: rebuild every table, figure and page of a run folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import InputError, RunError
from moth_eval.late_files import require_writable
from moth_eval.records import MANIFEST
from moth_eval.run_files import read_json, require_no_links

if TYPE_CHECKING:
    from .verdict_files import Judged

Report = tuple[list[str], list[Path], dict[str, object]]
"""Lines of the summary, files that were written, and the data."""


@click.command()
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option(
    "--pair",
    nargs=2,
    metavar="MODEL MODEL",
    help="Two models of a run of trojai, whose triggers are drawn beside each other.",
)
@click.option(
    "--sarif",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the verdicts of a run of scan as SARIF 2.1.0.",
)
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the verdicts of a run of scan as JUnit XML.",
)
def report(
    run: Path,
    as_json: bool,
    pair: tuple[str, str] | None,
    sarif: Path | None,
    junit: Path | None,
) -> int:
    """Rebuild every table, figure and page of the run folder RUN.

    They are made from its manifest, its ledger and its triggers alone, so rebuilding an unchanged
    run gives the same bytes.
    """
    require_no_links(run)
    if (sarif or junit) and not is_judged(run):
        raise InputError(f"--sarif and --junit: {run} is no run of scan, which alone has verdicts")
    if pair is not None:
        click.echo(f"wrote {_pair(run, pair)}", err=as_json)
    kind = kind_of_run(run)
    if kind in _STUDIES:
        _report_study(_STUDIES[kind](run), as_json)
        return 0
    return _report_scans(run, as_json, sarif, junit)


def _report_scans(run: Path, as_json: bool, sarif: Path | None, junit: Path | None) -> int:
    from .build import work_out, write_reports
    from .summary import lines_of, summary_data

    found = work_out(run)
    written = write_reports(found)
    if found.judged is not None:
        return _tell_verdicts(found.judged, written[-1], as_json, sarif, junit)
    if as_json:
        click.echo(json.dumps(summary_data(found, written), indent=2, allow_nan=False))
        return 0
    for line in lines_of(found):
        click.echo(line)
    pictures = sum(path.parent != run for path in written)
    click.echo("")
    for path in written:
        if path.parent == run:
            click.echo(f"wrote {path}")
    if pictures:
        click.echo(f"wrote {pictures} pictures of triggers in {run / 'triggers'}")
    return 0


def is_judged(run: Path) -> bool:
    """Whether a folder holds a run of `scan`."""
    from moth_eval.scan_calibration import POLICY

    return (run / POLICY).is_file()


def _tell_verdicts(
    judged: Judged, page: Path, as_json: bool, sarif: Path | None, junit: Path | None
) -> int:
    """Print the verdicts and write them where asked to; the exit code of `scan`."""
    if as_json:
        click.echo(json.dumps(judged.data(), indent=2, allow_nan=False))
    else:
        for line in [*judged.lines(), "", f"wrote {page}"]:
            click.echo(line)
    for option, path, content in (
        ("--sarif", sarif, judged.sarif),
        ("--junit", junit, judged.junit),
    ):
        if path is not None:
            require_writable(path, option)
            path.write_bytes(content())
    return judged.exit_code


def _pair(run: Path, models: tuple[str, str]) -> Path:
    from moth_eval.records import write_whole

    from .rows import read_run
    from .side_by_side import pair_path, side_by_side

    if kind_of_run(run) in _STUDIES:
        raise InputError(f"--pair: {run} is no run of trojai, which alone has triggers per model")
    read = read_run(run)
    path = pair_path(read, models)
    write_whole(path, side_by_side(read, models))
    return path


def kind_of_run(run: Path) -> str:
    """What a folder's manifest says that it is; empty where it says nothing."""
    try:
        manifest = read_json(run / MANIFEST)
    except (OSError, RunError):  # the reader of the manifest says what is wrong
        return ""
    return str(manifest.get("kind", "")) if isinstance(manifest, dict) else ""


def _report_study(made: Report, as_json: bool) -> None:
    lines, written, data = made
    if as_json:
        click.echo(json.dumps(data, indent=2, allow_nan=False))
        return
    for line in [*lines, "", *(f"wrote {path}" for path in written)]:
        click.echo(line)


def _distance(run: Path) -> Report:
    from .distance import distance_data, summary_lines, work_out_distance, write_distance_report

    found = work_out_distance(run)
    return summary_lines(found), write_distance_report(found), distance_data(found)


def _hardening(run: Path) -> Report:
    from .hardening_report import write_hardening_report
    from .hardening_study import hardening_data, work_out_hardening
    from .hardening_summary import hardening_lines

    found = work_out_hardening(run)
    return hardening_lines(found), write_hardening_report(found), hardening_data(found)


def _removal(run: Path) -> Report:
    from .removal import work_out_removal
    from .removal_report import write_removal_report
    from .removal_tables import removal_data
    from .removal_texts import removal_lines

    found = work_out_removal(run)
    return removal_lines(found), write_removal_report(found), removal_data(found)


def _false_positives(run: Path) -> Report:
    from .false_positives import (
        false_positives_data,
        work_out_false_positives,
        write_false_positives_report,
    )
    from .false_positives_summary import false_positives_lines

    found = work_out_false_positives(run)
    written = write_false_positives_report(found)
    return false_positives_lines(found), written, false_positives_data(found)


def _honesty(run: Path) -> Report:
    from .honesty import honesty_data, work_out_honesty, write_honesty_report
    from .honesty_summary import honesty_lines

    found = work_out_honesty(run)
    return honesty_lines(found), write_honesty_report(found), honesty_data(found)


_STUDIES: Mapping[str, Callable[[Path], Report]] = {
    "distance": _distance,
    "hardening-study": _hardening,
    "removal": _removal,
    "false-positives": _false_positives,
    "honesty": _honesty,
}
"""Kind of run -> what reports on it; any other kind is one of scans."""
