"""Where `--arch` may find the user's own code."""

from __future__ import annotations

from pathlib import Path

import click


def admit_own_code(architecture: str, models: Path) -> None:
    """Let `--arch` find modules in the present folder, after all others; no worker looks there.

    Not if the present folder is one of untrusted models: nothing may be imported from beside them.
    """
    import os
    import sys

    from .loading.architectures import ArchitectureSource
    from .loading.import_guard import folder_of

    os.environ["PYTHONSAFEPATH"] = "1"
    here, root = Path.cwd().resolve(), folder_of(models)
    if not architecture or ArchitectureSource(spec=architecture).is_builtin:
        return
    if here == root or root in here.parents:
        click.echo(
            f"note: no code is imported from {here}, models lie there: move the code to a folder "
            "of its own and set PYTHONPATH to that, or the models to one of theirs",
            err=True,
        )
    elif str(here) not in sys.path:
        sys.path.append(str(here))
