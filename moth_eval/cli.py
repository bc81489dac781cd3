"""The front door: a table of commands, each loaded only when it is called."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from . import __version__
from .calls import calling
from .errors import ExitCode, InstallationError, MothError
from .log import FORMS, LEVELS, Form, Level, LogSettings, configure
from .text import visible, visible_lines

COMMANDS: Mapping[str, tuple[str, str]] = {
    "scan": (
        "benchmarks.scan_command:scan",
        "Judge models of unknown origin; leave grades, evidence and a report.",
    ),
    "calibrate": (
        "benchmarks.calibrate_command:calibrate",
        "Scan clean models; leave the file by which `scan` keeps its budget of false alarms.",
    ),
    "trojai": (
        "benchmarks.trojai_command:trojai",
        "Scan a folder of models; leave scores, ROC and a report.",
    ),
    "detector": (
        "benchmarks.detector_command:detector",
        "Run a scanner or hardener by the contract of NIST's TrojAI containers.",
    ),
    "generate": (
        "attacks.generate_command:generate",
        "Make a round of clean and backdoored models to try things on.",
    ),
    "inject": (
        "attacks.inject_command:inject",
        "Train a backdoor into a network on images of your own; leave the model and its truth.",
    ),
    "distance": (
        "benchmarks.distance_command:distance",
        "Measure how close the classes of a model are, pair by pair.",
    ),
    "harden": (
        "benchmarks.harden_command:harden",
        "Train a model so that its classes lie further apart; leave the new model.",
    ),
    "hardening": (
        "benchmarks.hardening_command:hardening",
        "Compare hardeners on a folder of models; leave a table and every new model.",
    ),
    "removal": (
        "benchmarks.removal_command:removal",
        "Compare ways of removing a backdoor; leave tables and every repaired model.",
    ),
    "false-positives": (
        "benchmarks.false_positives_command:false_positives",
        "Scan models, harden those that are flagged, and scan them again.",
    ),
    "honesty": (
        "benchmarks.honesty_command:honesty",
        "Check in several ways whether hardening moved the classes of a model apart.",
    ),
    "run": (
        "benchmarks.run_command:run",
        "Carry out the commands that the file STUDY describes, one after the other.",
    ),
    "reproduce": (
        "benchmarks.reproduce_command:reproduce",
        "Carry out one cell of the run folder RUN again, and compare.",
    ),
    "runs": (
        "benchmarks.runs_command:runs",
        "List, show, check and merge run folders.",
    ),
    "report": (
        "reports.report_command:report",
        "Rebuild every table, figure and page of the run folder RUN.",
    ),
    "demo": (
        "benchmarks.demo_command:demo",
        "Generate a small round, scan it, harden the worst and show the report.",
    ),
}
"""Word -> (`"module:command"`, short help). The help is here so that listing imports nothing."""

ROOMS = ("scanners", "attacks", "benchmarks", "reports")


class LazyGroup(click.Group):
    """A group whose commands are rows of `COMMANDS`, imported when they are called."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """Carry out a command line, and remember it for the record of what comes of it."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What its encoding lacks is spelled out, as on the standard error stream.
            sys.stdout.reconfigure(errors="backslashreplace")
        line = list(sys.argv[1:] if args is None else args)
        start = next((place for place, word in enumerate(line) if word in COMMANDS), 0)
        with calling(line[start:]):
            return super().main(args, *more, **settings)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every word of the table, in its order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command behind a word; only its name and help when merely listed."""
        if cmd_name not in COMMANDS:
            return None
        return load_command(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(word, help_) for word, (_, help_) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error made for the user is one line and its exit code."""
        try:
            check_rooms()
            return super().invoke(ctx)
        except MothError as error:
            click.echo(f"moth-eval: {visible(str(error))}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("moth-eval: stopped; the same command goes on", err=True)
            ctx.exit(ExitCode.INCOMPLETE)
        except OSError as error:
            click.echo(f"moth-eval: {visible(str(error))}", err=True)
            ctx.exit(ExitCode.BAD_INPUT)
        except (click.exceptions.Exit, click.Abort, click.ClickException):
            raise
        except Exception:  # a defect of ours must not pass for exit code 1, "something found"
            click.echo(visible_lines(traceback.format_exc()), err=True)
            ctx.exit(ExitCode.INCOMPLETE)


def load_command(word: str) -> click.Command:
    """The command behind a word of the table; the one way from room to room without an import."""
    module, _, attribute = COMMANDS[word][0].partition(":")
    command: click.Command = getattr(import_module(module), attribute)
    return command


def check_rooms() -> None:
    """Make sure that the rooms are ours.

    Raises:
        InstallationError: `scanners`, `attacks`, `benchmarks` or `reports` would be imported from
            somewhere else than beside this package.
    """
    from importlib.util import find_spec

    home = Path(__file__).resolve().parent.parent
    for room in ROOMS:
        spec = find_spec(room)
        origin = spec.origin if spec else None
        if origin is None or Path(origin).resolve() != home / room / "__init__.py":
            raise InstallationError(
                f"the package {room!r} resolves to {origin or 'nothing'}, expected "
                f"{home / room / '__init__.py'}: another distribution or a folder on sys.path "
                "stands before it; install moth-eval in a virtual environment of its own"
            )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moth-eval")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="warning",
    show_default=True,
    help="How much is told on the standard error stream, and in the logs of tasks.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMS),
    default="text",
    show_default=True,
    help="Lines for people, or one JSON object per line.",
)
@click.option(
    "--log-to",
    multiple=True,
    metavar="NAME:TARGET",
    help="Where figures go as well: tensorboard:FOLDER (moth-eval[tensorboard]).",
)
def main(log_level: Level, log_format: Form, log_to: tuple[str, ...]) -> None:
    """Evaluate backdoor scanners on folders of untrusted image classifiers.

    Exit codes: 0 nothing found, 1 something found, 2 usage or input error, 3 run incomplete.
    """
    configure(LogSettings(level=log_level, form=log_format, to=log_to))


if __name__ == "__main__":
    sys.exit(main())
