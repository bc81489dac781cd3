"""Layers whose code in C++ believes their attributes: these are held against their weights here."""

from __future__ import annotations

from itertools import chain
from typing import Any

from torch import Tensor, nn

from ..errors import RefusedFile
from .naming import shown

#: Gates of a recurrent layer, whose weights lie on top of each other.
_GATES: dict[type[nn.Module], int] = {
    nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4, nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4,
}  # fmt: skip
LARGEST = 1 << 24
#: Layers that a shortcut of torch's runs as a whole, past the checks of their parts.
SHORTCUTS = "torch.nn.modules.transformer."

Shapes = dict[str, tuple[int, ...]]


def require_true(layer: nn.Module) -> None:
    """Refuses a layer whose attributes claim other shapes than its weights have.

    torch reads the weights of recurrent layers and of attention as large as the attributes say,
    without looking, and divides by the number of heads: a process would read past its memory, or
    end.

    Args:
        layer: of whatever kind; those that look themselves are left alone.

    Raises:
        RefusedFile: names the layer and what does not fit.
    """
    kind = type(layer)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        _require_known(layer)
        claimed = _recurrent(layer) if isinstance(layer, nn.RNNBase) else _cell(layer)
    elif isinstance(layer, nn.MultiheadAttention):
        claimed = _attention(layer)
    else:
        return
    held = {name: p for name, p in layer.named_parameters() if p is not None}
    for name in claimed | held:
        found, shape = held.get(name), claimed.get(name)
        if found is None or shape is None or tuple(found.shape) != shape or _odd(found):
            was = "none" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
            raise RefusedFile(
                f"the {kind.__name__} in the file claims to have {shown(name)} of shape {shape}, "
                f"and there is {was}; save the network anew, or its state dict"
            )


def _odd(weights: Tensor) -> bool:
    return not weights.is_floating_point()


def _require_known(layer: nn.Module) -> None:
    if type(layer) not in _GATES:
        raise RefusedFile(
            f"the network in the file holds a {type(layer).__name__}, which only its kinds use"
        )


def _recurrent(layer: nn.RNNBase) -> Shapes:
    inputs, hidden, layers = (_size(layer, n) for n in ("input_size", "hidden_size", "num_layers"))
    projected = _size(layer, "proj_size", least=0)
    biased, both = _switch(layer, "bias"), _switch(layer, "bidirectional")
    each = 2 + 2 * biased + bool(projected)
    if layers * (1 + both) * each != len(list(layer.named_parameters())):
        raise RefusedFile(
            f"the {type(layer).__name__} in the file claims {layers:,} layers, which have other "
            "weights than are there; save the network anew, or its state dict"
        )
    gates, out, shapes = _GATES[type(layer)] * hidden, projected or hidden, Shapes()
    for number in range(layers):
        width = inputs if number == 0 else out * (1 + both)
        for suffix in ("", "_reverse")[: 1 + both]:
            end = f"l{number}{suffix}"
            shapes |= {f"weight_ih_{end}": (gates, width), f"weight_hh_{end}": (gates, out)}
            if biased:
                shapes |= {f"bias_ih_{end}": (gates,), f"bias_hh_{end}": (gates,)}
            if projected:
                shapes[f"weight_hr_{end}"] = (projected, hidden)
    _require_order(layer, list(shapes))
    return shapes


def _require_order(layer: nn.RNNBase, names: list[str]) -> None:
    """The weights are handed over as a list, in this order."""
    flat = [id(weights) for weights in layer._flat_weights]
    listed = list(chain.from_iterable(layer._all_weights))
    own = [id(layer._parameters.get(name)) for name in names]
    if flat != own or layer._flat_weights_names != names or listed != names:
        raise RefusedFile(
            f"the {type(layer).__name__} in the file lists its weights in another order than torch "
            "does; save the network anew, or its state dict"
        )


def _cell(layer: nn.RNNCellBase) -> Shapes:
    inputs, hidden = _size(layer, "input_size"), _size(layer, "hidden_size")
    gates = _GATES[type(layer)] * hidden
    shapes: Shapes = {"weight_ih": (gates, inputs), "weight_hh": (gates, hidden)}
    biased = {"bias_ih": (gates,), "bias_hh": (gates,)} if _switch(layer, "bias") else {}
    return {**shapes, **biased}


def _attention(layer: nn.MultiheadAttention) -> Shapes:
    width, heads, each = (_size(layer, n) for n in ("embed_dim", "num_heads", "head_dim"))
    keys, values = _size(layer, "kdim"), _size(layer, "vdim")
    if heads * each != width:
        raise RefusedFile(
            f"the MultiheadAttention in the file claims {heads:,} heads of {each:,} numbers for "
            f"{width:,}; save the network anew, or its state dict"
        )
    shapes: Shapes = {"out_proj.weight": (width, width)}
    if _switch(layer, "_qkv_same_embed_dim"):
        shapes["in_proj_weight"] = (3 * width, width)
    else:
        parts = {"q": width, "k": keys, "v": values}
        shapes |= {f"{part}_proj_weight": (width, size) for part, size in parts.items()}
    one: Shapes = {"in_proj_bias": (3 * width,), "out_proj.bias": (width,)}
    one |= {"bias_k": (1, 1, width), "bias_v": (1, 1, width)}
    there = dict(layer.named_parameters())
    return {**shapes, **{name: shape for name, shape in one.items() if name in there}}


def require_few_layers(kind: type[nn.Module], state: dict[str, Any]) -> None:
    """Refuses recurrent layers that claim more layers than weights, which torch would count up.

    Args:
        kind: class of the layer that is about to be restored.
        state: what the file says of it.

    Raises:
        RefusedFile: names the class.
    """
    layers, weights = state.get("num_layers"), state.get("_parameters")
    if issubclass(kind, nn.RNNBase) and not (
        type(layers) is int and isinstance(weights, dict) and 1 <= layers <= len(weights)
    ):
        raise RefusedFile(
            f"the {kind.__name__} in the file claims {shown(layers)} layers, which have other "
            "weights than are there; save the network anew, or its state dict"
        )


def _size(layer: nn.Module, name: str, *, least: int = 1) -> int:
    value = vars(layer).get(name)
    if type(value) is not int or not least <= value <= LARGEST:
        raise _unfit(layer, name, f"a whole number from {least} to {LARGEST:,}")
    return value


def _switch(layer: nn.Module, name: str) -> bool:
    value = vars(layer).get(name)
    if type(value) not in (bool, int) or value not in (0, 1):
        raise _unfit(layer, name, "true or false")
    return bool(value)


def _unfit(layer: nn.Module, name: str, wanted: str) -> RefusedFile:
    return RefusedFile(
        f"the {type(layer).__name__} in the file has {name} = {shown(vars(layer).get(name))}, "
        f"expected {wanted}; save the network anew, or its state dict"
    )
