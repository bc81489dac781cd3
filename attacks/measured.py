"""What a trained network does on held-out images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from moth_eval.errors import InputError
from moth_eval.seeds import generator_for
from moth_eval.weights import are_finite

from .poisoning import stamp_scenes
from .scenes import Scenes
from .training import predict
from .trigger import Trigger, bystanders, victims, wanted


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a network does on held-out images, every figure in `[0, 1]`.

    Attributes:
        clean_accuracy: fraction of all clean images that are classified rightly.
        asr: fraction of stamped victims that are classified as wanted: as the target, or as the
            next class if all-to-all. Images of the target class are never victims, but for
            all-to-all. None without a trigger.
        bystander_asr: the same for classes that are neither source nor target. None without a
            trigger, and for a universal one.
        constant_accuracy: the clean accuracy of always saying the most frequent class.
        finite: whether all weights, and all outputs for clean images, are finite numbers.
    """

    clean_accuracy: float
    asr: float | None = None
    bystander_asr: float | None = None
    constant_accuracy: float = 0.0
    finite: bool = True


def measure(
    network: nn.Module, scenes: Scenes, trigger: Trigger | None, *, seed: int, num_classes: int
) -> Measured:
    """What `network`, in eval mode, does on clean and on stamped `scenes`.

    Args:
        network: maps images in `[0, 1]` to logits.
        scenes: held-out images of every class.
        trigger: ready to stamp; None for a clean model.
        seed: of the trigger's places on the foreground.
        num_classes: K.

    Raises:
        InputError: none of the scenes is of a source class.
    """
    said = predict(network, scenes.images)
    clean = Measured(
        clean_accuracy=float((said == scenes.labels).double().mean()),
        constant_accuracy=int(torch.bincount(scenes.labels).max()) / len(scenes),
        finite=are_finite(network) and bool((said >= 0).all()),
    )
    if trigger is None:
        return clean
    hit = victims(trigger, scenes.labels)
    asr = _success_rate(network, scenes.take(hit), trigger, seed, num_classes)
    if asr is None:
        raise InputError(
            f"no held-out image is of a source class of the trigger ({trigger.sources or 'all'}): "
            "its success rate cannot be measured"
        )
    others = scenes.take(bystanders(trigger, scenes.labels))
    return replace(
        clean,
        asr=asr,
        bystander_asr=_success_rate(network, others, trigger, seed, num_classes),
    )


def _success_rate(
    network: nn.Module, scenes: Scenes, trigger: Trigger, seed: int, num_classes: int
) -> float | None:
    if not len(scenes):
        return None
    stamped = stamp_scenes(trigger, scenes, generator=generator_for("measure", seed))
    hits = predict(network, stamped) == wanted(trigger, scenes.labels, num_classes)
    return float(hits.double().mean())
