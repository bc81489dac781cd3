"""Importing the user's own networks without running code that lies among untrusted models."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from ..errors import ArchitectureError


def folder_of(models: Path) -> Path:
    """The folder of untrusted models that is meant by itself or by a file in it.

    What lies beside a model is as untrusted as what lies in a folder of them.
    """
    return models.resolve().parent if models.is_file() else models.resolve()


@contextmanager
def nothing_imported_from(forbidden: Path | None) -> Iterator[None]:
    """While it lasts, any import of a module that lies in `forbidden` is an error.

    Also those that a trusted module sets off itself, at whatever depth.

    Raises:
        ArchitectureError: something in that folder would have been run.
    """
    if forbidden is None:
        yield
        return
    guard = _Guard(forbidden)
    sys.meta_path.insert(0, guard)
    try:
        yield
    finally:
        sys.meta_path.remove(guard)


def require_outside(spec: ModuleSpec, forbidden: Path) -> None:
    """Raises `ArchitectureError` if the module that a spec describes lies in `forbidden`."""
    # Without a location the origin is a word, such as 'frozen'.
    places = [spec.origin] if spec.has_location else []
    places += list(spec.submodule_search_locations or [])
    root = forbidden.resolve()
    inside = [place for place in places if place and _lies_in(Path(place).resolve(), root)]
    if inside:
        raise ArchitectureError(
            f"--arch {spec.name}: the code at {inside[0]} lies in the untrusted folder "
            f"{forbidden} and is not run; if you trust it, move it elsewhere"
        )


def _lies_in(place: Path, root: Path) -> bool:
    if not place.is_relative_to(root):
        return False
    # The interpreter that runs this may be installed there, as in a project's own .venv.
    libraries = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib"))
    return not any(place.is_relative_to(lib) and lib.is_relative_to(root) for lib in libraries)


class _Guard:
    """Asks the other finders, and looks at where what they found lies, for all guards there are."""

    def __init__(self, forbidden: Path) -> None:
        self._forbidden = forbidden

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if isinstance(finder, _Guard):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                for guard in sys.meta_path:
                    if isinstance(guard, _Guard):
                        require_outside(spec, guard._forbidden)
                return spec
        return None
