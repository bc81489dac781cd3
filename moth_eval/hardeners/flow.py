"""What feeds what in a network, found by running it once on a grey image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..subject import Subject

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Key = tuple[int, int]
"""A tensor and its version: work in place makes another value of the same tensor."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One function of torch that made a tensor.

    Attributes:
        number: place in the order of calls.
        name: of the function, such as `conv2d` or `relu`.
        inputs: the tensors that it was given.
        output: the first that it made.
    """

    number: int
    name: str
    inputs: tuple[Key, ...]
    output: Key


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One use of a layer with weights.

    Attributes:
        name: of the module in the network.
        module: a convolution, a BatchNorm or a linear layer of the network that was run.
        entered: the tensor that it was given.
        left: the tensor that it made.
    """

    name: str
    module: nn.Module
    entered: Key
    left: Key


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One run of a network.

    Attributes:
        calls: in order; properties and sizes of tensors are left out.
        layers: in the order in which they were left.
    """

    calls: tuple[Call, ...]
    layers: tuple[Layer, ...]

    def readers(self, key: Key) -> list[Call]:
        """The calls that were given this tensor and did not hand it on as it is."""
        return [call for call in self.calls if key in call.inputs and call.output != key]

    def fed_directly(self, layer: Layer) -> list[Layer]:
        """The layers whose input is the untouched output of this one."""
        return [other for other in self.layers if other.entered == layer.left]

    def uses(self, module: nn.Module) -> int:
        """How often the run came through this module."""
        return sum(layer.module is module for layer in self.layers)


def flow_of(subject: Subject) -> Flow:
    """The run of the subject's network on one grey image, in the mode in which it is."""
    grey = torch.full((1, *subject.image_shape), 0.5, device=subject.examples.images.device)
    kept: list[Tensor] = []
    calls: list[Call] = []

    def saw(name: str, inputs: tuple[Key, ...], made: Tensor) -> None:
        kept.append(made)
        calls.append(Call(number=len(calls), name=name, inputs=inputs, output=_key(made)))

    with torch.no_grad(), _layers_noted(subject.module, kept) as layers, _Watching(saw):
        subject.module(subject.preprocessing(grey))
    return Flow(calls=tuple(calls), layers=tuple(layers))


def values_of(subject: Subject, images: Tensor, number: int) -> Tensor:
    """What the call of this number made of the images `(N, C, H, W)`; the first axis is N."""
    met, found = 0, list[Tensor]()

    def saw(name: str, inputs: tuple[Key, ...], made: Tensor) -> None:
        nonlocal met
        if met == number:
            found.append(made.clone())
        met += 1

    with torch.no_grad(), _Watching(saw):
        # The grey image's preprocessing was watched too, so the numbers agree.
        subject.module(subject.preprocessing(images))
    return found[0]


class _Watching(TorchFunctionMode):
    """Tells of every call that made a tensor."""

    def __init__(self, saw: Callable[[str, tuple[Key, ...], Tensor], None]) -> None:
        self._saw = saw

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        inputs = tuple(_key(t) for t in _tensors((args, tuple((kwargs or {}).values()))))
        result = func(*args, **(kwargs or {}))
        made = next(_tensors(result), None)
        if made is not None:
            self._saw(getattr(func, "__name__", ""), inputs, made)
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _key(tensor: Tensor) -> Key:
    return id(tensor), tensor._version


@contextmanager
def _layers_noted(network: nn.Module, kept: list[Tensor]) -> Iterator[list[Layer]]:
    """Note every use of a layer with weights; nothing of the network changes."""
    layers: list[Layer] = []
    handles = []

    def note(name: str, module: nn.Module) -> None:
        entered: list[Key] = []

        def before(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept.append(inputs[0])
            entered.append(_key(inputs[0]))

        def after(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            kept.append(output)
            layers.append(Layer(name=name, module=module, entered=entered.pop(), left=_key(output)))

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in network.named_modules():
        if isinstance(module, (*BATCH_NORMS, *CONVOLUTIONS, nn.Linear)):
            note(name, module)
    try:
        yield layers
    finally:
        for handle in handles:
            handle.remove()
