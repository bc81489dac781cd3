"""What passes from the process that reads an untrusted file to the one that uses it.

A tree of records becomes a table of nodes that refer to each other by number, so that what was one
object stays one, and depth costs nothing. It is read back as strictly as if it were a stranger's.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from ..errors import RefusedFile
from .inert_tree import (
    ITEM_SIZES,
    Instance,
    Named,
    Opaque,
    Partial,
    StorageRecord,
    TensorRecord,
    tensor_record,
)

#: Scalars stand where they are used, in a list of their own; everything else is a number.
Reference = int | list[Any]

_SCALARS = (type(None), bool, int, str)


def encode(tree: object) -> tuple[list[list[Any]], Reference, list[StorageRecord]]:
    """The table of a tree, a reference to its root, and the storages that its tensors lie in.

    Raises:
        RefusedFile: the tree holds something that no pickle of weights describes.
    """
    encoder = _Encoder()
    encoder.visit(tree)
    nodes = [encoder.node(value) for value in encoder.values]
    return nodes, encoder.reference(tree), encoder.storages


class _Encoder:
    """Numbers objects so that the members of a tuple always have smaller numbers than it."""

    def __init__(self) -> None:
        self.values: list[object] = []
        self.storages: list[StorageRecord] = []
        self._numbers: dict[int, int] = {}

    def visit(self, root: object) -> None:
        waiting: list[tuple[object, bool]] = [(root, False)]
        while waiting:
            value, members_done = waiting.pop()
            if type(value) in (*_SCALARS, float, bytes) or id(value) in self._numbers:
                continue
            if type(value) is tuple and not members_done:
                waiting.append((value, True))
                waiting += [(member, False) for member in value]
                continue
            self._number(value)
            if type(value) is not tuple:
                waiting += [(member, False) for member in _members(value)]

    def _number(self, value: object) -> None:
        self._numbers[id(value)] = len(self.values)
        self.values.append(value)
        if type(value) is StorageRecord:
            self.storages.append(value)

    def reference(self, value: object) -> Reference:
        if type(value) is float:
            return [value] if math.isfinite(value) else ["float", repr(value)]
        if type(value) is bytes:
            return ["bytes", value.hex()]
        if type(value) in _SCALARS:
            return [value]
        return self._numbers[id(value)]

    def node(self, value: object) -> list[Any]:
        if type(value) is Named:
            return ["named", value.name]
        if type(value) is Opaque:
            return ["opaque", value.name]
        if type(value) is StorageRecord:
            return ["storage", value.key, value.dtype, value.numel]
        if type(value) is TensorRecord:
            return [
                "tensor", self._numbers[id(value.storage)], value.dtype, value.offset,
                list(value.size), list(value.stride), value.requires_grad, value.is_parameter,
            ]  # fmt: skip
        if type(value) is Instance:
            return ["instance", value.name, value.built, *self._references(_members(value))]
        if type(value) is Partial:
            return ["partial", *self._references(_members(value))]
        kind = _KINDS.get(type(value))
        if kind is None:
            raise RefusedFile(f"the pickle inside describes a {type(value).__name__}")
        return [kind, *self._references(_members(value))]

    def _references(self, values: Iterable[object]) -> Iterator[Reference]:
        return (self.reference(value) for value in values)


_KINDS: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    dict: "dict",
    OrderedDict: "ordered",
}


def _members(value: object) -> Iterable[object]:
    """What an object refers to, in the order in which its node lists it."""
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if type(value) is Instance:
        return [part for pair in value.state.items() for part in pair]
    if type(value) is Partial:
        return [value.function, value.arguments, value.keywords]
    if type(value) is TensorRecord:
        return [value.storage]
    return ()


def decode(nodes: object, root: object) -> tuple[object, list[StorageRecord]]:
    """The tree back, and its storages in the order in which `encode` gave them.

    Raises:
        RefusedFile: the table is not one that `encode` makes.
    """
    if type(nodes) is not list:
        _malformed()
    decoder = _Decoder(nodes)
    try:
        return decoder.tree(root)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusedFile(f"what was read of the file is malformed: {error!r}") from error


class _Decoder:
    def __init__(self, nodes: list[Any]) -> None:
        self._nodes = nodes
        self._made: list[Any] = [None] * len(nodes)

    def tree(self, root: object) -> tuple[object, list[StorageRecord]]:
        for number, node in enumerate(self._nodes):
            if node[0] in _SHELLS:
                self._made[number] = _SHELLS[node[0]](node)
        for number, node in enumerate(self._nodes):
            if node[0] not in _SHELLS:
                self._made[number] = self._whole(number, node)
        for number, node in enumerate(self._nodes):
            self._fill(self._made[number], node)
        storages = [value for value in self._made if type(value) is StorageRecord]
        return self._value(root), storages

    def _whole(self, number: int, node: list[Any]) -> object:
        """What cannot be filled later; it refers to nothing of its kind that comes after it."""
        kind, *content = node
        if kind == "tensor":
            storage, dtype, offset, size, stride, requires_grad, is_parameter = content
            made = tensor_record(self._made[_number(storage)], dtype, offset, size, stride)
            flags = {"requires_grad": requires_grad, "is_parameter": is_parameter}
            return _flagged(made, **flags)
        if kind not in ("tuple", "frozenset"):
            _malformed()
        values = []
        for member in content:
            if type(member) is int and not (member < number or self._nodes[member][0] in _SHELLS):
                _malformed()
            values.append(self._value(member))
        return tuple(values) if kind == "tuple" else frozenset(values)

    def _fill(self, made: Any, node: list[Any]) -> None:
        kind, *content = node
        if kind == "list":
            made.extend(self._value(member) for member in content)
        elif kind == "set":
            made.update(self._value(member) for member in content)
        elif kind in ("dict", "ordered"):
            made.update(self._pairs(content))
        elif kind == "instance":
            made.state.update(self._pairs(content[2:]))
        elif kind == "partial":
            made.function, made.arguments, made.keywords = map(self._value, content)
            if type(made.function) is not Named or type(made.arguments) is not tuple:
                _malformed()
            if type(made.keywords) is not dict:
                _malformed()

    def _pairs(self, content: list[Any]) -> Iterator[tuple[Any, Any]]:
        if len(content) % 2:
            _malformed()
        values = [self._value(member) for member in content]
        return zip(values[::2], values[1::2], strict=True)

    def _value(self, reference: object) -> Any:
        if type(reference) is int:
            return self._made[_number(reference)]
        if type(reference) is not list or not reference:
            _malformed()
        if len(reference) == 2:
            kind, text = reference
            return float(_text(text)) if kind == "float" else bytes.fromhex(_text(text))
        (value,) = reference
        if type(value) not in (*_SCALARS, float):
            _malformed()
        return value


def _storage(node: list[Any]) -> StorageRecord:
    _, key, dtype, numel = node
    if dtype is not None and dtype not in ITEM_SIZES:
        _malformed()
    return StorageRecord(_text(key), dtype, _number(numel))


def _instance(node: list[Any]) -> Instance:
    if type(node[2]) is not bool:
        _malformed()
    return Instance(_text(node[1]), built=node[2])


#: What exists before its members do, and how it is made.
_SHELLS: dict[str, Callable[[list[Any]], object]] = {
    "named": lambda node: Named(_text(node[1])),
    "opaque": lambda node: Opaque(_text(node[1])),
    "storage": _storage,
    "instance": _instance,
    "partial": lambda node: Partial(Named("")),
    "list": lambda node: [],
    "set": lambda node: set(),
    "dict": lambda node: {},
    "ordered": lambda node: OrderedDict(),
}


def _flagged(made: TensorRecord, *, requires_grad: object, is_parameter: object) -> TensorRecord:
    if type(requires_grad) is not bool or type(is_parameter) is not bool:
        _malformed()
    return TensorRecord(
        made.storage, made.dtype, made.offset, made.size, made.stride, requires_grad, is_parameter
    )


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        _malformed()
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        _malformed()
    return value


def _malformed() -> NoReturn:
    raise RefusedFile("what was read of the file is malformed")
