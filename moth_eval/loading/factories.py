"""Factories of networks that the user names: a module of theirs, and what in it may be called."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from functools import wraps
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

from torch import nn

from ..errors import ArchitectureError
from .import_guard import nothing_imported_from, require_outside

Factory = Callable[..., nn.Module]


def guarded(factory: Factory, forbidden: Path | None) -> Factory:
    """The factory, whose own imports too may not run code in the forbidden folder."""
    if forbidden is None:
        return factory

    @wraps(factory, updated=())
    def build(*args: object, **options: object) -> nn.Module:
        with nothing_imported_from(forbidden):
            return factory(*args, **options)

    return build


def import_module(name: str, forbidden: Path | None) -> ModuleType:
    """Imports a module of the user's, looking at where it and all that it imports lies."""
    if name.endswith(".py") or "/" in name:
        stem = Path(name).stem
        raise ArchitectureError(
            f"--arch {name}: expected the name of a module, not of its file: write {stem}, or "
            f"{stem}:FACTORY, and put its folder on PYTHONPATH if it is not the present one"
        )
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count])
        with nothing_imported_from(forbidden):
            module = _import_part(name, prefix, forbidden)
    return module


def _import_part(name: str, prefix: str, forbidden: Path | None) -> ModuleType:
    try:
        loaded = sys.modules.get(prefix)
        found = loaded or importlib.util.find_spec(prefix)
        spec = getattr(found, "__spec__", found)
    except (ImportError, ValueError) as error:
        raise ArchitectureError(f"--arch {name}: {error}") from error
    if found is None:
        raise ArchitectureError(_not_found(name, prefix))
    if isinstance(spec, ModuleSpec) and forbidden is not None:
        require_outside(spec, forbidden)
    try:
        return importlib.import_module(prefix)
    except ArchitectureError:
        raise
    except Exception as error:  # whatever the user's module raises, its name must be said
        raise ArchitectureError(f"--arch {name}: importing {prefix} failed: {error!r}") from error


def _not_found(name: str, prefix: str) -> str:
    from torchvision import models

    close = difflib.get_close_matches(name, models.list_models(module=models), n=3)
    hint = f"did you mean {', '.join(close)}? It" if close else "it"
    return (
        f"--arch {name}: {hint} is neither a torchvision classifier nor an importable module "
        f"(no module {prefix!r}); install the module or put its folder on PYTHONPATH"
    )


def attribute(module: ModuleType, name: str) -> Factory:
    """What the user named in a module.

    Raises:
        ArchitectureError: it is not there, or cannot be called.
    """
    found = getattr(module, name, None)
    if not callable(found):
        known = ", ".join(sorted(factories(module))) or "none"
        raise ArchitectureError(
            f"--arch {module.__name__}:{name}: the module has no such factory; it has: {known}"
        )
    factory: Factory = found
    return factory


def factories(module: ModuleType) -> dict[str, Factory]:
    """Public functions and networks that the module itself defines or exports."""
    exported = getattr(module, "__all__", None)
    found: dict[str, Factory] = {}
    for name, value in vars(module).items():
        ours = name in exported if exported else getattr(value, "__module__", "") == module.__name__
        is_network = isinstance(value, type) and issubclass(value, nn.Module)
        if ours and not name.startswith("_") and (inspect.isfunction(value) or is_network):
            found[name] = value
    return found


def pick(spec: str, module: ModuleType, name: str | None) -> str:
    """Name of the factory that the architecture in a model's metadata stands for.

    A stranger chose that name, so that it leads to nothing but what gives a network: classes of
    networks, what `__all__` lists, and functions that are annotated with what they return.

    Args:
        spec: what `--arch` named.
        module: of that name.
        name: the architecture; None where none is stated, and the only factory is meant.

    Raises:
        ArchitectureError: there is no such factory.
    """
    known = factories(module)
    if name is None and len(known) == 1:
        return next(iter(known))
    wanted = "" if name is None else name.removeprefix("classification:").replace("-", "_").lower()
    found = next((key for key in known if key.lower() == wanted), None)
    if found is None:
        asked = (
            "the model's metadata name no architecture" if name is None else f"no {name!r} in it"
        )
        raise ArchitectureError(
            f"--arch {spec}: {asked}; name a factory as {spec}:FACTORY, one of: "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    if not (found in getattr(module, "__all__", ()) or _gives_network(known[found])):
        raise ArchitectureError(
            f"--arch {spec}: the model's metadata name the function {found}, which does not say "
            f"that it gives a network: annotate it with `-> nn.Module`, list it in __all__ of the "
            f"module, or name it as {spec}:{found}"
        )
    return found


def _gives_network(factory: Factory) -> bool:
    """Whether it is a class of networks or annotated with one."""
    if isinstance(factory, type):
        return True
    try:
        given = get_type_hints(factory).get("return")
    except Exception:  # annotations are text of the user's, and may name what is not there
        return False
    return isinstance(given, type) and issubclass(given, nn.Module)
