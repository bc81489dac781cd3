"""config.json of a model: written plainly in round 2, by jsonpickle from round 3 on.

The files are read as plain JSON. jsonpickle's own decoder imports and calls what a file names, so
it has no place here; its wrappers (`py/object`, `py/state`, `py/id`) are just keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import RoundError
from ..records import Truth
from .bounded import leads_outside, read_json
from .sidecars import sidecar_path
from .truths import TriggerFacts, build_truth, flag, integer, integers, trigger_kind

CONFIGS = ("config.json", "reduced-config.json")


def read_config(path: Path) -> dict[str, object]:
    """The facts of a config.json, reduced-config.json or arch.json; keys in lower case.

    Raises:
        RoundError: the file cannot be read, is larger than 8 MB, or is not a JSON object.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise RoundError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return _unwrap(content)


def configs_of(file: Path) -> tuple[str, ...]:
    """Names of the files that describe a model, what counts most first."""
    return (*CONFIGS, *_sidecars(file))


def _sidecars(file: Path) -> tuple[str, str]:
    return sidecar_path(file).name, "arch.json"


def facts_beside(
    file: Path, names: set[str], root: Path
) -> tuple[dict[str, object], list[str], str]:
    """Facts of all configs beside a model file, what is wrong with them, and what forbids its use.

    The last is a side-car that leads elsewhere: it must not decide on the network; empty if none
    does. The normalisation is taken from the side-car alone, as `sidecars.read_sidecar` finds it.

    Args:
        file: the model file.
        names: of the files in its folder.
        root: the folder that no link may lead out of (resolved).
    """
    facts: dict[str, object] = {}
    problems = []
    sidecar = next((name for name in _sidecars(file) if name in names), "")
    for name in configs_of(file):
        if name not in names:
            continue
        path = file.parent / name
        try:
            if leads_outside(path, root):
                raise RoundError(_foreign(name, root))
            read = read_config(path)
        except RoundError as error:
            problems.append(str(error))
            continue
        if name != sidecar:
            read.pop("normalisation", None)
        facts = {**read, **facts}
    foreign = _foreign_sidecar(file, root)
    return facts, [problem for problem in problems if problem != foreign], foreign


def _foreign_sidecar(file: Path, root: Path) -> str:
    names = (name for name in _sidecars(file) if leads_outside(file.with_name(name), root))
    return next((_foreign(name, root) for name in names), "")


def _foreign(name: str, root: Path) -> str:
    return f"{name} is a link that leads out of {root}; copy the file"


def _unwrap(content: Mapping[object, object]) -> dict[str, object]:
    """Attributes of an object that jsonpickle wrote, with or without `py/state`."""
    state = content.get("py/state", content)
    facts = state if isinstance(state, Mapping) else content
    named = {str(key).lower(): value for key, value in facts.items()}
    if "py/object" in content:
        named["py/object"] = content["py/object"]
    return named


def truth_of_config(config: Mapping[str, object]) -> Truth | None:
    """Ground truth that a config states, or None if it does not say whether it is poisoned.

    `num_triggers` is not asked: clean models of round 11 state a number greater than zero.

    Args:
        config: what `read_config` gave.
    """
    listed = config.get("triggers")
    entries = listed if isinstance(listed, list) else []
    poisoned = flag(config.get("poisoned"))
    if poisoned is None:
        if not isinstance(listed, list):
            return None
        poisoned = bool(entries)
    triggers = [_trigger(_unwrap(entry)) for entry in entries if isinstance(entry, dict)]
    num_classes = integer(config.get("number_classes"))
    return build_truth(poisoned, triggers or [_only_trigger(config)], num_classes)


def _trigger(entry: Mapping[str, object]) -> TriggerFacts:
    """A trigger of rounds 4 and 11; a colour shared with another one (`py/id`) is not needed."""
    return TriggerFacts(
        kind=trigger_kind(
            _text(entry.get("type")),
            _text(entry.get("py/object")),
            str(entry.get("polygon_side_count") or entry.get("trigger_polygon_side_count") or ""),
        ),
        sources=integers(entry.get("source_class")),
        targets=integers(entry.get("target_class")),
    )


def _only_trigger(config: Mapping[str, object]) -> TriggerFacts:
    """The trigger of rounds 2 and 3, whose facts stand among the others."""
    return TriggerFacts(
        kind=trigger_kind(_text(config.get("trigger_type"))),
        sources=integers(config.get("triggered_classes")),
        targets=integers(config.get("trigger_target_class")),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) and value != "None" else ""
