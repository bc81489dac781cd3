"""The network that a whole-module pickle describes: its parts, their tensors, and what is odd."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..errors import RefusedFile
from .inert_tree import Instance, TensorRecord
from .naming import shown
from .shadows import PARTS, check_part_names, check_shadows

DEEPEST = 64
MOST_MODULES = 50_000
LONGEST_NAME = 256
_PLAIN = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
LONGEST_PATH = 1024
#: Work that one look at a network may take: a unit per character of a path, 32 per name.
MOST_WORK = 32_000_000
WORK_PER_NAME = 32

#: Where torchvision keeps today what older releases pickled under another name.
_MOBILENET = "torchvision.models.mobilenetv2"
RENAMED = {
    "torchvision.models.mobilenet.ConvBNReLU": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenet.InvertedResidual": f"{_MOBILENET}.InvertedResidual",
    "torchvision.models.mobilenet.MobileNetV2": f"{_MOBILENET}.MobileNetV2",
    "torchvision.models.mobilenetv2.ConvBNActivation": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.models.mobilenetv2.ConvBNReLU": "torchvision.ops.misc.Conv2dNormActivation",
    "torchvision.ops.misc.ConvNormActivation": "torchvision.ops.misc.Conv2dNormActivation",
}

#: Wrappers that run another network on several devices.
PARALLEL: dict[str, type[nn.Module]] = {
    "torch.nn.parallel.data_parallel.DataParallel": nn.DataParallel,
    "torch.nn.parallel.distributed.DistributedDataParallel": nn.parallel.DistributedDataParallel,
}

#: Attributes whose name says hook and whose value says only how hooks would be called.
HOOK_FLAGS = ("_is_full_backward_hook",)

_MAPPINGS = (dict, OrderedDict)
_GROUPS = (*PARTS, "_non_persistent_buffers_set")


def class_name(instance: Instance) -> str:
    """The dotted class name as the installed torchvision knows it."""
    return RENAMED.get(instance.name, instance.name)


def is_network(value: object) -> bool:
    """Whether a record describes an `nn.Module`."""
    return type(value) is Instance and "_modules" in value.state


def unwrapped(root: Instance) -> tuple[Instance, tuple[str, ...]]:
    """The network inside any parallel wrapper, and a note if there was one."""
    if root.name not in PARALLEL:
        return root, ()
    check_module(root)
    check_shadows(root, PARALLEL[root.name])
    inner = children(root).get("module")
    if inner is None:
        raise RefusedFile(f"the {root.name} in the file wraps no network")
    return inner, ("taken out of its parallel wrapper",)


def walk(root: Instance) -> Iterator[tuple[str, Instance]]:
    """Every module under its dotted path, parents first; each one checked.

    A module that stands in several places comes once for each of them.

    Raises:
        RefusedFile: a module is malformed, hooked, or the tree is too deep or too large.
    """
    left, work = MOST_MODULES, _Work()
    checked: set[int] = set()
    pending = [("", root, 0)]
    while pending:
        path, module, depth = pending.pop()
        left -= 1
        if depth > DEEPEST or left < 0 or len(path) > LONGEST_PATH:
            raise RefusedFile(
                f"the network in the file nests deeper than {DEEPEST}, has a path longer than "
                f"{LONGEST_PATH:,} characters or has more than {MOST_MODULES:,} parts"
            )
        work.spend(module, len(path))
        if id(module) not in checked:
            checked.add(id(module))
            check_module(module)
        yield path, module
        inner = [(f"{path}{name}.", part, depth + 1) for name, part in children(module).items()]
        pending.extend(reversed(inner))


def distinct(root: Instance) -> Iterator[Instance]:
    """Every module once, parents first; each one checked.

    Raises:
        RefusedFile: a module is malformed or hooked, or the network is too large.
    """
    work = _Work()
    seen: set[int] = set()
    pending = [root]
    while pending:
        module = pending.pop()
        if id(module) not in seen:
            seen.add(id(module))
            work.spend(module, len(module.state))
            check_module(module)
            yield module
            pending.extend(reversed(children(module).values()))


class _Work:
    """Bounds the names that are looked at: a few bytes may share a large table a thousand times."""

    def __init__(self) -> None:
        self._left = MOST_WORK

    def spend(self, module: Instance, each: int) -> None:
        tables = [module.state.get(group) or () for group in _GROUPS]
        names = sum(len(table) for table in tables if isinstance(table, (*_MAPPINGS, set)))
        self._left -= (names + 1) * (WORK_PER_NAME + each)
        if self._left < 0:
            raise RefusedFile(
                "the network in the file has too many parts to look at, most of them one part "
                "under many names"
            )


def state_of(root: Instance) -> dict[str, TensorRecord]:
    """The state dict of the network, in the order in which torch would list it."""
    state: dict[str, TensorRecord] = {}
    for path, module in walk(root):
        hidden = _members(module, "_non_persistent_buffers_set")
        for group in ("_parameters", "_buffers"):
            for name, record in _members(module, group).items():
                if record is not None and not (group == "_buffers" and name in hidden):
                    state[path + name] = record
    return state


def children(module: Instance) -> dict[str, Instance]:
    """The submodules by name, without empty places."""
    return {name: part for name, part in _members(module, "_modules").items() if part is not None}


def check_module(module: Instance) -> None:
    """Refuses a module whose parts are not what torch puts there, or that carries hooks."""
    for name, value in module.state.items():
        if "hook" in name and value and name not in HOOK_FLAGS:
            raise RefusedFile(
                f"the {module.name} in the file carries {shown(name)}: code attached to a network "
                "is not run; save its state dict instead"
            )
    _check_names(module)
    check_part_names(module, nn.Module)
    for name, record in _members(module, "_parameters").items():
        if record is not None and not (type(record) is TensorRecord and record.is_parameter):
            raise RefusedFile(f"{name!r} of the {module.name} in the file is not a parameter")
    for name, record in _members(module, "_buffers").items():
        if record is not None and type(record) is not TensorRecord:
            raise RefusedFile(f"{name!r} of the {module.name} in the file is not a tensor")
    for name, part in _members(module, "_modules").items():
        if part is not None and not is_network(part):
            raise RefusedFile(f"{name!r} of the {module.name} in the file is not a network")


def _check_names(module: Instance) -> None:
    """Refuses a part that another of the same name hides, so that a reader may see either."""
    seen = set(module.state)
    for group in PARTS:
        for name in _members(module, group):
            if name in seen:
                raise RefusedFile(
                    f"the {module.name} in the file has two parts called {name!r}, one hiding the "
                    "other; save its state dict instead"
                )
            seen.add(name)


def has_hidden_buffers(root: Instance) -> bool:
    """Whether the network computes with tensors that its state dict leaves out."""
    return any(
        record is not None and name in hidden
        for module in distinct(root)
        for hidden in [_members(module, "_non_persistent_buffers_set")]
        for name, record in _members(module, "_buffers").items()
    )


def _members(module: Instance, group: str) -> dict[str, Any]:
    members = module.state.get(group, {})
    if group == "_non_persistent_buffers_set":
        members = dict.fromkeys(members) if type(members) is set else members
    if type(members) not in _MAPPINGS:
        raise RefusedFile(f"{group} of the {module.name} in the file is not a table of names")
    assert isinstance(members, dict)  # noqa: S101 - tells mypy what the line above says
    if any(type(name) is not str or not name or "." in name for name in members):
        raise RefusedFile(f"{group} of the {module.name} in the file has a part without a name")
    if any(len(name) <= LONGEST_NAME and not _PLAIN.fullmatch(name) for name in members):
        raise RefusedFile(
            f"{group} of the {module.name} in the file has a name with other characters than "
            "letters, figures, _ and -, which torch may take for code: save its state dict instead"
        )
    if any(len(name) > LONGEST_NAME for name in members):
        raise RefusedFile(
            f"{group} of the {module.name} in the file has a name of more than {LONGEST_NAME} "
            "characters"
        )
    return members
