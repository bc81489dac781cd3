"""What a pickle describes, as plain records: nothing here can be called and nothing is imported.

The parser of :mod:`moth_eval.loading.inert_pickle` builds these; later steps decide what, if
anything, they become. Built-in containers, strings and numbers stand for themselves.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field

from ..errors import RefusedFile
from ..text import visible
from .naming import shown

#: Bytes per element of every dtype that may be stored, by torch's name for it.
ITEM_SIZES = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

#: Storage classes that a file may name; None marks raw bytes without a dtype.
STORAGE_DTYPES: dict[str, str | None] = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.UntypedStorage": None,
    "torch.storage.UntypedStorage": None,
}

#: The only members of Python's standard library that a weights file has reason to name.
HARMLESS_STANDARD_NAMES = frozenset(
    {
        "_codecs.encode",
        "argparse.Namespace",
        "builtins.frozenset",
        "builtins.object",
        "builtins.dict",
        "builtins.float",
        "builtins.int",
        "builtins.list",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "copyreg._reconstructor",
        "functools.partial",
        "types.SimpleNamespace",
    }
)

PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}

LARGEST_EXTENT = 1 << 40
MOST_DIMENSIONS = 8
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that the file names, by its dotted name."""

    name: str


@dataclass(slots=True, eq=False)
class Instance:
    """An object of the class called `name`; `state` is what would become its `__dict__`."""

    name: str
    state: dict[str, object] = field(default_factory=dict)
    built: bool = False


@dataclass(slots=True, eq=False)
class Partial:
    """A `functools.partial` of a named function or class."""

    function: Named
    arguments: tuple[object, ...] = ()
    keywords: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Opaque:
    """A value that no step needs, such as a numpy scalar beside the weights."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class StorageRecord:
    """A run of bytes in the file: `numel` elements of `dtype`, or bytes where dtype is None."""

    key: str
    dtype: str | None
    numel: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * (1 if self.dtype is None else ITEM_SIZES[self.dtype])


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A strided view of a storage, checked to lie inside it; offset and strides in elements."""

    storage: StorageRecord
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    is_parameter: bool = False

    @property
    def numel(self) -> int:
        """Number of elements of the view."""
        return math.prod(self.size)


def named(module: str, name: str) -> Named:
    """A record of the class or function `module.name`; imports nothing.

    Raises:
        RefusedFile: the name belongs to Python itself and has no place in a weights file, or it
            is not one that can be shown.
    """
    module = PYTHON_2_MODULES.get(module, module)
    full = f"{module}.{name}"
    if len(full) > LONGEST_NAME or visible(full) != full:
        raise RefusedFile(
            f"the pickle inside names a class by something that is no name: {shown(full)}"
        )
    if module.partition(".")[0] in sys.stdlib_module_names and full not in HARMLESS_STANDARD_NAMES:
        raise RefusedFile(
            f"the pickle inside names {full}, which weights never need and attacks do; "
            "nothing was run. Ask the author for a state dict in safetensors"
        )
    return Named(full)


def tensor_record(
    storage: object, dtype: str | None, offset: object, size: object, stride: object
) -> TensorRecord:
    """A tensor whose geometry is known to lie inside `storage`.

    Raises:
        RefusedFile: the numbers are of the wrong kind or reach outside the storage.
    """
    if type(storage) is not StorageRecord:
        raise RefusedFile("a tensor in the pickle does not refer to a storage")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise RefusedFile("a tensor over raw bytes names no dtype")
    shape, steps = _extents(size), _extents(stride)
    if len(shape) != len(steps) or type(offset) is not int or not 0 <= offset <= LARGEST_EXTENT:
        raise RefusedFile("a tensor's size, stride and offset do not belong together")
    capacity = storage.nbytes // ITEM_SIZES[dtype]
    empty = 0 in shape
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if not empty and last >= capacity:
        raise RefusedFile(
            f"a tensor of shape {shape} at offset {offset} reaches outside its storage of "
            f"{capacity} elements"
        )
    if math.prod(shape) > capacity:
        raise RefusedFile(
            f"a tensor of shape {shape} repeats a storage of only {capacity} elements; it would "
            "grow without bound when copied"
        )
    return TensorRecord(storage, dtype, offset, shape, steps)


def _extents(value: object) -> tuple[int, ...]:
    if type(value) not in (tuple, list):
        raise RefusedFile("a tensor's size or stride is not a sequence of numbers")
    assert isinstance(value, (tuple, list))  # noqa: S101 - tells mypy what the line above says
    if len(value) > MOST_DIMENSIONS:
        raise RefusedFile(
            f"a tensor has {len(value)} dimensions, at most {MOST_DIMENSIONS} are read"
        )
    if any(type(n) is not int or not 0 <= n <= LARGEST_EXTENT for n in value):
        raise RefusedFile("a tensor's size or stride is not made of plausible whole numbers")
    return tuple(value)
