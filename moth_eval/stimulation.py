"""Which single channels of a network drive it to one class, whatever the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .hidden_layers import Change, HiddenLayer, OpenNetwork

MOST_PER_LAYER = 3
"""Channels of one layer among the first half of the chosen ones, as published."""

MOST_ASTRAY = 2
"""Images that may be raised to another class than the rest, as published."""


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """A channel that raises one class above all others when it is set to large values.

    Attributes:
        layer: where it is.
        channel: which one.
        target: the class.
        lead: how much more that class rises than the next one (logits), on the image of another
            class on which it leads least.
        peak: the largest value of its layer on clean images.
    """

    layer: HiddenLayer
    channel: int
    target: int
    lead: float
    peak: float


@torch.no_grad()
def raised_classes(
    network: OpenNetwork,
    layer: HiddenLayer,
    images: Tensor,
    values: Tensor,
    *,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """The class that each channel raises most on each image, and by how much more than the next.

    A channel is set as a whole, one channel at a time. A class's rise is the largest over the
    values of its logit, above its logit at the first value.

    Args:
        network: of the layer.
        layer: whose channels are set.
        images: `(N, C, H, W)` in `[0, 1]`.
        values: `(V,)`, what the channels are set to; the first is what rises are measured from.
        noise: images to find out with whether a pass can be widened at the layer.

    Returns:
        int64 `(N, channels)` and float32 `(N, channels)` (logits).
    """
    wide = network.widens(layer, noise)
    each = max(1, network.images_per_pass // len(values))
    classes, leads = [], []
    for image in images:
        rises = [
            _rises(network, layer, image[None], channels, values, wide=wide)
            for channels in torch.split(torch.arange(layer.channels, device=network.device), each)
        ]
        best = torch.cat(rises).topk(2, dim=1)
        classes.append(best.indices[:, 0])
        leads.append(best.values[:, 0] - best.values[:, 1])
    return torch.stack(classes), torch.stack(leads)


def _rises(
    network: OpenNetwork,
    layer: HiddenLayer,
    image: Tensor,
    channels: Tensor,
    values: Tensor,
    *,
    wide: bool,
) -> Tensor:
    """How far each class rises `(channels, K)` for one image `(1, C, H, W)`."""
    which = channels.repeat_interleave(len(values))
    change = _setting(layer, which, values.repeat(len(channels)))
    given = image if wide else image.repeat(len(which), 1, 1, 1)
    logits = network.changed(given, layer.name, change).view(len(channels), len(values), -1)
    return (logits[:, 1:] - logits[:, :1]).amax(1)


def _setting(layer: HiddenLayer, channels: Tensor, values: Tensor) -> Change:
    """Row i with its channel `channels[i]` set to `values[i]` everywhere."""

    def change(output: Tensor) -> Tensor:
        rows = output.expand(len(channels), *output.shape[1:]).clone()
        maps = rows.movedim(layer.channel_axis, 1)
        everywhere = values.to(rows.dtype).view(-1, *([1] * (maps.ndim - 2)))
        maps[torch.arange(len(channels), device=rows.device), channels] = everywhere
        return rows

    return change


def agreeing(
    layer: HiddenLayer, classes: Tensor, leads: Tensor, labels: Tensor, peak: float
) -> list[Neuron]:
    """The channels that raise one class on all images but `MOST_ASTRAY`, an eighth at most.

    Images of that class say nothing: their lead is not looked at.

    Args:
        layer: of the channels.
        classes: raised most, int64 `(N, channels)`.
        leads: over the next class, `(N, channels)` (logits).
        labels: true classes of the images, int64 `(N,)`.
        peak: largest value of the layer on clean images.
    """
    target = classes.mode(dim=0).values
    agree = classes == target
    astray = min(MOST_ASTRAY, len(labels) // 8)
    counted = agree & (labels[:, None] != target)
    enough = (agree.sum(0) >= len(labels) - astray) & counted.any(0)
    lead = leads.masked_fill(~counted, torch.inf).amin(0)
    return [
        Neuron(
            layer=layer,
            channel=channel,
            target=int(target[channel]),
            lead=float(lead[channel]),
            peak=peak,
        )
        for channel in enough.nonzero().flatten().tolist()
    ]


def strongest(neurons: Sequence[Neuron], most: int) -> list[Neuron]:
    """At most `most` neurons, the largest lead first.

    Half of the places go to at most three neurons of any layer, the rest to whoever leads most.
    """
    ordered = sorted(neurons, key=lambda n: (-n.lead, n.layer.depth, n.layer.name, n.channel))
    spread: list[Neuron] = []
    for neuron in ordered:
        same = sum(other.layer.name == neuron.layer.name for other in spread)
        if same < MOST_PER_LAYER and 2 * len(spread) < most:
            spread.append(neuron)
    rest = [neuron for neuron in ordered if neuron not in spread]
    chosen = [*spread, *rest[: most - len(spread)]]
    return sorted(chosen, key=ordered.index)
