"""Builds a described network from known classes, where no ready architecture is the same.

Every class comes from a table of torch's and torchvision's own layers that is made before the
file is opened; no constructor runs, and an attribute that would stand in for a method is refused.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import nn

from ..errors import RefusedFile
from .inert_tree import ITEM_SIZES, Instance, Named, Opaque, Partial, TensorRecord
from .module_tree import RENAMED, class_name, distinct, is_network
from .naming import shown
from .native_layers import SHORTCUTS, require_few_layers, require_true
from .shadows import PARTS, check_part_names, check_shadows
from .tensors import TensorReader
from .vit import timm_class

CLASS_PREFIXES = ("torch.nn.modules.", "torchvision.models.", "torchvision.ops.")
#: Detectors return boxes, not logits, and what they compute cannot be bounded beforehand.
DETECTION = "torchvision.models.detection."
FUNCTIONS = {
    "torch.nn.functional.relu": F.relu,
    "torch.nn.functional.gelu": F.gelu,
}
#: Attributes that today's classes read and older releases did not set.
SET_SINCE: dict[str, dict[str, object]] = {
    "torch.nn.modules.activation.GELU": {"approximate": "none"},
}
DEEPEST = 64
MOST_VALUES = 500_000
LONGEST_TEXT = 4096
PLAIN = (type(None), bool, int, float, str)


@lru_cache(maxsize=1)
def known_classes() -> dict[str, type[nn.Module]]:
    """Every layer of torch and torchvision by its dotted name."""
    import torchvision.models
    import torchvision.ops  # noqa: F401 - fills the table below

    found = {}
    for name, module in list(sys.modules.items()):
        if f"{name}.".startswith(CLASS_PREFIXES):
            for value in list(vars(module).values()):
                full = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
                if full.startswith(CLASS_PREFIXES) and _is_plain_layer(value):
                    found[full] = value
    return found


def _is_plain_layer(value: object) -> bool:
    unwanted = (torch.fx.GraphModule, torch.jit.ScriptModule)
    return (
        isinstance(value, type)
        and issubclass(value, nn.Module)
        and not issubclass(value, unwanted)
        and not value.__module__.startswith(DETECTION)
        and not f"{value.__module__}.".startswith(SHORTCUTS)
    )


def unknown_class(root: Instance) -> str | None:
    """The name of the first class in the network that is not in the table, or None."""
    names = (part.name for part in distinct(root) if class_name(part) not in known_classes())
    return next(names, None)


def check_attributes(root: Instance) -> None:
    """Refuses a network whose parts carry attributes that would replace or escape what is checked.

    Raises:
        RefusedFile: an attribute stands in for a method, or hides a layer or numbers where
            neither the state dict nor the evaluation mode reaches them.
    """
    classes = known_classes()
    seen: set[int] = set()
    for part in distinct(root):
        kind = classes.get(class_name(part)) or timm_class(part.name)
        if kind is not None:
            check_shadows(part, kind)
            check_part_names(part, kind)
            _check_hidden(part, seen)


def _check_hidden(part: Instance, seen: set[int]) -> None:
    own = list(part.state.get("_parameters", {}).values())  # type: ignore[attr-defined]
    for name, value in part.state.items():
        if name in PARTS or type(value) in PLAIN:
            continue
        # Recurrent layers list their own weights once more, in the order of their names.
        if name == "_flat_weights" and type(value) is list and _are(value, own):
            continue
        if _hides(value, seen):
            raise RefusedFile(
                f"the {part.name} in the file keeps a layer or numbers in {shown(name)!r}, where "
                "its state dict does not show them; save its state dict instead"
            )


def _are(values: list[object], others: list[object]) -> bool:
    return [id(value) for value in values] == [id(other) for other in others]


def _hides(value: object, seen: set[int]) -> bool:
    """Whether a layer or tensor is found in `value`; containers in `seen` hold none."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, (Instance, TensorRecord)):
            return True
        if isinstance(found, Partial):
            found = [found.arguments, found.keywords]
        elif id(found) in seen:
            continue
        elif isinstance(found, (dict, list, tuple, set)):
            # Attributes belong to the tree, which outlives this look: the id stays its own.
            seen.add(id(found))
        if isinstance(found, (dict, list, tuple, set)):
            pending.extend(found.values() if isinstance(found, dict) else found)
    return False


