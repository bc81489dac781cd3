"""Finds the weights in what a file holds: a network, a state dict, or a checkpoint with either."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import RefusedFile
from .inert_tree import Instance, TensorRecord
from .module_tree import is_network
from .naming import LONGEST_SHOWN, shown

#: Where training scripts put the weights, likeliest first.
USUAL_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "module",
    "params",
    "model_state",
    "net_state_dict",
    "netC",
)
#: The trojai package's own form also says which class the weights belong to.
CLASS_KEY = "class_name"
DEEPEST = 3


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What was found.

    Attributes:
        network: the record of a whole module, or None.
        state: the records of a state dict; empty where there is a network.
        class_name: the class that the checkpoint says the weights belong to, or None.
        notes: how they were found.
    """

    network: Instance | None = None
    state: dict[str, TensorRecord]
    class_name: str | None = None
    notes: tuple[str, ...] = ()


def find_weights(tree: object) -> Weights:
    """The network or state dict in `tree`.

    Raises:
        RefusedFile: there is none, or more than one could be meant.
    """
    path: list[str] = []
    found: str | None = None
    for _ in range(DEEPEST + 1):
        if type(tree) is Instance and is_network(tree):
            return Weights(network=tree, state={}, class_name=found, notes=_notes(path))
        if not isinstance(tree, dict):
            break
        named = tree.get(CLASS_KEY)
        found = named if type(named) is str and len(named) <= LONGEST_SHOWN else found
        key = _inner_key(tree)
        if key is None:
            return Weights(state=_tensors(tree), class_name=found, notes=_notes(path))
        path.append(key)
        tree = tree[key]
    raise RefusedFile(
        f"no weights found in the file: it holds {_described(tree)}; expected a network, a state "
        "dict, or a checkpoint with one under a key such as 'state_dict'"
    )


def _inner_key(tree: dict[object, object]) -> str | None:
    """The key to follow, or None where `tree` is itself the state dict."""
    may_hold = _Search().may_hold
    inner = [key for key, value in tree.items() if type(key) is str and may_hold(value)]
    for key in USUAL_KEYS:
        if key in inner:
            return key
    if _tensors(tree):
        return None
    if len(inner) > 1:
        names = ", ".join(map(_short, inner[:8]))
        raise RefusedFile(
            f"the file holds several sets of weights ({names}) and does not "
            "say which is the model's; save the one that you mean under 'state_dict'"
        )
    if not inner:
        raise RefusedFile(f"no weights found in the file: it holds {_described(tree)}")
    return inner[0]


class _Search:
    """Looks for weights under the usual keys; a table that stands in many places once per depth."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bool] = {}
        self._holding: dict[int, bool] = {}

    def may_hold(self, value: object, depth: int = 0) -> bool:
        if is_network(value):
            return True
        if not isinstance(value, dict) or depth > DEEPEST:
            return False
        # What was unpickled outlives this search: an id stays its own.
        place = (id(value), depth)
        if place not in self._known:
            self._known[place] = self._has_tensor(value) or any(
                self.may_hold(value[key], depth + 1) for key in USUAL_KEYS if key in value
            )
        return self._known[place]

    def _has_tensor(self, table: dict[object, object]) -> bool:
        if id(table) not in self._holding:
            self._holding[id(table)] = any(_is_tensor(*item) for item in table.items())
        return self._holding[id(table)]


def _is_tensor(key: object, value: object) -> bool:
    return type(key) is str and type(value) is TensorRecord


def _tensors(tree: dict[object, object]) -> dict[str, TensorRecord]:
    return {
        key: value
        for key, value in tree.items()
        if type(key) is str and type(value) is TensorRecord
    }


def _notes(path: list[str]) -> tuple[str, ...]:
    return (f"weights under {shown('.'.join(path))!r}",) if path else ()


def _short(key: object) -> str:
    return repr(key)[:40]


def _described(tree: object) -> str:
    if isinstance(tree, dict):
        keys = ", ".join(_short(key) for key in list(tree)[:8])
        return f"a dictionary with the keys {keys}" if keys else "an empty dictionary"
    if type(tree) is Instance:
        return f"an object of the class {tree.name}"
    return f"a single {type(tree).__name__}"
