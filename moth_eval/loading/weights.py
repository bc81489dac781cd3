"""Puts a state dict into a network: strictly, or not at all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError
from .naming import shown

#: Prefixes that wrappers put before every name.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
COUNTER = "num_batches_tracked"


def plain_tensor(tensor: Tensor) -> Tensor:
    """A copy that shares nothing, in float32 where it holds real numbers.

    Raises:
        ArchitectureError: it holds numbers that no classifier here computes with.
    """
    if tensor.is_complex():
        raise ArchitectureError("the weights are complex numbers; only real ones are read")
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True).contiguous()


def fill(
    network: nn.Module, state: Mapping[str, Tensor], build: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """The network with the weights of `state`, whose names and shapes are known to fit.

    Args:
        network: on the meta device if `build` is given; its weights are then never allocated.
        state: the weights; counters of old batch normalisations may be missing.
        build: makes the network anew if it has buffers that `state` does not hold.
    """
    template = network.state_dict()
    complete = OrderedDict(
        (key, plain_tensor(state[key]) if key in state else torch.zeros((), dtype=torch.int64))
        for key in template
    )
    # Some networks convert older weights by this; names and shapes already are today's.
    vars(complete)["_metadata"] = getattr(template, "_metadata", {})
    if build is None:
        return _load(network, complete)
    _load(network, complete, assign=True)
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        return _load(build(), complete)
    return network


def _load(network: nn.Module, state: Mapping[str, Tensor], *, assign: bool = False) -> nn.Module:
    try:
        network.load_state_dict(state, strict=True, assign=assign)
    except Exception as error:  # networks may override loading, and then raise what they like
        raise ArchitectureError(
            f"the weights do not fit a {type(network).__name__}: {error}. Give the architecture "
            "that they were trained in with --arch"
        ) from error
    return network


def without_wrapper(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict without the prefix of a parallel or compiled wrapper, and a note on it."""
    notes: tuple[str, ...] = ()
    found = dict(state)
    for prefix in (*WRAPPER_PREFIXES, *WRAPPER_PREFIXES):
        if found and all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
            notes = (*notes, f"{prefix!r} prefix removed")
    return found, notes


def renamed_for(
    network: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """`state` without a first component that all its names share and the network's lack."""
    wanted = {key for key in network.state_dict() if not key.endswith(COUNTER)}
    first = {key.partition(".")[0] for key in state}
    if wanted <= set(state) or len(first) != 1:
        return dict(state), ()
    prefix = f"{first.pop()}."
    shorter = {key.removeprefix(prefix): value for key, value in state.items()}
    if not wanted <= set(shorter):
        return dict(state), ()
    return shorter, (f"{shown(prefix)!r} prefix removed",)


def check_fit(label: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuses weights that do not belong to the network, name by name and shape by shape.

    Raises:
        ArchitectureError: says which are missing, left over, or of another shape.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith(COUNTER)]
    extra = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    wrong = [
        _listed("missing in the file", missing),
        _listed("not in the architecture", extra),
        _listed("of another shape", shapes),
    ]
    if any(wrong):
        raise ArchitectureError(
            f"the weights do not fit the architecture {label}: {'; '.join(filter(None, wrong))}. "
            "Give the architecture that they were trained in with --arch"
        )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"{what}: {', '.join(map(shown, names[:4]))}{more}"
