"""What an attack may ask for beside one fixed stamp, as protocols that the injector knows.

A trigger that is ready offers `attacks.trigger.Trigger` and nothing else. One that has to be made
first, or that treats training images in another way than test images, follows one or more of the
protocols of this file as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from moth_eval.errors import InputError

from .trigger import Trigger

CPU = torch.device("cpu")

Tensors = Mapping[str, Tensor]
"""What a prepared trigger carries, by name."""


def carried() -> Any:
    """A dataclass field for `Tensors`: no parameter, and empty until the trigger is prepared."""
    return field(
        default_factory=lambda: MappingProxyType({}),
        repr=False,
        compare=False,
        metadata={"parameter": False},
    )


@dataclass(frozen=True, kw_only=True)
class Material:
    """What an attacker makes triggers and poisoned images from.

    Attributes:
        images: training images, uint8 `(N, 3, H, W)`, RGB.
        labels: int64 `(N,)`.
        num_classes: K.
        network: a clean classifier of the same task in eval mode, on `device`, that eats images
            in `[0, 1]`; None if there is none. Never changed.
        device: where anything heavy is computed.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    network: nn.Module | None = None
    device: torch.device = CPU

    def clean_network(self, attack: str) -> nn.Module:
        """The clean network.

        Raises:
            InputError: there is none.
        """
        if self.network is None:
            raise InputError(
                f"{attack} is made on a clean network of the same task, and none was given"
            )
        return self.network

    def of_class(self, label: int, attack: str) -> Tensor:
        """The images of one class, uint8 `(M, 3, H, W)`.

        Raises:
            InputError: there are none.
        """
        found = self.images[self.labels == label]
        if not len(found):
            raise InputError(f"{attack} needs images of class {label}, and the data hold none")
        return found


@runtime_checkable
class PreparedTrigger(Trigger, Protocol):
    """A trigger that has to be made before it can stamp.

    Attributes:
        tensors: what it stamps with; empty until it is prepared. With the parameters, all that is
            needed to have the trigger again.
    """

    @property
    def tensors(self) -> Tensors:
        """See `PreparedTrigger`."""
        ...

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack, ready to stamp, its tensors on the CPU."""
        ...


@runtime_checkable
class NetworkTrigger(Trigger, Protocol):
    """A trigger, or its training images, that is made on a clean network of the same task.

    Attributes:
        needs_network: whether these parameters ask for one.
    """

    @property
    def needs_network(self) -> bool:
        """See `NetworkTrigger`."""
        ...


@runtime_checkable
class TrainingStamp(Trigger, Protocol):
    """A trigger that poisoned training images carry in another form than test images."""

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Poisoned copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, of true classes `labels`.

        `generator` is a CPU generator; the network of the material may be used.
        """
        ...


@runtime_checkable
class CoverStamp(Trigger, Protocol):
    """An attack that also changes training images which keep their label.

    Attributes:
        covers_per_poisoned: how many such images there are for one poisoned image, unless the
            injector is told otherwise.
    """

    @property
    def covers_per_poisoned(self) -> float:
        """See `CoverStamp`."""
        ...

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Bool `(N,)`, true where an image may become a cover; poisoned ones never do."""
        ...

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Covers from `images`, float `(N, 3, H, W)` in `[0, 1]`, of true classes `labels`."""
        ...


@runtime_checkable
class Redrawn(Trigger, Protocol):
    """An attack whose poisoned set has to be drawn and stamped anew for every epoch.

    Attributes:
        redrawn: whether it has to be.
    """

    @property
    def redrawn(self) -> bool:
        """See `Redrawn`."""
        ...


def make_ready(trigger: Trigger, material: Material, *, generator: torch.Generator) -> Trigger:
    """The trigger, prepared if it has to be and is not yet."""
    if isinstance(trigger, PreparedTrigger) and not trigger.tensors:
        return trigger.prepare(material, generator=generator)
    return trigger


def carried_tensor(tensors: Tensors, name: str, attack: str) -> Tensor:
    """One of the tensors of a prepared trigger.

    Raises:
        InputError: it is not there.
    """
    if name not in tensors:
        raise InputError(
            f"{attack} has no {name} yet: prepare it on training images before it stamps, or read "
            "a prepared one with attacks.artefacts.read_artefact"
        )
    return tensors[name]