def realise(root: Instance, tensors: TensorReader) -> nn.Module:
    """The described network, made of known classes.

    Raises:
        RefusedFile: a part of it is of no known kind.
    """
    check_attributes(root)
    module = _Realiser(tensors).value(root, 0)
    assert isinstance(module, nn.Module)  # noqa: S101 - the root was checked to be a network
    return module


class _Realiser:
    def __init__(self, tensors: TensorReader) -> None:
        self._tensors = tensors
        self._left = MOST_VALUES
        # The record is kept beside what it became, so that its id stays its own.
        self._done: dict[int, tuple[object, Any]] = {}

    def value(self, record: object, depth: int) -> Any:
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise RefusedFile(
                "an attribute of the network in the file nests too deep or is too large"
            )
        if type(record) in PLAIN:
            return self._plain(record)
        if id(record) not in self._done:
            self._done[id(record)] = (record, self._make(record, depth + 1))
        return self._done[id(record)][1]

    def _plain(self, record: object) -> object:
        if isinstance(record, str) and len(record) > LONGEST_TEXT:
            raise RefusedFile("an attribute of the network in the file is an overlong text")
        return record

    def _make(self, record: object, depth: int) -> Any:
        match record:
            case TensorRecord():
                return self._tensor(record)
            case Instance():
                return self._module(record, depth)
            case Named():
                return _function_or_class(record)
            case Partial():
                return self._partial(record, depth)
            case Opaque(name="torch.device"):
                return torch.device("cpu")
            case dict():
                pairs = ((key, self.value(item, depth)) for key, item in record.items())
                return OrderedDict(pairs) if type(record) is OrderedDict else dict(pairs)
            case list() | tuple() | set():
                return type(record)(self.value(item, depth) for item in record)
        raise RefusedFile(
            f"the network in the file holds a {shown(getattr(record, 'name', record))!r}"
        )

    def _tensor(self, record: TensorRecord) -> Any:
        tensor = self._tensors.read(record)
        if not record.is_parameter:
            return tensor
        return nn.Parameter(
            tensor, requires_grad=record.requires_grad and tensor.is_floating_point()
        )

    def _partial(self, record: Partial, depth: int) -> Any:
        # torchvision keeps these for normalisation layers only; any other could make a layer of
        # any size in the middle of a forward pass.
        if "Norm" not in record.function.name or record.arguments:
            raise RefusedFile(f"the network in the file prepares a call of {record.function.name}")
        keywords = {str(k): self.value(item, depth) for k, item in record.keywords.items()}
        return partial(_function_or_class(record.function), **keywords)

    def _module(self, record: Instance, depth: int) -> nn.Module:
        kind = known_classes().get(class_name(record))
        if kind is None or not is_network(record):
            raise RefusedFile(f"the network in the file holds an object of the class {record.name}")
        module: nn.Module = kind.__new__(kind)
        state = {name: self.value(item, depth) for name, item in record.state.items()}
        require_few_layers(kind, state)
        try:
            restore: Callable[[dict[str, Any]], None] = module.__setstate__
            restore({**SET_SINCE.get(class_name(record), {}), **state})
        except Exception as error:  # whatever a layer makes of a state that it never wrote
            raise RefusedFile(
                f"the state of the {record.name} in the file is not one it can have: "
                f"{shown(repr(error))}"
            ) from error
        _require_reachable(module, record)
        require_true(module)
        return module


def _require_reachable(module: nn.Module, record: Instance) -> None:
    """Refuses a layer in which a part is hidden by what older releases did not set."""
    for table in PARTS:
        hidden = vars(module).keys() & vars(module).get(table, {}).keys()
        if hidden:
            raise RefusedFile(
                f"the {record.name} in the file has a part called {shown(min(hidden))!r}, which is "
                "the name of an attribute of its class; save its state dict instead"
            )


def _function_or_class(record: Named) -> Any:
    short = record.name.removeprefix("torch.")
    if record.name.startswith("torch.") and short in ITEM_SIZES:
        return getattr(torch, short)
    name = RENAMED.get(record.name, record.name)
    found: Any = FUNCTIONS.get(name) or known_classes().get(name)
    if found is None:
        raise RefusedFile(
            f"the network in the file refers to {record.name}, which is not known here"
        )
    return found
