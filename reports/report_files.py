"""How the files of a report reach its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moth_eval.run_files import write_changed


def write_report(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the files of a report; the paths of those with a content.

    Args:
        folder: where they lie.
        files: name -> content; what has none now is removed if an earlier report left it.
    """
    for name, content in files.items():
        if content:
            write_changed(folder / name, content)
        else:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name, content in files.items() if content]
