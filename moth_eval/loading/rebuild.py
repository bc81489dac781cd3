"""Puts the weights of a whole-module pickle into the same network built by today's library.

A rebuilt network runs only code of the installed library, made by its own constructors. It is
used only where it is the same network: equal tensor names and shapes, and for every part the
same class and the same settings (strides, paddings, epsilons, activations).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache, partial
from typing import Any

from torch import Tensor, nn

from ..errors import ArchitectureError
from .architectures import AUXILIARY, build_torchvision, on_meta
from .inert_tree import Instance, Named, Opaque, Partial, TensorRecord
from .module_tree import children, class_name, has_hidden_buffers
from .naming import shown
from .vit import TIMM_CLASSES, TIMM_IDLE, TIMM_INERT, TIMM_PLAIN, VisionTransformer, shape_of
from .weights import fill

Shapes = Mapping[str, tuple[int, ...]]
Build = Callable[[], nn.Module]

#: Parts without weights that older releases of a class did by a function call.
PARTS_ADDED_LATER = {
    "torchvision.models.inception.Inception3": {"maxpool1", "maxpool2", "avgpool", "dropout"},
    "torchvision.models.googlenet.GoogLeNet": {"dropout"},
}
#: Attributes that say nothing about what an evaluated network computes.
BOOKKEEPING = {"training", "_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"}
IDLE_IN_EVALUATION = {
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.dropout.Dropout",
    *TIMM_IDLE,
}
#: How many tensors may differ in shape from the library's default: weights and biases of heads.
HEAD_TENSORS = 6
DEEPEST_VALUE = 8

_ABSENT = object()


def rebuild(
    root: Instance,
    records: Mapping[str, TensorRecord],
    tensors: Mapping[str, Tensor],
    *,
    likely: str | None = None,
) -> tuple[nn.Module, str] | None:
    """The library's own network with these weights and its name, or None if none is the same.

    Args:
        root: the network that the file describes.
        records: its state dict as records.
        tensors: its state dict.
        likely: the torchvision name to try first.
    """
    shapes = {name: record.size for name, record in records.items()}
    if has_hidden_buffers(root):
        return None
    for name, build in _candidates(root, shapes, likely):
        module = on_meta(build)
        if module is None or set(module.state_dict()) != set(_complete(shapes, module)):
            continue
        if _shape_difference(module, shapes) or first_difference(root, module):
            continue
        module = fill(module, tensors, build)
        for path, parameter in module.named_parameters():
            parameter.requires_grad_(records[path].requires_grad)
        return module, name
    return None


def why_not(root: Instance, shapes: Shapes, name: str) -> str | None:
    """What first keeps the network in the file from being torchvision's `name`, or None.

    None, too, for the few networks that cannot be outlined; their weights alone must then fit.
    """
    classes = _head_outputs(shapes)
    build = partial(build_torchvision, name, num_classes=classes, **_switches(root, shapes, name))
    module = on_meta(build)
    if module is None:
        return None
    return first_difference(root, module) or _shape_difference(module, shapes)


def _candidates(root: Instance, shapes: Shapes, likely: str | None) -> Iterator[tuple[str, Build]]:
    if class_name(root) in TIMM_CLASSES["VisionTransformer"]:
        yield from _vision_transformers(root, shapes)
        return
    family = _builders_of(class_name(root).rpartition(".")[0])
    for name in sorted(family, key=lambda name: name != likely):
        switches = _switches(root, shapes, name)
        default = _default_shapes(name, bool(switches.get("aux_logits", False)))
        if not default:
            continue
        same = [default[key] == shapes.get(key) for key in default]
        known = all(key in shapes or key.endswith("num_batches_tracked") for key in default)
        if (
            known
            and set(shapes) <= set(default)
            and same.count(False) <= _tolerated(default, shapes)
        ):
            classes = _head_outputs(shapes)
            yield name, partial(build_torchvision, name, num_classes=classes, **switches)


def _tolerated(default: Shapes, shapes: Shapes) -> int:
    return HEAD_TENSORS + sum(key not in shapes for key in default)


def _vision_transformers(root: Instance, shapes: Shapes) -> Iterator[tuple[str, Build]]:
    block = children(root).get("blocks")
    first = children(block).get("0") if block else None
    attention = children(first).get("attn") if first else None
    heads = attention.state.get("num_heads") if attention else None
    if type(heads) is not int:
        return
    try:
        shape = shape_of(shapes, heads)
    except ArchitectureError:
        return
    yield f"vit-{shape.width}-patch{shape.patch}", partial(VisionTransformer, shape)


def _switches(root: Instance, shapes: Shapes, name: str) -> dict[str, bool]:
    if name not in AUXILIARY:
        return {}
    return {
        "aux_logits": has_auxiliary(shapes),
        "transform_input": root.state.get("transform_input") is True,
    }


def has_auxiliary(shapes: Mapping[str, object]) -> bool:
    """Whether the weights include the training-time classifiers of GoogLeNet or Inception."""
    return any(key.startswith(("AuxLogits.", "aux1.")) for key in shapes)


@cache
def _builders_of(module: str) -> tuple[str, ...]:
    from torchvision import models

    names = models.list_models(module=models)
    return tuple(n for n in names if models.get_model_builder(n).__module__ == module)


@lru_cache(maxsize=64)
def _default_shapes(name: str, aux_logits: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the network's weights for torchvision's own classes; empty where unknown.

    Networks that cannot be described without building them are left out: a small file must not
    make the reader allocate the largest network of its family.
    """
    module = on_meta(partial(build_torchvision, name, aux_logits=aux_logits))
    state = module.state_dict() if module else {}
    return {key: tuple(value.shape) for key, value in state.items()}


