"""Tables of algorithms: short name -> `"module:Class"`, plus what other distributions add."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .errors import InputError, InstallationError, MothError


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


def parse_spec(
    spec: str,
    table: Mapping[str, str],
    group: str,
    *,
    kind: str,
    contract: type,
    option: str = "",
) -> tuple[str, dict[str, Any]]:
    """The method and all its parameters, for `build`, from `NAME` or `NAME:field=value,...`.

    Args:
        spec: what the user wrote; the parts of a tuple are joined by `+`.
        table: the room's own table.
        group: entry point group of other distributions.
        kind: what such a method is called in messages, such as `scanner`.
        contract: runtime-checkable protocol that it has to follow.
        option: that it was given by; empty: the one with the name of the kind.

    Raises:
        InputError: no such method, no such field, or a value that the field does not take.
    """
    method, _, rest = spec.partition(":")
    factory = resolve(method, table, group)
    defaults = factory()
    if not isinstance(defaults, contract) or not is_dataclass(defaults):
        raise InputError(f"{method!r} is not a {kind}: it is no dataclass with the {kind}'s verb")
    known = dict(_settings(defaults))
    given = dict(_assignment(f"{kind} {method!r}", part, known) for part in rest.split(",") if part)
    parameters = {name: given.get(name, value) for name, (value, _) in known.items()}
    try:
        build(factory, parameters)
    except (MothError, TypeError, ValueError) as error:
        raise InputError(f"{option or f'--{kind}'} {spec}: {error}") from error
    return method, parameters


def build(factory: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    """The method with these parameters, as `parse_spec` gives them.

    Args:
        factory: from `resolve`.
        parameters: field -> value; `outer.inner` is a field of the dataclass in field `outer`.
    """
    own = {name: value for name, value in parameters.items() if "." not in name}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        outer, dot, field = name.partition(".")
        if dot:
            inner.setdefault(outer, {})[field] = value
    if not inner:
        return factory(**own)
    defaults = factory()
    parts = {name: replace(getattr(defaults, name), **values) for name, values in inner.items()}
    return factory(**own, **parts)


def _settings(method: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every field's name, default and type; fields of an inner dataclass as `outer.inner`.

    A field with the metadata `{"parameter": False}` is none that a user may set.
    """
    types = get_type_hints(type(method))
    for field in fields(method):
        if not field.metadata.get("parameter", True):
            continue
        value = getattr(method, field.name)
        if is_dataclass(value):
            yield from _settings(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", (value, types[field.name])


def _assignment(owner: str, text: str, known: Mapping[str, tuple[Any, Any]]) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise InputError(
            f"{owner} has no parameter {name!r}: expected field=value with one of "
            f"{', '.join(known)}"
        )
    _, kind = known[name]
    if value.lower() == "none" and type(None) in get_args(kind):
        return name, None
    if get_origin(kind) is Literal:
        return name, value  # the class itself says best what it expects
    try:
        parts = tuple(part for part in value.split("+") if part)
        read = parts if get_origin(kind) is tuple else value
        found = TypeAdapter(kind).validate_python(read)
    except ValidationError as error:
        expected = str(kind) if get_origin(kind) is tuple else getattr(kind, "__name__", str(kind))
        raise InputError(f"{owner}: {name} takes a {expected}, got {value!r}") from error
    if not _is_finite(found):
        # Records are JSON, which has no other numbers to go on by.
        without = "; none takes the limit away" if type(None) in get_args(kind) else ""
        raise InputError(f"{owner}: {name} takes finite numbers, got {value!r}{without}")
    return name, found


def _is_finite(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return all(math.isfinite(part) for part in parts if isinstance(part, float))


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
