"""What an attack has to keep to, as far as the object shows it; no attack is known here."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .checks import (
    Check,
    check_all,
    global_randomness_untouched,
    in_range,
    is_a_frozen_dataclass,
    require,
)
from .subjects import SIDE

THREATS = ("universal", "source-specific", "all-to-all", "clean-label", "dynamic")
"""Values that `threat` may have."""


class Stamping(Protocol):
    """The part of an attack that is checked: class numbers, a threat and the verb."""

    @property
    def target(self) -> int:
        """Class that stamped images are to be classified as."""
        ...

    @property
    def sources(self) -> tuple[int, ...]:
        """Classes that it acts on; empty for every class but the target."""
        ...

    @property
    def threat(self) -> str:
        """One of `THREATS`."""
        ...

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, that carry the trigger."""
        ...


def check_attack(attack: Stamping) -> None:
    """Look whether an attack keeps to every rule; `AssertionError` lists those that it breaks.

    Args:
        attack: ready to stamp; one that has to be prepared is checked as `prepare` returns it.
    """
    check_all(attack_checks(), attack)


def attack_checks() -> tuple[Check[Stamping], ...]:
    """The rules one by one."""
    return (
        Check("it is a frozen dataclass with defaults", is_a_frozen_dataclass),
        Check("it names its classes and its threat", _names_its_threat),
        Check("a stamp is a changed copy in range", _changed_copy),
        Check("black and white images stay in range", _extremes),
        Check("stamping is deterministic", _deterministic),
        Check("stamping draws from no global generator", _no_global_randomness),
        Check("an image is stamped alike alone and among others", _alone),
        Check("images need not be square", _not_square),
    )


def _noise(count: int = 5, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(3))


def _names_its_threat(attack: Stamping) -> None:
    require(attack.threat in THREATS, f"its threat {attack.threat!r} is none of {THREATS}")
    numbers = (attack.target, *attack.sources)
    require(all(isinstance(n, int) and n >= 0 for n in numbers), f"classes are {numbers}")
    require(attack.target not in attack.sources, "its target is one of its sources")


def _changed_copy(attack: Stamping) -> None:
    images = _noise()
    before = images.clone()
    stamped = attack.stamp(images)
    require(torch.equal(images, before), "stamp changed the images that it was given")
    require(stamped.shape == images.shape, f"stamped images have shape {tuple(stamped.shape)}")
    require(stamped.dtype == images.dtype, f"stamped images are {stamped.dtype}")
    require(stamped.device == images.device, f"stamped images are on {stamped.device}")
    changed = (stamped != images).flatten(1).any(dim=1)
    require(changed.all(), f"{int((~changed).sum())} of {len(images)} images carry no trigger")
    require(in_range(stamped), "stamped images are outside [0, 1]")
    stamped.fill_(7)
    require(torch.equal(images, before), "stamped images share memory with the images")


def _extremes(attack: Stamping) -> None:
    for value in (0.0, 1.0):
        for dtype in (torch.float32, torch.float64):
            stamped = attack.stamp(torch.full((2, 3, SIDE, SIDE), value, dtype=dtype))
            require(stamped.dtype == dtype, f"{dtype} images became {stamped.dtype}")
            require(in_range(stamped), f"stamped images of the value {value} are outside [0, 1]")


def _deterministic(attack: Stamping) -> None:
    same = torch.equal(attack.stamp(_noise()), attack.stamp(_noise()))
    require(same, "the second stamp is another")


def _no_global_randomness(attack: Stamping) -> None:
    with global_randomness_untouched():
        attack.stamp(_noise())


def _alone(attack: Stamping) -> None:
    images = _noise()
    alone = torch.cat([attack.stamp(image[None]) for image in images])
    close = torch.allclose(alone, attack.stamp(images), atol=1e-5)
    require(close, "an image gets another stamp alone than among others")
    none = attack.stamp(images[:0]).shape
    require(none == images[:0].shape, f"no images became {tuple(none)}")


def _not_square(attack: Stamping) -> None:
    stamped = attack.stamp(_noise(2, height=16, width=28))
    require(stamped.shape == (2, 3, 16, 28), f"16 x 28 images became {tuple(stamped.shape)}")
    require(in_range(stamped), "stamped images that are not square are outside [0, 1]")
