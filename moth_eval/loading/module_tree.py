"""The network that a whole-module pickle describes: its parts, their tensors, and what is odd."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from ..errors import RefusedFile
from .inert_tree import Instance, TensorRecord

DEEPEST = 64
MOST_MODULES = 50_000

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
PARALLEL = (
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
)

#: Attributes whose name says hook and whose value says only how hooks would be called.
HOOK_FLAGS = ("_is_full_backward_hook",)

_MAPPINGS = (dict, OrderedDict)


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
    inner = children(root).get("module")
    if inner is None:
        raise RefusedFile(f"the {root.name} in the file wraps no network")
    return inner, ("taken out of its parallel wrapper",)


def walk(root: Instance) -> Iterator[tuple[str, Instance]]:
    """Every module under its dotted path, parents first; each one checked.

    Raises:
        RefusedFile: a module is malformed, hooked, or the tree is too deep or too large.
    """
    left = MOST_MODULES
    pending = [("", root, 0)]
    while pending:
        path, module, depth = pending.pop()
        left -= 1
        if depth > DEEPEST or left < 0:
            raise RefusedFile(
                f"the network in the file nests deeper than {DEEPEST} or has more than "
                f"{MOST_MODULES:,} parts"
            )
        check_module(module)
        yield path, module
        inner = [(f"{path}{name}.", part, depth + 1) for name, part in children(module).items()]
        pending.extend(reversed(inner))


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
                f"the {module.name} in the file carries {name}: code attached to a network is not "
                "run; save its state dict instead"
            )
    _check_names(module)
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
    for group in ("_parameters", "_buffers", "_modules"):
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
        record is not None and name in _members(module, "_non_persistent_buffers_set")
        for _, module in walk(root)
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
    return members
