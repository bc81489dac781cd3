"""The few calls that a weights pickle makes, answered with records instead of being made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from ..errors import RefusedFile
from .inert_tree import (
    ITEM_SIZES,
    Instance,
    Named,
    Opaque,
    Partial,
    TensorRecord,
    tensor_record,
)

Arguments = tuple[object, ...]
#: Keys whose hash is cheap and cannot be made to collide: a tuple key may take exponential time.
PLAIN_KEYS = (str, int, bool, float, type(None))
LONGEST_KEY_BITS = 64
_MAPPINGS = (dict, OrderedDict)


def answer(function: object, arguments: object, charge: Callable[[int], None]) -> object:
    """The record that stands for `function(*arguments)`.

    Args:
        function: what the pickle wants to call.
        arguments: what it wants to pass.
        charge: spends that many units of the parser's budget, for answers that copy.

    Raises:
        RefusedFile: the call is not one of those that weights are made of.
    """
    if type(function) is not Named or type(arguments) is not tuple:
        raise RefusedFile("the pickle inside calls something that is not a named function")
    handler = _HANDLERS.get(function.name)
    if handler is None:
        raise RefusedFile(
            f"opening the pickle inside would call {function.name}; nothing was run. "
            "Ask the author for a state dict in safetensors, or save one from the model yourself"
        )
    for argument in arguments:
        if isinstance(argument, (list, tuple, dict)):
            charge(len(argument))
    return handler(arguments)


def _is_long(value: object) -> bool:
    """Whether a value is an integer of the kind that could be chosen to collide as a key."""
    return type(value) is int and value.bit_length() > LONGEST_KEY_BITS


def put(mapping: dict[object, object], key: object, value: object) -> None:
    """`mapping[key] = value` for keys that are safe to hash."""
    if type(key) not in PLAIN_KEYS:
        raise RefusedFile(f"a dictionary in the pickle has a key of type {type(key).__name__}")
    if _is_long(key):
        raise RefusedFile("a dictionary in the pickle has an integer of more than 64 bits as a key")
    mapping[key] = value


def plain_members(members: object) -> set[object]:
    """A set of `members`, which must be safe to hash."""
    if not isinstance(members, (list, tuple)) or any(type(m) not in PLAIN_KEYS for m in members):
        raise RefusedFile("a set in the pickle has members that are not plain values")
    if any(map(_is_long, members)):
        raise RefusedFile("a set in the pickle has an integer of more than 64 bits as a member")
    return set(members)


def _tensor_v2(arguments: Arguments) -> TensorRecord:
    if len(arguments) < 4:
        raise RefusedFile("a tensor in the pickle lacks its size or stride")
    _refuse_extras(arguments[5:], "hooks", "metadata")
    record = tensor_record(arguments[0], None, *arguments[1:4])
    wants_grad = len(arguments) > 4 and arguments[4] is True
    return replace(record, requires_grad=wants_grad)


def _tensor_v3(arguments: Arguments) -> TensorRecord:
    dtype = arguments[6] if len(arguments) > 6 else None
    name = dtype.name.removeprefix("torch.") if type(dtype) is Named else ""
    if name not in ITEM_SIZES:
        raise RefusedFile(
            f"a tensor in the pickle has the dtype {name or type(dtype).__name__}, not read here"
        )
    _refuse_extras((arguments[5], *arguments[7:]), "hooks", "metadata")
    record = tensor_record(arguments[0], name, *arguments[1:4])
    return replace(record, requires_grad=arguments[4] is True)


def _parameter(arguments: Arguments) -> TensorRecord:
    if not arguments or type(arguments[0]) is not TensorRecord:
        raise RefusedFile("a parameter in the pickle does not hold a tensor")
    _refuse_extras(arguments[2:], "hooks")
    wants_grad = len(arguments) < 2 or arguments[1] is True
    return replace(arguments[0], requires_grad=wants_grad, is_parameter=True)


def _tensor_of_type(arguments: Arguments) -> TensorRecord:
    """Tensors that say their class, and might set attributes such as their own data."""
    if len(arguments) != 4 or type(arguments[0]) is not Named or type(arguments[1]) is not Named:
        raise RefusedFile("a typed tensor in the pickle is not made the way torch makes it")
    builder = {
        "torch._utils._rebuild_tensor_v2": _tensor_v2,
        "torch._utils._rebuild_parameter": _parameter,
    }.get(arguments[0].name)
    kinds = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
    if builder is None or arguments[1].name not in kinds or type(arguments[2]) is not tuple:
        raise RefusedFile(f"a tensor in the pickle is of the class {arguments[1].name}")
    state = arguments[3]
    _refuse_extras(state if type(state) is tuple else (state,), "attributes", "attributes")
    record = builder(arguments[2])
    return replace(record, is_parameter=arguments[1].name == kinds[2])


def _refuse_extras(extras: Arguments, *names: str) -> None:
    """Refuses whatever could change a tensor's numbers after they were read, such as a sign."""
    carried = [
        name
        for name, extra in zip(names, extras, strict=False)
        if extra is not None and (extra or type(extra) not in _MAPPINGS)
    ]
    if len(extras) > len(names):
        carried.append("something more")
    if carried:
        raise RefusedFile(
            f"a tensor in the pickle carries {carried[0]}, which could change its numbers when "
            "torch reads it; save a state dict of plain tensors"
        )


