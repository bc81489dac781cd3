"""Which single channels of a network drive it to one class, whatever the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .choosing import spread
from .hidden_layers import Change, HiddenLayer, OpenNetwork
from .seeds import generator_for

MOST_PER_LAYER = 3
"""Channels of one layer among the first half of the chosen ones, as published."""

MOST_ASTRAY = 2
"""Images that may be raised to another class than the rest, as published."""

UNSEEN = -1
"""In place of a class: the channel was not set on the image."""

AHEAD = 4
"""Times as many channels as are wanted are set on all images before it is asked again."""


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
def suspicious(
    network: OpenNetwork,
    layers: Sequence[HiddenLayer],
    images: Tensor,
    labels: Tensor,
    *,
    levels: int,
    reach: float,
    most: int,
    noise: Tensor,
) -> list[Neuron]:
    """The `strongest` channels of these layers, the largest lead first.

    All channels are set on a few images of different classes, and the others only where a channel
    may still be chosen: an image more never makes a lead larger, nor a channel agree that did not.
    What is chosen is what setting all channels on all images would choose.

    Args:
        network: of the layers.
        layers: whose channels are set, as `OpenNetwork.stimulable` gives them.
        images: `(N, C, H, W)` in `[0, 1]`.
        labels: their classes, int64 `(N,)`.
        levels: values that a channel is set to, the first of them 0.
        reach: in units of the layer's largest clean value, what the values are fractions of.
        most: neurons at most.
        noise: images to find out with where a pass can be widened.
    """
    looks = []
    passed = network.layers()
    for layer in layers:
        values = network.features(layer.name, images)
        peak = float(values.max()) if float(values.max()) > 0 else float(values.abs().max())
        if peak and math.isfinite(peak):
            heights = peak * reach * torch.arange(levels, device=network.device) / levels
            widened = network.widening(layer, passed, noise)
            looks.append(_Look(network, layer, widened, images, labels, heights, peak))
    few = min(len(labels), 2 * _astray(len(labels)) + 1)
    at_first = spread(labels, few, generator_for("images to stimulate on first"))
    for look in looks:
        look.take(at_first, torch.arange(look.layer.channels))
    while True:
        neurons = [neuron for look in looks for neuron in look.neurons()]
        chosen = strongest(neurons, most)
        if not any(len(look.open(chosen)) for look in looks):
            return chosen
        # Those next in line are looked at as well: one by one would take many rounds.
        line = strongest(neurons, AHEAD * most)
        for look in looks:
            look.complete(look.open(line))


class _Look:
    """What is known of the channels of one layer."""

    def __init__(
        self,
        network: OpenNetwork,
        layer: HiddenLayer,
        widened: HiddenLayer | None,
        images: Tensor,
        labels: Tensor,
        values: Tensor,
        peak: float,
    ) -> None:
        self.layer = layer
        self._network, self._widened, self._images = network, widened, images
        self._labels, self._values, self._peak = labels, values, peak
        self._classes = torch.full((len(labels), layer.channels), UNSEEN)
        self._leads = torch.full((len(labels), layer.channels), torch.inf)

    def take(self, rows: Tensor, channels: Tensor) -> None:
        """Set these channels, one at a time, on these images."""
        classes, leads = raised_classes(
            self._network, self.layer, self._images[rows.to(self._images.device)], self._values,
            channels=channels.to(self._images.device), widened=self._widened,
        )  # fmt: skip
        self._classes[rows[:, None], channels] = classes.cpu()
        self._leads[rows[:, None], channels] = leads.cpu()

    def neurons(self) -> list[Neuron]:
        """The channels that may agree, with the most that they may lead by."""
        return agreeing(self.layer, self._classes, self._leads, self._labels, self._peak)

    def open(self, neurons: Sequence[Neuron]) -> Tensor:
        """The channels of these neurons that were not set on all images, int64."""
        mine = torch.tensor(
            [n.channel for n in neurons if n.layer.name == self.layer.name], dtype=torch.int64
        )
        return mine[(self._classes[:, mine] == UNSEEN).any(0)]

    def complete(self, channels: Tensor) -> None:
        """Set these channels, of which all were set on the same images, on the other ones."""
        if len(channels):
            self.take((self._classes[:, channels[0]] == UNSEEN).nonzero().flatten(), channels)


@torch.no_grad()
def raised_classes(
    network: OpenNetwork,
    layer: HiddenLayer,
    images: Tensor,
    values: Tensor,
    *,
    channels: Tensor,
    widened: HiddenLayer | None,
) -> tuple[Tensor, Tensor]:
    """The class that each channel raises most on each image, and by how much more than the next.

    A channel is set as a whole, one channel at a time. A class's rise is the largest over the
    values of its logit, above its logit at the first value.

    Args:
        network: of the layer.
        layer: whose channels are set.
        images: `(N, C, H, W)` in `[0, 1]`.
        values: `(V,)`, what the channels are set to; the first is what rises are measured from.
        channels: int64 `(M,)`, which ones.
        widened: the layer behind which one image becomes several, see `OpenNetwork.widening`.

    Returns:
        int64 `(N, M)` and float32 `(N, M)` (logits).
    """
    each = max(1, network.images_per_pass // len(values))
    classes, leads = [], []
    for image in images:
        rises = [
            _rises(network, layer, image[None], part, values, widened)
            for part in torch.split(channels, each)
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
    widened: HiddenLayer | None,
) -> Tensor:
    """How far each class rises `(channels, K)` for one image `(1, C, H, W)`."""
    which = channels.repeat_interleave(len(values))
    changes = [(layer.name, _setting(layer, which, values.repeat(len(channels))))]
    if widened is None:
        image = _repeated(image, times=len(which))
    elif widened.name != layer.name:  # else setting the channels makes the rows
        changes.insert(0, (widened.name, partial(_repeated, times=len(which))))
    logits = network.changed(image, *changes).view(len(channels), len(values), -1)
    return (logits[:, 1:] - logits[:, :1]).amax(1)


def _repeated(output: Tensor, times: int) -> Tensor:
    """One row, several times. A copy: what follows may work in place."""
    return output.expand(times, *output.shape[1:]).clone()


def _setting(layer: HiddenLayer, channels: Tensor, values: Tensor) -> Change:
    """Row i with its channel `channels[i]` set to `values[i]` everywhere."""

    def change(output: Tensor) -> Tensor:
        rows = _repeated(output, len(channels))
        maps = rows.movedim(layer.channel_axis, 1)
        everywhere = values.to(rows.dtype).view(-1, *([1] * (maps.ndim - 2)))
        maps[torch.arange(len(channels), device=rows.device), channels] = everywhere
        return rows

    return change


def agreeing(
    layer: HiddenLayer, classes: Tensor, leads: Tensor, labels: Tensor, peak: float
) -> list[Neuron]:
    """The channels that raise one class on all images but `MOST_ASTRAY`, an eighth at most.

    Images of that class say nothing: their lead is not looked at. A channel that was not set on all
    images is among them if it may still agree, with the lead that it has so far, infinite without
    any.

    Args:
        layer: of the channels.
        classes: raised most, int64 `(N, channels)`, `UNSEEN` where a channel was not set.
        leads: over the next class, `(N, channels)` (logits).
        labels: true classes of the images, int64 `(N,)`.
        peak: largest value of the layer on clean images.
    """
    seen = classes != UNSEEN
    target = F.one_hot(classes - UNSEEN).sum(0)[:, 1:].argmax(1)
    agree = seen & (classes == target)
    counted = agree & (labels[:, None] != target)
    may_agree = (agree | ~seen).sum(0) >= len(labels) - _astray(len(labels))
    enough = may_agree & (counted | ~seen).any(0)
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


def _astray(images: int) -> int:
    """Of so many images, how many may be raised to another class."""
    return min(MOST_ASTRAY, images // 8)


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