def _head_outputs(shapes: Shapes) -> int | None:
    """Outputs of the last matrix or kernel, which in torchvision's order is the classifier's."""
    heads = [shape[0] for shape in shapes.values() if len(shape) > 1]
    return heads[-1] if heads else None


def _complete(shapes: Shapes, module: nn.Module) -> list[str]:
    counters = [k for k in module.state_dict() if k.endswith("num_batches_tracked")]
    return [*shapes, *(key for key in counters if key not in shapes)]


def _shape_difference(module: nn.Module, shapes: Shapes) -> str | None:
    for key, value in module.state_dict().items():
        if key in shapes and tuple(value.shape) != shapes[key]:
            return f"{key} has shape {shapes[key]}, not {tuple(value.shape)}"
    return None


def first_difference(described: Instance, built: nn.Module, path: str = "") -> str | None:
    """The first way in which the described network is not `built`, or None.

    Args:
        described: what the file says.
        built: what the installed library makes.
        path: where in the network the two stand, for the answer.
    """
    where = path or "the network"
    if class_name(described) not in _names_of(type(built)):
        return f"{where} is a {described.name}, not a {type(built).__name__}"
    for name, value in vars(built).items():
        if name in BOOKKEEPING or "hook" in name:
            continue
        said = described.state.get(name, _ABSENT)
        if said is not _ABSENT and not _same(said, value):
            return f"{where} has another {name}: {_short(said)} instead of {_short(value)}"
    extra = _unknown_attribute(described, built)
    if extra is not None:
        return f"{where} has the attribute {shown(extra)}"
    return _part_difference(described, built, path)


def _unknown_attribute(described: Instance, built: nn.Module) -> str | None:
    """An attribute of a class of timm's that may change what it computes, or None.

    The code of torch's and torchvision's classes reads what their constructors set and no more;
    timm's is not at hand.
    """
    if type(built).__module__ != VisionTransformer.__module__:
        return None
    known = BOOKKEEPING | TIMM_INERT | vars(built).keys()
    for name, value in described.state.items():
        if (
            name in known
            or "hook" in name
            or (name in TIMM_PLAIN and _same(value, TIMM_PLAIN[name]))
        ):
            continue
        return name
    return None


def _part_difference(described: Instance, built: nn.Module, path: str) -> str | None:
    theirs = children(described)
    # A part that stands under two names counts twice here, unlike in named_children.
    ours = {name: part for name, part in built._modules.items() if part is not None}
    idle = {n for n, part in theirs.items() if n not in ours and _is_idle(part, built)}
    added = PARTS_ADDED_LATER.get(class_name(described), set())
    left = [name for name in theirs if name not in idle]
    right = [name for name in ours if name in theirs or name not in added]
    # Containers run their parts in order; other classes call them by name.
    ordered = isinstance(built, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    equal = left == right if ordered else set(left) == set(right)
    if not equal:
        return f"{path or 'the network'} has the parts {shown(left[:8])}, not {shown(right[:8])}"
    for name in left:
        found = first_difference(theirs[name], ours[name], f"{path}.{name}".lstrip("."))
        if found:
            return found
    return None


def _is_idle(part: Instance, parent: nn.Module) -> bool:
    ours = type(parent).__module__ == VisionTransformer.__module__
    return ours and class_name(part) in IDLE_IN_EVALUATION


def _names_of(kind: type[nn.Module]) -> tuple[str, ...]:
    if kind.__module__ == VisionTransformer.__module__:
        return TIMM_CLASSES[kind.__name__]
    return (f"{kind.__module__}.{kind.__qualname__}",)


def _same(said: Any, value: Any, depth: int = 0) -> bool:
    """Whether a recorded attribute equals a real one."""
    if depth > DEEPEST_VALUE or isinstance(said, (Opaque, Instance, TensorRecord)):
        return False
    if isinstance(said, Named):
        return (
            said.name == f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        )
    if isinstance(said, Partial):
        return _same_partial(said, value, depth)
    if isinstance(said, (list, tuple)):
        return (
            isinstance(value, (list, tuple))
            and len(said) == len(value)
            and all(_same(a, b, depth + 1) for a, b in zip(said, value, strict=True))
        )
    if isinstance(said, dict):
        return (
            isinstance(value, dict)
            and said.keys() == value.keys()
            and all(_same(said[key], value[key], depth + 1) for key in said)
        )
    return bool(said == value)


def _same_partial(said: Partial, value: object, depth: int) -> bool:
    return (
        isinstance(value, partial)
        and _same(said.function, value.func, depth + 1)
        and _same(said.arguments, value.args, depth + 1)
        and _same(said.keywords, value.keywords, depth + 1)
    )


def _short(value: object) -> str:
    return shown(getattr(value, "name", None) or repr(value)[:60])