def _ordered_dict(arguments: Arguments) -> OrderedDict[object, object]:
    made: OrderedDict[object, object] = OrderedDict()
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list):
        raise RefusedFile("an ordered dictionary in the pickle is not made from pairs")
    for pair in pairs:
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise RefusedFile("an ordered dictionary in the pickle is not made from pairs")
        put(made, pair[0], pair[1])
    return made


def _set(arguments: Arguments) -> set[object]:
    return plain_members(arguments[0]) if arguments else set()


def _partial(arguments: Arguments) -> Partial:
    if len(arguments) != 1 or type(arguments[0]) is not Named:
        raise RefusedFile("a partial function in the pickle does not name its function")
    return Partial(arguments[0])


def _size(arguments: Arguments) -> object:
    if len(arguments) != 1 or not isinstance(arguments[0], (tuple, list)):
        raise RefusedFile("a torch.Size in the pickle is not made from numbers")
    # A copy, as torch makes one: the pickle may go on changing the list.
    return tuple(arguments[0])


def _reconstructed(arguments: Arguments) -> Instance:
    if len(arguments) != 3 or type(arguments[0]) is not Named or arguments[2] is not None:
        raise RefusedFile("an object in the pickle is not made the way Python's copyreg does")
    return Instance(arguments[0].name)


def _counter(arguments: Arguments) -> dict[object, object]:
    """Counts, such as a learning rate schedule's milestones."""
    counts = arguments[0] if arguments else {}
    if len(arguments) > 1 or not isinstance(counts, dict):
        raise RefusedFile("a counter in the pickle is not made from counts")
    return dict(counts)


def _empty_dict(_: Arguments) -> dict[object, object]:
    return {}


def _opaque(name: str) -> Callable[[Arguments], Opaque]:
    return lambda _: Opaque(name)


_HANDLERS: dict[str, Callable[[Arguments], object]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch.Size": _size,
    "torch.device": _opaque("torch.device"),
    "collections.Counter": _counter,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _empty_dict,
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "functools.partial": _partial,
    "copyreg._reconstructor": _reconstructed,
    "_codecs.encode": _opaque("bytes"),
    "numpy.dtype": _opaque("numpy.dtype"),
    "numpy.core.multiarray.scalar": _opaque("numpy scalar"),
    "numpy._core.multiarray.scalar": _opaque("numpy scalar"),
    "numpy.core.multiarray._reconstruct": _opaque("numpy array"),
    "numpy._core.multiarray._reconstruct": _opaque("numpy array"),
}
