"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from .budget import Budget
from .image_sources import test_images

GIB = 1 << 30

Command = Callable[..., Any]

require_sandbox = click.option(
    "--require-sandbox",
    is_flag=True,
    help="Refuse models where the kernel does not offer every guard for the process that opens "
    "them: Landlock, seccomp and limits.",
)

scanner_option = click.option(
    "--scanner",
    "scanners",
    multiple=True,
    default=("nc",),
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Scanner to run; may be given again.",
)
architecture_option = click.option(
    "--arch",
    "architecture",
    default="",
    help="Network of files that hold only weights: a torchvision name, "
    "package.module:factory or package.module (your own, trusted code).",
)
examples_option = click.option(
    "--examples",
    type=test_images,
    help="Clean images for all models: a folder, an .npz with images and labels, or "
    "torchvision:NAME:FOLDER.",
)
dataset_option = click.option(
    "--dataset",
    default="",
    help="What the models' data are called in the calibration.  [default: by classes and size]",
)
retry_option = click.option(
    "--retry-failed",
    "retry",
    is_flag=True,
    help="Do tasks again that failed, crashed, or ran out of time or memory.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where scans run: processes of this machine, or a Ray cluster (moth-eval[ray]).",
)
address_option = click.option(
    "--address",
    default="",
    help="Ray cluster: HOST:PORT, or auto for the one that is running.  "
    "[default: this machine alone]",
)
gpu_share_option = click.option(
    "--gpu-share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Fraction of a GPU that a scan takes on a Ray cluster.",
)

only_option = click.option(
    "--only",
    multiple=True,
    metavar="MODEL",
    help="Only the model of this name; may be given again.",
)
shard_option = click.option(
    "--shard",
    default="",
    metavar="I/N",
    help="Only the I-th of N parts of the models, I from 1 to N; merge the runs afterwards.",
)


def budget_options(what: str, *, jobs: str) -> Callable[[Command], Command]:
    """Give a command `--jobs`, `--threads`, `--timeout`, `--cpu-seconds` and `--memory`.

    The command is called with a `Budget` as `budget` in their place.

    Args:
        what: one task, such as `scan`.
        jobs: the default of `--jobs`, in words.
    """
    options = (
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            help=f"{what.capitalize()}s at a time, each in a process of its own.  "
            f"[default: {jobs}]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            help=f"CPU threads of a {what}.  [default: an equal share of the processors]",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            help=f"Seconds after which a {what} is given up, loading and measuring included.",
        ),
        click.option(
            "--cpu-seconds",
            type=click.FloatRange(min=1),
            help=f"Processor time (s), over all threads, after which a {what} is given up.",
        ),
        click.option(
            "--memory",
            type=click.FloatRange(min=0.1),
            metavar="GIB",
            help=f"Memory that a {what} may hold, libraries included (GiB).  [default: an equal "
            "share of what is free, and nearly all of it for a second attempt]",
        ),
    )

    def decorate(command: Command) -> Command:
        @wraps(command)
        def called(
            *args: Any,
            jobs: int | None,
            threads: int | None,
            timeout: float | None,
            cpu_seconds: float | None,
            memory: float | None,
            **others: Any,
        ) -> Any:
            budget = Budget(
                jobs=jobs,
                threads=threads,
                timeout=timeout,
                cpu_seconds=cpu_seconds,
                memory_bytes=None if memory is None else int(memory * GIB),
            )
            return command(*args, budget=budget, **others)

        for option in reversed(options):
            called = option(called)
        return called

    return decorate
