"""Injected models on disk: the trigger of one, ready to stamp, read without running anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from moth_eval.errors import InputError
from moth_eval.loading.files import sha256_of
from moth_eval.loading.stored import read_safetensors, write_safetensors
from moth_eval.plugins import resolve

from . import ATTACKS, GROUP
from .attack_records import NONE, RECORD, TENSORS, WEIGHTS, AttackRecord, read_attack_record
from .making import PreparedTrigger, Tensors
from .trigger import Trigger

_TOP = ("target", "sources")
"""Parameters that also stand at the top of the record, and may be left out below."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """A model whose trigger is known.

    Attributes:
        folder: where it lies; the model is read by `moth_eval.loading`, as any other.
        record: the content of `attack.json`.
        trigger: ready to stamp; None for a clean model.
    """

    folder: Path
    record: AttackRecord
    trigger: Trigger | None

    @property
    def model(self) -> Path | None:
        """`model.safetensors`; None for a model in another file."""
        path = self.folder / WEIGHTS
        return path if path.is_file() else None

    @property
    def twin(self) -> Path | None:
        """Folder of the clean twin; None if none is known."""
        return self.folder / self.record.twin if self.record.twin else None


def read_artefact(folder: Path) -> Artefact:
    """What lies in the folder of an injected model, or of a foreign one with an `attack.json`.

    Raises:
        InputError: the record is missing or wrong, names an unknown attack or parameter, or a
            file is not the one that it speaks of.
        RefusedFile: the tensors cannot be read.
    """
    record = read_attack_record(folder / RECORD)
    _check_file(folder / WEIGHTS, record.model_sha256)
    _check_file(folder / TENSORS, record.tensors_sha256)
    trigger = None if record.attack == NONE else _trigger(folder, record)
    return Artefact(folder=folder, record=record, trigger=trigger)


def rebuild_trigger(
    attack: str, parameters: Mapping[str, Any], tensors: Tensors | None = None
) -> Trigger:
    """The trigger of these parameters, as JSON gives them, with the tensors that it carries.

    Raises:
        InputError: there is no such attack or parameter, a value does not fit, or tensors are
            missing or there for nothing.
    """
    kind = resolve(attack, ATTACKS, GROUP)
    if not (isinstance(kind, type) and is_dataclass(kind)):
        raise InputError(f"attack {attack!r} is no dataclass, so no trigger can be read of it")
    trigger = kind(**_values(attack, kind, parameters))
    if not isinstance(trigger, Trigger):
        raise InputError(f"attack {attack!r} has no target, sources, threat and stamp")
    if isinstance(trigger, PreparedTrigger):
        if not tensors:
            raise InputError(f"attack {attack!r} has to be made first, and {TENSORS} is missing")
        replaced: Trigger = replace(trigger, tensors=dict(tensors))
        return replaced
    if tensors:
        raise InputError(f"attack {attack!r} carries no tensors, but {TENSORS} is there")
    return trigger


def parameters_of(trigger: Trigger) -> dict[str, Any]:
    """Every parameter of a trigger, as JSON gives it back."""
    if not is_dataclass(trigger):
        raise InputError(f"{type(trigger).__name__} is no dataclass: its parameters are unknown")
    own = (field for field in fields(trigger) if field.metadata.get("parameter", True))
    values = {field.name: getattr(trigger, field.name) for field in own}
    read: dict[str, Any] = json.loads(json.dumps(values))
    return read


def _trigger(folder: Path, record: AttackRecord) -> Trigger:
    if record.target is None:
        raise InputError(f"{folder / RECORD} names no target class: add target")
    top = {"target": record.target, "sources": list(record.sources)}
    for name in _TOP:
        if record.parameters.get(name, top[name]) != top[name]:
            raise InputError(
                f"{folder / RECORD}: {name} is {top[name]} above and "
                f"{record.parameters[name]} among the parameters: let both say the same"
            )
    path = folder / TENSORS
    tensors = read_safetensors(path) if path.is_file() else None
    given = {"target": record.target, **record.parameters}
    if record.sources:
        given["sources"] = list(record.sources)
    try:
        trigger = rebuild_trigger(record.attack, given, tensors)
    except InputError as error:
        raise InputError(f"{folder / RECORD}: {error}") from error
    if record.threat not in (None, trigger.threat):
        raise InputError(
            f"{folder / RECORD}: the threat is {record.threat}, but these parameters make it "
            f"{trigger.threat}"
        )
    return trigger


def _values(attack: str, kind: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    types = get_type_hints(kind)
    known = [field.name for field in fields(kind) if field.metadata.get("parameter", True)]
    values = {}
    for name, value in parameters.items():
        if name not in known:
            raise InputError(
                f"attack {attack!r} has no parameter {name!r}: expected one of {', '.join(known)}"
            )
        try:
            # As JSON, so that a list may stand for a tuple, but no text for a number.
            adapter = TypeAdapter(types[name])
            values[name] = adapter.validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            raise InputError(
                f"attack {attack!r}: {name} cannot be {value!r}: {error.errors()[0]['msg']}"
            ) from error
    return values


def _check_file(path: Path, sha256: str) -> None:
    if sha256 and (not path.is_file() or sha256_of(path) != sha256):
        raise InputError(
            f"{path} is missing or was altered since {RECORD} was written: restore it, or remove "
            "its hash from the record"
        )


def write_artefact(folder: Path, record: AttackRecord, trigger: Trigger | None) -> AttackRecord:
    """Write the record and the tensors of a trigger into `folder`, the record last.

    Returns:
        The record as written: with attack, classes, threat, parameters and hashes filled in from
        the trigger and the files that are there already.
    """
    tensors = dict(trigger.tensors) if isinstance(trigger, PreparedTrigger) else {}
    if tensors:
        write_safetensors(folder / TENSORS, tensors)
    facts: dict[str, Any] = {
        "model_sha256": _hash(folder / WEIGHTS),
        "tensors_sha256": _hash(folder / TENSORS) if tensors else "",
    }
    if trigger is not None:
        facts["parameters"] = parameters_of(trigger)
        facts["target"], facts["sources"] = trigger.target, trigger.sources
        facts["threat"] = trigger.threat
    written = record.model_copy(update=facts)
    text = written.model_dump_json(indent=2) + "\n"
    (folder / RECORD).write_text(text, encoding="utf-8")
    return written


def _hash(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""
