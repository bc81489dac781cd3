"""Options that commands of several rooms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, help="Decides everything random."
)
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")


def architecture_option(of: str = "of files that hold only weights") -> Decorator:
    """`--arch`, by which the user names a network, as `architecture`.

    Args:
        of: which network that is.
    """
    return click.option(
        "--arch",
        "architecture",
        default="",
        help=f"Network {of}: a torchvision name, package.module:factory or package.module (your "
        "own, trusted code).",
    )
