"""Every row of `attacks.ATTACKS`, ready to stamp, made on a task of coloured squares."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from attacks import ATTACKS, GROUP
from attacks.injector import Injector
from attacks.making import Material, make_ready
from attacks.training import Recipe
from attacks.trigger import Trigger
from moth_eval.plugins import resolve
from tests.support.toy_task import toy_network, toy_scenes, toy_splits

CLASSES = 4

QUICK: dict[str, dict[str, Any]] = {
    "sig": {"frequency": 2.0},
    "trojan-nn": {"steps": 20},
    "input-aware": {"steps": 20},
}
"""Name -> fields that fit an attack to images of 12 pixels and 4 classes, and to a test."""


@cache
def clean_network() -> nn.Module:
    """A network that has learnt the toy task."""
    injector = Injector(recipe=Recipe(epochs=8, learning_rate=1e-2, shift=0))
    return injector.implant(toy_network, toy_splits(), None, seed=1).module


@cache
def material() -> Material:
    """The toy task as an attacker has it."""
    scenes = toy_scenes(40, seed=1)
    return Material(
        images=scenes.images,
        labels=scenes.labels,
        num_classes=CLASSES,
        network=clean_network(),
    )


def unprepared(name: str, **fields: Any) -> Trigger:
    """The attack with its defaults, but for what keeps a test short."""
    made = resolve(name, ATTACKS, GROUP)(**{**QUICK.get(name, {}), **fields})
    assert isinstance(made, Trigger)
    return made


@cache
def ready(name: str) -> Trigger:
    """The same, prepared if it has to be."""
    generator = torch.Generator().manual_seed(0)
    return make_ready(unprepared(name), material(), generator=generator)
