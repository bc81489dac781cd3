"""Whether a trigger works through what tells two classes apart anyway."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from .hidden_layers import HiddenLayer, OpenNetwork

ENOUGH = 0.9
"""Share of exchanges that has to succeed before the mask is squeezed (ours)."""


def telling_channels(
    network: OpenNetwork,
    layer: HiddenLayer,
    ones: Tensor,
    others: Tensor,
    classes: tuple[Tensor, Tensor],
    *,
    steps: int,
    learning_rate: float,
) -> Tensor:
    """The few channels whose exchange turns each of two sets into the other: `(channels,)`.

    A mask in `[0, 1]`, as small as the exchange allows: with the masked channels of the others,
    the ones are classified as the others are, and the other way round.

    Source: Liu et al., "Complex Backdoor Detection by Symmetric Feature Differencing", CVPR 2022.

    Args:
        network: of the layer.
        layer: that all goes through.
        ones: its values for N images, `(N, ...)`.
        others: its values for N other images, `(N, ...)`.
        classes: what the ones and the others are classified as, int64 `(N,)` each.
        steps: of Adam.
        learning_rate: of Adam.
    """
    shape = [1] * ones.ndim
    shape[layer.channel_axis] = layer.channels
    raw = torch.zeros(layer.channels, device=network.device, requires_grad=True)
    adam = torch.optim.Adam([raw], lr=learning_rate)
    wanted = torch.cat([classes[1], classes[0]])
    with torch.enable_grad():
        for _ in range(steps):
            mask = raw.sigmoid().view(shape)
            swapped = torch.cat([torch.lerp(ones, others, mask), torch.lerp(others, ones, mask)])
            logits = network.resumed(layer.name, swapped)
            hits = (logits.argmax(1) == wanted).float().mean()
            loss = F.cross_entropy(logits, wanted)
            if hits >= ENOUGH:
                loss = loss + raw.sigmoid().mean()
            (raw.grad,) = torch.autograd.grad(loss, raw)
            network.backward_passes += len(swapped)
            adam.step()
    return raw.detach().sigmoid()


def natural_share(
    network: OpenNetwork,
    layer: HiddenLayer,
    images: Tensor,
    stamped: Tensor,
    natural: Tensor,
    target: int,
    *,
    steps: int,
    learning_rate: float,
) -> float:
    """How far a trigger works through the features of its target class, in `[0, 1]`.

    The cosine of two masks of channels: of those that tell images from the same with the trigger,
    and of those that tell them from images of the target class.

    Args:
        network: of the layer.
        layer: that all goes through.
        images: clean images of other classes, `(N, C, H, W)` in `[0, 1]`.
        stamped: the same with the trigger; some are classified as the target.
        natural: clean images of the target class; repeated until there are N.
        target: that class.
        steps: of Adam, for each mask.
        learning_rate: of Adam.
    """
    flipped = network.logits(stamped).argmax(1) == target
    before, after = images[flipped], stamped[flipped]
    rows = torch.arange(len(before), device=natural.device) % len(natural)
    clean = network.features(layer.name, before)
    classes = network.logits(before).argmax(1), torch.full_like(rows, target)
    masks = [
        telling_channels(
            network,
            layer,
            clean,
            network.features(layer.name, other),
            classes,
            steps=steps,
            learning_rate=learning_rate,
        )
        for other in (after, natural[rows])
    ]
    return float(torch.cosine_similarity(masks[0], masks[1], dim=0))
