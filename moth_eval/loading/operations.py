"""What an operation of a network costs, known from shapes alone."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_ATEN = torch.ops.aten

#: Operations that look at a whole window of their input for each number that they put out, and
#: the dimensions of the window, whose size is their second argument.
_WINDOWS = {
    _ATEN.avg_pool2d: 2,
    _ATEN.avg_pool3d: 3,
    _ATEN.max_pool2d_with_indices: 2,
    _ATEN.max_pool3d_with_indices: 3,
    _ATEN.fractional_max_pool2d: 2,
    _ATEN.fractional_max_pool3d: 3,
}


def numbers_of(args: Any, kwargs: dict[str, Any], outputs: object) -> int:
    """Numbers that an operation reads or writes, whichever are more."""
    return max(_count((args, kwargs)), _count(outputs))


def steps_of(func: Any, args: Any, kwargs: dict[str, Any], outputs: object) -> int:
    """Numbers that an operation reads, writes, or multiplies and adds, whichever are most.

    Args:
        func: the operation.
        args: what it is called with.
        kwargs: the same by name.
        outputs: what it puts out, or their shapes.
    """
    packet, most = func._overloadpacket, numbers_of(args, kwargs, outputs)
    if packet in flop_registry:
        return max(most, int(flop_registry[packet](*args, **kwargs, out_val=outputs)) // 2)
    if packet in _WINDOWS:
        return max(most, _count(outputs) * _window(args[1], _WINDOWS[packet]))
    if packet is _ATEN._trilinear:
        return max(most, _count(outputs) * int(args[0].shape[-1]) * int(args[2].shape[-1]))
    return most


def _count(values: object) -> int:
    return sum(value.numel() for value in tree_leaves(values) if isinstance(value, Tensor))


def _window(size: Any, dimensions: int) -> int:
    """Numbers of a window; one size stands for all dimensions."""
    sizes = list(size) if isinstance(size, (list, tuple)) else [size]
    return int(prod(sizes * dimensions if len(sizes) == 1 else sizes))
