"""The models of a study of removal, and apart from them what was implanted in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attacks.artefacts import read_artefact
from attacks.attack_records import NONE, RECORD, AttackRecord
from attacks.trigger import Trigger
from moth_eval.errors import InputError, MothError, RoundError
from moth_eval.loading.files import sha256_of
from moth_eval.loading.layouts import find_models
from moth_eval.loading.rounds import Round, RoundModel, read_round
from moth_eval.loading.sources import ImageSource
from moth_eval.records import Truth

UNKNOWN = "unknown"
"""Name of the attack where an `attack.json` cannot be read; such a model is never opened."""


@dataclass(frozen=True, kw_only=True)
class Attacked:
    """One model and its ground truth.

    Attributes:
        model: as its files describe it; never its ground truth.
        artefact: folder of its `attack.json`; None for a model without one.
        record: what that says; None for a model without one.
        unrecorded: whether its ground truth calls it backdoored, and no record says how.
        threat: of its trigger; empty for a clean control.
        twin: its clean twin, if there is one.
    """

    model: RoundModel
    artefact: Path | None = None
    record: AttackRecord | None = None
    unrecorded: bool = False
    threat: str = ""
    twin: RoundModel | None = None

    @property
    def attack(self) -> str:
        """Name of the attack; `none` for a clean control, `unknown` if no good record tells it."""
        if self.unrecorded or (self.artefact is not None and self.record is None):
            return UNKNOWN
        return self.record.attack if self.record else NONE

    @property
    def clean(self) -> bool:
        """Whether it is a clean control."""
        return self.attack == NONE

    @property
    def not_implanted(self) -> str:
        """Why the attack counts as not implanted, as far as the record tells; empty if not."""
        gate = self.record.gate if self.record and not self.clean else None
        if gate is None or gate.passed:
            return ""
        return f"its own gate refused the model: {gate.failure or 'no reason stated'}"


def find_attacked(
    folder: Path, *, examples: ImageSource, normalisation: str = ""
) -> tuple[Attacked, ...]:
    """The models in a folder, sorted by name.

    A folder with an `attack.json`, or folders with a model each, or model files, or a round. A
    model without a record, or whose record names no attack, is a clean control; so is a clean twin
    that lies with an attacked model, once for each file. One without a record that its ground
    truth calls backdoored is neither: it is unusable, and says why.

    Args:
        folder: as `--models` names it; may be one model's folder or file.
        examples: clean images for every model.
        normalisation: of every model; empty: what their records say.

    Raises:
        InputError: there are no models, two in one folder, or two of one name. A wrong
            `attack.json` makes its model unusable, and the model says why.
    """
    found = list(_members(folder, examples))
    if not found:
        raise InputError(
            f"no models in {folder}: expected folders with a model and {RECORD} each, as "
            "`moth-eval inject` leaves them, or model files"
        )
    known = {_hash(one.model) for one in found if one.clean}
    for one in list(found):
        if one.twin is not None and _hash(one.twin) not in known:
            known.add(_hash(one.twin))
            found.append(Attacked(model=one.twin))
    _check_names(found)
    read = (_read_under(one, normalisation) for one in found) if normalisation else found
    return tuple(sorted(read, key=lambda one: one.model.name))


def _check_names(found: Sequence[Attacked]) -> None:
    """A run keeps what it finds of a model under its name."""
    files: dict[str, Path] = {}
    for one in found:
        name, file = one.model.name, one.model.file
        if name in files:
            raise InputError(
                f"two models have the name {name}: {files[name]} and {file}; rename one of them"
            )
        files[name] = file


def _read_under(one: Attacked, normalisation: str) -> Attacked:
    twin = one.twin and replace(one.twin, normalisation=normalisation)
    return replace(one, model=replace(one.model, normalisation=normalisation), twin=twin)


def _hash(model: RoundModel) -> str:
    try:
        return sha256_of(model.file)
    except OSError:
        return str(model.file.resolve())


def read_trigger(artefact: Path) -> Trigger:
    """The trigger of an attacked model, ready to stamp.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    trigger = read_artefact(artefact).trigger
    if trigger is None:
        raise InputError(f"{artefact / RECORD} names no attack, so there is nothing to stamp")
    return trigger


