"""Options that several commands share."""

from __future__ import annotations

import math
from functools import wraps
from pathlib import Path
from typing import Any

import click

from moth_eval.errors import InputError
from moth_eval.options import Command, Decorator

from .budget import Budget
from .image_sources import test_images, training_images

GIB = 1 << 30

models_option = click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of a TrojAI round, folder of model files, or one model file.",
)
ground_truth_option = click.option(
    "--ground-truth",
    type=click.Path(path_type=Path),
    help="The answers, if they do not lie with the models: a tree of ground_truth.csv "
    "or a CSV with model_name and poisoned.",
)
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
    help="Do again what failed, crashed, or ran out of time or memory.",
)

_DATA = "a folder, an .npz with images and labels, or torchvision:NAME:FOLDER."
data_option = click.option(
    "--data",
    required=True,
    type=training_images,
    help=f"Clean images that a method is given a share of: {_DATA}",
)
data_or_own_option = click.option(
    "--data",
    type=training_images,
    help=f"Clean images that a method is given a share of: {_DATA}  [default: each model's own "
    "clean examples]",
)
test_option = click.option(
    "--test",
    type=test_images,
    help="Images that everything is measured on.  [default: the test part of a torchvision set, "
    "else a fifth of each class of --data, held out]",
)
first_option = click.option(
    "--first", type=click.IntRange(min=1), help="Only the first so many clean images."
)
method_option = click.option(
    "--method",
    "more_methods",
    multiple=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="One more method; may be given again.",
)
distance_seeds_option = click.option(
    "--distance-seeds",
    type=click.IntRange(min=1, max=3),
    default=1,
    show_default=True,
    help="Inversions per pair; the smallest counts.",
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


def run_folder_option(default: str = "") -> Decorator:
    """`--out` of a run.

    Args:
        default: in words; empty: the option is required.
    """
    return click.option(
        "--out",
        required=not default,
        type=click.Path(path_type=Path, file_okay=False),
        help=f"Run folder.  [default: {default}]" if default else "Run folder.",
    )


OWN_OR_DATA = "1 of each model's own examples, 0.05 of --data"


def share_option(name: str = "--share", *, unsaid: str = "") -> Decorator:
    """What part of the clean images a method is given.

    Args:
        name: of the option.
        unsaid: what counts without it, in words, where that is not always the same.
    """
    words = "Fraction of each class that a method is given, of what is not held out."
    return click.option(
        name,
        type=click.FloatRange(min=0, max=1, min_open=True),
        default=None if unsaid else 0.05,
        show_default=not unsaid,
        help=f"{words}  [default: {unsaid}]" if unsaid else words,
    )


def distance_pairs_option(default: int | str, **settings: Any) -> Decorator:
    """`--distance-pairs`; whole numbers unless `settings` of click say otherwise."""
    return click.option(
        "--distance-pairs",
        default=default,
        show_default=True,
        help="Pairs of classes whose distance is measured before and after; 0: none.",
        **{"type": click.IntRange(min=0), **settings},
    )


def precision_option(name: str = "--precision") -> Decorator:
    """In what numbers inversions are carried out."""
    return click.option(
        name,
        type=click.Choice(("float32", "bfloat16")),
        default="float32",
        show_default=True,
        help="Of the gradients of inversions; what counts is always float32.",
    )


def budget_options(what: str, *, jobs: str) -> Decorator:
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
                memory_bytes=None if memory is None else _bytes_of(memory),
            )
            return command(*args, budget=budget, **others)

        for option in reversed(options):
            called = option(called)
        return called

    return decorate


def _bytes_of(memory: float) -> int:
    """`--memory` in bytes.

    Raises:
        InputError: it is no finite number.
    """
    if not math.isfinite(memory):
        raise InputError(f"--memory must be a finite number of GiB, got {memory}")
    return int(memory * GIB)
