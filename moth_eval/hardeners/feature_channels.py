"""The last features of a network, by channel: where they are, how active, and how to silence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..subject import Subject
from .flow import BATCH_NORMS, CONVOLUTIONS, Call, Flow, Key, Layer, flow_of, values_of

# fmt: off
ACTIVATIONS = frozenset((
        "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "selu_",
        "celu", "celu_", "gelu", "silu", "mish", "hardswish", "hardtanh", "tanh", "tanh_",
        "softsign", "softshrink", "hardshrink", "prelu", "rrelu",
))
"""Functions that answer zero with zero, pixel by pixel."""

TRANSPARENT = ACTIVATIONS | frozenset((
        "dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
        "alpha_dropout", "max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d",
        "_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
        "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
        "adaptive_max_pool2d", "adaptive_max_pool3d", "_adaptive_max_pool2d", "boolean_dispatch",
        "fn", "mean", "flatten", "view", "reshape", "squeeze", "contiguous", "permute",
        "transpose",
))
"""Functions behind which a channel of zeros is still nothing but zeros."""
# fmt: on


@dataclass(frozen=True, kw_only=True)
class FeatureChannels:
    """Channels that can be silenced exactly, by plain weights.

    Attributes:
        layer: name of the module whose weights silence them.
        inputs: whether its columns do, being what reads them; else its rows, what makes them.
        count: how many there are.
        seen: number of the call behind which they are as active as what reads them sees them;
            None: they are the layer's input.
    """

    layer: str
    inputs: bool
    count: int
    seen: int | None = None

    @torch.no_grad()
    def silence(self, network: nn.Module, channels: Tensor) -> None:
        """Make the channels, int64 `(M,)`, of a network of the same kind zero for every image."""
        module = network.get_submodule(self.layer)
        weight = module.get_parameter("weight")
        rows = channels.to(weight.device)
        if self.inputs:
            weight[:, rows] = 0
            return
        for parameter in module.parameters(recurse=False):
            parameter[rows] = 0

    @torch.no_grad()
    def activity(self, subject: Subject, images: Tensor, *, at_once: int = 64) -> Tensor:
        """Mean activation of each channel, float64 `(count,)`, over images and pixels.

        Args:
            subject: whose network is run, in eval mode.
            images: as they are, without augmentation.
            at_once: images per pass.
        """
        total = torch.zeros(self.count, dtype=torch.float64)
        for part in torch.split(images, at_once):
            values = self._values(subject, part).double()
            axis = values.ndim - 1 if self._is_linear(subject) else 1
            others = [k for k in range(values.ndim) if k != axis]
            total += len(part) * values.mean(others).cpu()
        return total / len(images)

    def _values(self, subject: Subject, images: Tensor) -> Tensor:
        if self.seen is not None:
            return values_of(subject, images, self.seen)
        found: list[Tensor] = []
        head = subject.module.get_submodule(self.layer)
        handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone()))
        try:
            subject.module(subject.preprocessing(images))
        finally:
            handle.remove()
        return found[0]

    def _is_linear(self, subject: Subject) -> bool:
        return isinstance(subject.module.get_submodule(self.layer), nn.Linear)


def last_features(subject: Subject) -> FeatureChannels | str:
    """The channels of the last convolution, or what the last layer reads; or why there are none.

    The convolution's own channels are taken where nothing goes round them on the way to the next
    layer: behind its BatchNorm, if that follows directly, else at its output. A shortcut beside
    them, or a BatchNorm that turns zeros into something else, leaves the inputs of the last layer.
    """
    flow = flow_of(subject)
    heads = [layer for layer in flow.layers if not isinstance(layer.module, BATCH_NORMS)]
    if not heads:
        return "no convolution or linear layer was met when the network was run"
    head = heads[-1]
    earlier = [layer for layer in heads[:-1] if isinstance(layer.module, CONVOLUTIONS)]
    own = _own_channels(flow, earlier[-1]) if earlier else None
    if own is not None:
        return own
    if _is_plain(flow, head) and getattr(head.module, "groups", 1) == 1:
        count = head.module.get_parameter("weight").shape[1]
        return FeatureChannels(layer=head.name, inputs=True, count=count)
    return (
        f"neither the last convolution nor the inputs of the last layer, {head.name!r}, can be "
        "silenced exactly: its weights are shared, computed or grouped"
    )


def _own_channels(flow: Flow, convolution: Layer) -> FeatureChannels | None:
    """The channels of a convolution; None where its weights alone do not silence them."""
    norms = [
        layer for layer in flow.fed_directly(convolution) if isinstance(layer.module, BATCH_NORMS)
    ]
    maker = norms[0] if norms else convolution
    if not _is_plain(flow, maker):
        return None
    way = _way(flow, maker.left)
    if way is None:
        return None
    made = next(call for call in flow.calls if call.output == maker.left)
    active = [call for call in way if call.name in ACTIVATIONS]
    return FeatureChannels(
        layer=maker.name,
        inputs=False,
        count=len(maker.module.get_parameter("weight")),
        seen=(active[-1] if active else made).number,
    )


def _way(flow: Flow, key: Key) -> list[Call] | None:
    """The calls from a tensor to the next layer with weights; None if something goes round them."""
    way: list[Call] = []
    while True:
        readers = flow.readers(key)
        if len(readers) != 1:
            return None
        if readers[0].name in ("linear", "conv1d", "conv2d", "conv3d"):
            return way
        if readers[0].name not in TRANSPARENT:
            return None
        way.append(readers[0])
        key = readers[0].output


def _is_plain(flow: Flow, layer: Layer) -> bool:
    """Whether the layer is used once and its weights are parameters of its own."""
    own = dict(layer.module.named_parameters(recurse=False))
    return "weight" in own and not list(layer.module.children()) and flow.uses(layer.module) == 1
