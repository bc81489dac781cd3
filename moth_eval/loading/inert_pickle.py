"""A pickle interpreter that builds records and nothing else.

It knows the opcodes that Python's pickler writes at protocols 2 to 5, looks nothing up, imports
nothing and calls nothing: a class is its name, an object its name and state, a tensor a range of
bytes in the file. Work is bounded by a budget of steps, whatever the bytes say.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import NoReturn

from ..errors import RefusedFile
from .inert_calls import answer, plain_members, put
from .inert_tree import STORAGE_DTYPES, Instance, Named, Opaque, Partial, StorageRecord, named
from .naming import shown

MOST_STEPS = 1_000_000
LONGEST_TEXT = 1 << 20
LONGEST_NAME = 512
#: Bytes: the state of a random generator has 128 bits. As keys integers are shorter.
LONGEST_INTEGER = 17

_MAPPINGS = (dict, OrderedDict)


def parse(data: bytes, *, start: int = 0, storages: dict[str, StorageRecord]) -> tuple[object, int]:
    """The object that the pickle at `data[start:]` describes, and the position after its end.

    Args:
        data: the bytes that hold the pickle; what follows its end is not looked at.
        start: where the pickle begins.
        storages: filled with every storage that the pickle refers to, by key.

    Raises:
        RefusedFile: the bytes are not a pickle, or one that does more than describe weights.
    """
    interpreter = _Interpreter(data, start, storages)
    try:
        return interpreter.run(), interpreter.position
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        what = shown(repr(error))
        raise RefusedFile(
            f"the pickle inside is damaged near byte {interpreter.position} ({what}); "
            "copy or download the file again"
        ) from error


class _Interpreter:
    def __init__(self, data: bytes, start: int, storages: dict[str, StorageRecord]) -> None:
        self.data = data
        self.position = start
        self.storages = storages
        self.stack: list[object] = []
        self.marks: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.steps_left = MOST_STEPS

    def run(self) -> object:
        data, handlers = self.data, _OPCODES
        while True:
            code = data[self.position]
            self.position += 1
            self.steps_left -= 1
            if self.steps_left < 0:
                self.charge(0)
            if code == _STOP:
                return self._finish()
            handler = handlers.get(code)
            if handler is None:
                self._unknown(code)
            handler(self)

    def charge(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise RefusedFile(
                f"the pickle inside takes more than {MOST_STEPS:,} steps to read; "
                "no classifier needs that many"
            )

    def _finish(self) -> object:
        if len(self.stack) != 1 or self.marks:
            raise RefusedFile("the pickle inside ends in the middle of an object")
        return self.stack[0]

    def _unknown(self, code: int) -> NoReturn:
        raise RefusedFile(
            f"the pickle inside uses the opcode {bytes([code])!r} at byte {self.position - 1}, "
            "which torch.save never writes"
        )

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise RefusedFile("the pickle inside is cut short; copy or download the file again")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, form: str) -> int:
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value

    def text(self, length: int, encoding: str = "utf-8") -> str:
        if length > LONGEST_TEXT:
            raise RefusedFile(f"the pickle inside holds a text of {length:,} bytes")
        return self.take(length).decode(encoding)

    def line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + LONGEST_NAME)
        if end < 0:
            raise RefusedFile("the pickle inside holds a name without an end")
        value = self.data[self.position : end].decode("utf-8")
        self.position = end + 1
        return value

    def since_mark(self) -> list[object]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def top(self, kinds: tuple[type, ...], action: str) -> object:
        target = self.stack[-1]
        if type(target) not in kinds:
            raise RefusedFile(f"the pickle inside {action} a {type(target).__name__}")
        return target


def _constant(value: object) -> Callable[[_Interpreter], None]:
    return lambda machine: machine.stack.append(value)


def _made(factory: Callable[[], object]) -> Callable[[_Interpreter], None]:
    return lambda machine: machine.stack.append(factory())


def _integer(form: str) -> Callable[[_Interpreter], None]:
    return lambda machine: machine.stack.append(machine.number(form))


def _text(form: str, encoding: str = "utf-8") -> Callable[[_Interpreter], None]:
    return lambda machine: machine.stack.append(machine.text(machine.number(form), encoding))


def _bytes(form: str) -> Callable[[_Interpreter], None]:
    def read(machine: _Interpreter) -> None:
        length = machine.number(form)
        if length > LONGEST_TEXT:
            raise RefusedFile(f"the pickle inside holds {length:,} bytes of unnamed data")
        machine.stack.append(machine.take(length))

    return read


def _store(form: str) -> Callable[[_Interpreter], None]:
    def store(machine: _Interpreter) -> None:
        machine.memo[machine.number(form)] = machine.stack[-1]

    return store


def _fetch(form: str) -> Callable[[_Interpreter], None]:
    return lambda machine: machine.stack.append(machine.memo[machine.number(form)])


def _tuple_of(count: int) -> Callable[[_Interpreter], None]:
    def collect(machine: _Interpreter) -> None:
        if len(machine.stack) < count:
            raise RefusedFile("the pickle inside is damaged: a tuple lacks its members")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return collect


def _ignore(form: str) -> Callable[[_Interpreter], None]:
    def ignore(machine: _Interpreter) -> None:
        machine.number(form)

    return ignore


def _float(machine: _Interpreter) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _long(machine: _Interpreter) -> None:
    length = machine.number("<B")
    if length > LONGEST_INTEGER:
        raise RefusedFile(f"the pickle inside holds an integer of {length} bytes")
    machine.stack.append(int.from_bytes(machine.take(length), "little", signed=True))


def _mark(machine: _Interpreter) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _memoize(machine: _Interpreter) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _tuple(machine: _Interpreter) -> None:
    items = machine.since_mark()
    machine.stack.append(tuple(items))


def _append(machine: _Interpreter) -> None:
    value = machine.stack.pop()
    target = machine.top((list,), "appends to")
    target.append(value)  # type: ignore[attr-defined]


def _appends(machine: _Interpreter) -> None:
    items = machine.since_mark()
    machine.top((list,), "appends to").extend(items)  # type: ignore[attr-defined]


def _add_items(machine: _Interpreter) -> None:
    items = machine.since_mark()
    machine.top((set,), "adds to").update(plain_members(items))  # type: ignore[attr-defined]


def _set_item(machine: _Interpreter) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    target = machine.top(_MAPPINGS, "sets an item of")
    put(target, key, value)  # type: ignore[arg-type]


def _set_items(machine: _Interpreter) -> None:
    items = machine.since_mark()
    target = machine.top(_MAPPINGS, "sets items of")
    if len(items) % 2:
        raise RefusedFile("the pickle inside is damaged: a dictionary key has no value")
    for index in range(0, len(items), 2):
        put(target, items[index], items[index + 1])  # type: ignore[arg-type]


def _global(machine: _Interpreter) -> None:
    module = machine.line()
    machine.stack.append(named(module, machine.line()))


def _stack_global(machine: _Interpreter) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    if (
        not isinstance(name, str)
        or not isinstance(module, str)
        or len(name + module) > LONGEST_NAME
    ):
        raise RefusedFile("the pickle inside names a class by something that is no name")
    machine.stack.append(named(module, name))


def _reduce(machine: _Interpreter) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(answer(function, arguments, machine.charge))


def _new_object(machine: _Interpreter) -> None:
    arguments, kind = machine.stack.pop(), machine.stack.pop()
    if type(kind) is not Named or type(arguments) is not tuple or arguments:
        raise RefusedFile("the pickle inside makes an object with arguments of its own")
    machine.stack.append(Instance(kind.name))


def _build(machine: _Interpreter) -> None:
    state, target = machine.stack.pop(), machine.stack[-1]
    if type(target) is Instance:
        machine.charge(len(state) if isinstance(state, dict) else 0)
        _build_instance(target, state)
    elif type(target) is Partial:
        _build_partial(target, state)
    elif type(target) is OrderedDict:
        _build_ordered_dict(state)
    elif type(target) is not Opaque:
        raise RefusedFile(f"the pickle inside sets the state of a {type(target).__name__}")


def _build_instance(target: Instance, state: object) -> None:
    if type(state) is not dict or target.built or any(type(key) is not str for key in state):
        raise RefusedFile(
            f"the state of the {target.name} in the pickle is not one set of attributes"
        )
    # A copy, as torch makes one: the pickle may go on changing the dictionary.
    target.state = dict(state)
    target.built = True


def _build_ordered_dict(state: object) -> None:
    """A state dict carries the versions of its layers; any other attribute could hide its own."""
    if state is not None and (type(state) is not dict or set(state) - {"_metadata"}):
        raise RefusedFile("an ordered dictionary in the pickle has attributes of its own")


def _build_partial(target: Partial, state: object) -> None:
    if type(state) is not tuple or len(state) != 4 or type(state[0]) is not Named:
        raise RefusedFile("a partial function in the pickle has a state that is not its own")
    function, arguments, keywords, _ = state
    if type(arguments) is not tuple or type(keywords or {}) is not dict:
        raise RefusedFile("a partial function in the pickle has a state that is not its own")
    target.function, target.arguments, target.keywords = function, arguments, keywords or {}


def _persistent(machine: _Interpreter) -> None:
    record = machine.stack.pop()
    if type(record) is not tuple or not record:
        raise RefusedFile("the pickle inside refers to outside data that is not a storage")
    if record[0] == "module" and len(record) == 4 and type(record[1]) is Named:
        # The oldest format stores the source text of each class beside its name; only the name
        # is kept.
        machine.stack.append(record[1])
    else:
        machine.stack.append(_storage(record, machine.storages))


def _storage(record: tuple[object, ...], storages: dict[str, StorageRecord]) -> StorageRecord:
    if record[0] != "storage" or len(record) not in (5, 6):
        raise RefusedFile("the pickle inside refers to outside data that is not a storage")
    kind, key, _, numel = record[1:5]
    if type(kind) is not Named or kind.name not in STORAGE_DTYPES:
        name = getattr(kind, "name", type(kind).__name__)
        raise RefusedFile(f"the pickle inside has a storage of the kind {name!r}")
    if type(key) is not str or type(numel) is not int or numel < 0:
        raise RefusedFile("a storage in the pickle has no plausible name or length")
    if len(record) == 6 and record[5] is not None:
        raise RefusedFile("a storage in the pickle is a view of another; save the model anew")
    found = StorageRecord(key, STORAGE_DTYPES[kind.name], numel)
    known = storages.setdefault(key, found)
    if (known.dtype, known.numel) != (found.dtype, found.numel):
        raise RefusedFile(f"the pickle inside describes the storage {shown(key)!r} in two ways")
    return known


_STOP = ord(".")

_OPCODES: dict[int, Callable[[_Interpreter], None]] = {
    0x80: _ignore("<B"),  # PROTO
    0x95: _ignore("<Q"),  # FRAME
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("J"): _integer("<i"),
    ord("K"): _integer("<B"),
    ord("M"): _integer("<H"),
    0x8A: _long,
    ord("G"): _float,
    ord("X"): _text("<I"),
    0x8C: _text("<B"),
    0x8D: _text("<Q"),
    ord("U"): _text("<B", "latin-1"),
    ord("T"): _text("<I", "latin-1"),
    ord("B"): _bytes("<I"),
    ord("C"): _bytes("<B"),
    0x8E: _bytes("<Q"),
    ord("]"): _made(list),
    ord("}"): _made(dict),
    0x8F: _made(set),
    ord(")"): _constant(()),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("("): _mark,
    ord("t"): _tuple,
    ord("a"): _append,
    ord("e"): _appends,
    0x90: _add_items,
    ord("s"): _set_item,
    ord("u"): _set_items,
    ord("q"): _store("<B"),
    ord("r"): _store("<I"),
    0x94: _memoize,
    ord("h"): _fetch("<B"),
    ord("j"): _fetch("<I"),
    ord("c"): _global,
    0x93: _stack_global,
    ord("R"): _reduce,
    0x81: _new_object,
    ord("b"): _build,
    ord("Q"): _persistent,
}
