"""Tables of algorithms: short name -> `"module:Class"`, plus what other distributions add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from .errors import InputError, InstallationError


def names(table: Mapping[str, str], group: str) -> list[str]:
    """Every name that `resolve` knows: the table's own first, then entry points of `group`."""
    return [*table, *sorted({e.name for e in entry_points(group=group)} - set(table))]


def resolve(name: str, table: Mapping[str, str], group: str) -> Callable[..., object]:
    """The class (or factory) behind `name`.

    Args:
        name: a row of `table` or an entry point of `group`.
        table: the room's own table.
        group: entry point group of other distributions, such as `moth_eval.scanners`.

    Raises:
        InputError: nothing is known under that name.
        InstallationError: a plug-in is installed but cannot be imported.
    """
    if name in table:
        module, _, attribute = table[name].partition(":")
        found: Callable[..., object] = getattr(import_module(module), attribute)
        return found
    for entry in entry_points(group=group):
        if entry.name == name:
            return _load(entry)
    known = ", ".join(names(table, group))
    raise InputError(f"unknown name {name!r} in {group}: expected one of {known}")


def _load(entry: EntryPoint) -> Callable[..., object]:
    try:
        found: Callable[..., object] = entry.load()
    except Exception as error:  # whatever a third party's import raises, its name must be said
        owner = entry.dist.name if entry.dist else "an unnamed distribution"
        raise InstallationError(
            f"plug-in {entry.name!r} of {owner} cannot be loaded ({entry.value}): {error!r}; "
            f"mend or uninstall {owner}"
        ) from error
    return found
