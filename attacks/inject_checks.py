"""Whatever can be known of an attack on given images before anything is trained."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import torch

from moth_eval.errors import InputError
from moth_eval.seeds import generator_for

from .injector import Injector, Splits
from .making import Material, NetworkTrigger, make_ready
from .poisoning import check_rates, coverable, poison, poisonable, stamp_scenes
from .trigger import Threat, Trigger, check_classes, victims

TRIED = 2
"""Images of each kind that an attack is tried on."""


def check_attack(trigger: Trigger, splits: Splits, injector: Injector) -> None:
    """Make sure that the classes of an attack have images, and that its rates poison some.

    Raises:
        InputError: they do not.
    """
    check_classes(trigger, splits.classes)
    labels = splits.training.labels
    named = set(trigger.sources)
    if trigger.threat is not Threat.ALL_TO_ALL:
        named.add(trigger.target)
    if absent := sorted(named - set(labels.tolist())):
        raise InputError(
            f"no training image is of the classes {absent}, which the trigger names as source or "
            "target: name others, or give more images"
        )
    if not bool(victims(trigger, splits.test.labels).any()):
        raise InputError("no test image is of a class that the trigger acts on: give others")
    check_rates(
        trigger,
        labels,
        poisoning_rate=injector.poisoning_rate,
        rate_of=injector.rate_of,
        cover_rate=injector.cover_rate,
    )


def try_attack(trigger: Trigger, splits: Splits, material: Material) -> None:
    """Make a trigger, by one step where it takes many, and poison a few images with it.

    Args:
        trigger: that `check_attack` let through.
        splits: the task.
        material: what it is made from; the network may be an untrained one.

    Raises:
        InputError: it cannot be made, or not be stamped on such images.
    """
    generator = generator_for("trying")
    ready = make_ready(_quick(trigger), material, generator=generator)
    stamp_scenes(ready, splits.test.take(torch.arange(1)), generator=generator)
    training = splits.training
    few = torch.zeros_like(training.labels, dtype=torch.bool)
    for may in (poisonable, coverable):
        few[may(trigger, training.labels).nonzero()[:TRIED, 0]] = True
    poison(
        training.take(few),
        ready,
        material=material,
        poisoning_rate=1.0,
        cover_rate=1.0,
        generator=generator,
    )


def _quick(trigger: Trigger) -> Trigger:
    needs_network = isinstance(trigger, NetworkTrigger) and trigger.needs_network
    if needs_network and is_dataclass(trigger) and "steps" in {f.name for f in fields(trigger)}:
        quick: Trigger = replace(trigger, steps=1)
        return quick
    return trigger
