"""From masks of BatchNorm channels to a pruned network: the threshold, and the step of a mask."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..hardening import Hardening, Selection, Variant, VariantKind
from ..subject import Examples, Subject
from .norm_channels import NormChannels
from .plain_rounds import PlainRounds
from .validation import accuracy

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(19))
"""0 to 0.9. Source: the sweep of the ANP authors as BackdoorBench has it."""

MOMENTUM = 0.9
"""Of the masks' SGD. Source: Wu and Wang, NeurIPS 2021."""

NO_NORM = "the network has no BatchNorm with weights of its own, whose channels could be masked"


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A candidate.

    Attributes:
        threshold: channels whose mask is at most this are silent.
        channels: how many those are.
        accuracy: on the images held back, in `[0, 1]`.
        module: the network.
    """

    threshold: float
    channels: int
    accuracy: float
    module: nn.Module


def descend(rounds: PlainRounds, gradient: Tensor, learning_rate: float) -> None:
    """One step of SGD of the mask that the rounds keep, which stays within `[0, 1]`."""
    mask, velocity = rounds.extra["mask"], rounds.extra["velocity"]
    velocity.mul_(MOMENTUM).add_(gradient)
    mask.sub_(learning_rate * velocity).clamp_(0, 1)


def fresh_mask(rounds: PlainRounds, channels: NormChannels, device: torch.device) -> None:
    """Put a mask of ones into what the rounds keep, or bring the one they kept to the device."""
    start = {"mask": torch.ones(channels.count), "velocity": torch.zeros(channels.count)}
    rounds.extra = {k: v.to(device) for k, v in {**start, **rounds.extra}.items()}


def candidates(subject: Subject, mask: Tensor, held: Examples) -> list[Pruned]:
    """The subject's own network, pruned by each of `THRESHOLDS`, and judged on `held` alone."""
    channels = NormChannels.of(subject.module)
    found = []
    for threshold in THRESHOLDS:
        silent = mask <= threshold
        module = deepcopy(subject.module).eval()
        channels.silence(module, silent)
        found.append(
            Pruned(
                threshold=threshold,
                channels=int(silent.sum()),
                accuracy=accuracy(subject, module, held),
                module=module,
            )
        )
    return found


def pruned_hardening(
    trained: Hardening,
    subject: Subject,
    mask: Tensor,
    held: Examples,
    *,
    max_drop: float,
    selection: Selection,
    images_used: int,
) -> Hardening:
    """The hardening that the masks lead to; its network is the one that `held` chose.

    Args:
        trained: what the training of the masks returned; log and cost are kept. Figures say how
            accurate the masked network was in the last round: one that masks ruined says nothing of
            its channels.
        subject: whose own network is pruned.
        mask: float32 `(channels,)`.
        held: clean images that nothing was trained on.
        max_drop: largest loss of accuracy on them, in `[0, 1]`.
        selection: `oracle` hands out every candidate beside it, and the network without any cut.
        images_used: all clean images, those held back included.
    """
    before = accuracy(subject, subject.module, held)
    found = candidates(subject, mask, held)
    pruned = [c for c in found if c.channels]
    good = [c for c in pruned if before - c.accuracy <= max_drop + 1e-9]
    untouched = Pruned(
        threshold=-1.0, channels=0, accuracy=before, module=deepcopy(subject.module).eval()
    )
    best = good[-1] if good else untouched
    costly = "every threshold that prunes costs too much accuracy"
    why = costly if pruned else f"no mask is at most {THRESHOLDS[-1]}"
    passes = len(held) * (len(found) + 1)
    return replace(
        trained,
        module=best.module,
        reason="" if good else f"{why}; nothing was pruned",
        images_used=images_used,
        variants=tuple(map(_variant, (untouched, *found))) if selection == "oracle" else (),
        figures={
            "channels": len(mask),
            "pruned_channels": best.channels,
            "masked_accuracy": trained.log[-1].accuracy,
            "threshold": best.threshold,
            "validation_accuracy_before": before,
            "validation_accuracy": best.accuracy,
        },
        cost=replace(trained.cost, forward_passes=trained.cost.forward_passes + passes),
    )


def _variant(candidate: Pruned) -> Variant:
    return Variant(
        kind=VariantKind.CANDIDATE,
        name="untouched" if candidate.threshold < 0 else f"threshold={candidate.threshold:g}",
        module=deepcopy(candidate.module),
    )