def _members(folder: Path, examples: ImageSource) -> Iterator[Attacked]:
    if not folder.exists():
        raise InputError(f"{folder} does not exist; give a folder of models or a model file")
    if folder.is_file():
        yield _unrecorded(folder, examples, folder.stem)
        return
    if (folder / RECORD).is_file():
        yield _artefact(folder, folder.name, examples)
        return
    if _is_round(folder):
        yield from _whole_round(folder, examples)
        return
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (inner / RECORD).is_file():
            yield _artefact(inner, inner.name, examples)
        elif _has_model(inner):
            yield _unrecorded(inner, examples, inner.name)
    if _has_files(folder):
        yield from _whole_round(folder, examples)


def _whole_round(folder: Path, examples: ImageSource) -> Iterator[Attacked]:
    found = read_round(folder, examples=examples)
    yield from (_plain(model, found.truth.get(model.name)) for model in found.models)


def _unrecorded(path: Path, examples: ImageSource, name: str) -> Attacked:
    """The one model of a file or folder without a record."""
    found = _only(path, examples)
    truth = found.truth.get(found.models[0].name)
    return _plain(replace(found.models[0], name=name), truth)


def _plain(model: RoundModel, truth: Truth | None) -> Attacked:
    """A model without a record: a clean control, unless its ground truth calls it backdoored."""
    if truth is None or not truth.poisoned:
        return Attacked(model=model)
    problem = (
        f"its ground truth calls it backdoored, and no {RECORD} says how, so there is no trigger "
        f"to measure with: write a {RECORD} for it, or take it out of the folder"
    )
    return Attacked(model=replace(model, usable=False, problems=(problem,)), unrecorded=True)


def _trained_under(record: AttackRecord) -> str:
    """The normalisation that a record says its model was trained with; empty: it does not say.

    Images under a trigger may look otherwise under another that serves clean ones as well.
    """
    return record.training.normalisation if record.training else ""


def _twin_trained_under(folder: Path, otherwise: str) -> str:
    """Likewise of a twin, which lies with the artefact that it was made for."""
    try:
        return _trained_under(read_artefact(folder.parent).record) or otherwise
    except MothError:
        return otherwise


def _artefact(folder: Path, name: str, examples: ImageSource) -> Attacked:
    model, twin = replace(_only(folder, examples).models[0], name=name), None
    try:
        read = read_artefact(folder)
    except MothError as error:
        return Attacked(model=replace(model, usable=False, problems=(str(error),)), artefact=folder)
    known = _trained_under(read.record)
    if read.twin is not None and _has_model(read.twin):
        twin = replace(_only(read.twin, examples).models[0], name=f"{name}-twin")
        twin = replace(twin, normalisation=_twin_trained_under(read.twin, known))
    return Attacked(
        model=replace(model, normalisation=known),
        artefact=folder,
        record=read.record,
        threat="" if read.trigger is None else str(read.trigger.threat.value),
        twin=twin,
    )


def _only(path: Path, examples: ImageSource) -> Round:
    """The one model in a folder, and what is known of it.

    Raises:
        InputError: there are several, or none.
    """
    found = read_round(path, examples=examples)
    if len(found.models) != 1:
        names = ", ".join(model.file.name for model in found.models[:3])
        raise InputError(
            f"{path} holds {len(found.models)} models ({names}): expected one per folder"
        )
    return found


def _is_round(folder: Path) -> bool:
    """Whether it holds the folders of a round, itself or under `models/`, and no artefact."""
    try:
        found = find_models(folder)
    except MothError:
        return False
    if found.files and found.base == folder.resolve():
        return False
    homes = (member.parent if found.files else member for member in found.members)
    return not any((home / RECORD).is_file() for home in homes)


def _has_model(folder: Path) -> bool:
    try:
        return not find_models(folder).homes
    except RoundError:
        return False


def _has_files(folder: Path) -> bool:
    try:
        found = find_models(folder)
        return found.files and not found.homes
    except MothError:
        return False
