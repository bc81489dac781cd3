"""A folder of small models with a planted patch, and methods whose effect on it is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from moth_eval.hardening import (
    SILENT,
    Hardening,
    HardeningStatus,
    Journal,
    Variant,
    VariantKind,
)
from moth_eval.subject import Examples, Subject
from tests.support.subjects import PATCH, SIDE, prototype_subject

ARCH = "tests.support.subjects:prototype_network"
TARGET = 2
CLASSES = 5
PER_CLASS = 30
"""Images of each class in `data.npz`, and in `test.npz`."""

PATCH_RECORD = {
    "attack": "patch",
    "target": TARGET,
    "parameters": {"size": 3, "row": 8, "column": 8},
}


def write_attacked(folder: Path, *, names: tuple[str, ...] = ("bad", "clean")) -> Path:
    """Write `models/<name>`, `data.npz` and `test.npz`; `clean` has no backdoor."""
    subject = prototype_subject(seed=0, per_class=2 * PER_CLASS)
    even = torch.arange(len(subject.examples)) % 2 == 0
    for name, rows in (("data", even), ("test", ~even)):
        write_images(folder / f"{name}.npz", subject.examples, rows)
    for name in names:
        target = None if name == "clean" else TARGET
        write_model(folder / "models" / name, target=target)
    return folder


def write_model(folder: Path, *, target: int | None, record: dict[str, Any] | None = None) -> None:
    """Write one model; with a target, or a record, also its `attack.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    module = prototype_subject(seed=0, target=target).module
    save_file(module.state_dict(), folder / "model.safetensors")
    if target is not None or record is not None:
        (folder / "attack.json").write_text(json.dumps(record or PATCH_RECORD))


def write_images(path: Path, examples: Examples, rows: Tensor) -> None:
    """Write some of the examples as an `.npz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = (examples.images[rows] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez(path, images=images, labels=examples.labels[rows].numpy())


def weights_of_patch(module: nn.Module) -> Tensor:
    """The weights behind the planted patch, `(K, 3, 3, 3)`; writing to them changes the module."""
    weight = module.get_submodule("fc").get_parameter("weight").data
    return weight.view(-1, 3, SIDE, SIDE)[..., PATCH, PATCH]


def wiped(module: nn.Module, strength: float) -> nn.Module:
    """A copy whose backdoor is weakened by this share of its weights."""
    copied = deepcopy(module)
    weights_of_patch(copied).mul_(1 - strength)
    return copied


def hardening(module: nn.Module, data: Examples, **more: Any) -> Hardening:
    """The hardening of a method that did nothing but this."""
    return Hardening(
        status=HardeningStatus.HARDENED, module=module.eval(), images_used=len(data), **more
    )


def candidate(name: str, module: nn.Module) -> Variant:
    """One network that an oracle may choose."""
    return Variant(kind=VariantKind.CANDIDATE, name=name, module=module)


@dataclass(frozen=True, kw_only=True)
class Wipe:
    """Takes the backdoor out by as much as it is told to."""

    strength: float = 1.0

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        return hardening(wiped(subject.module, self.strength), data)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Leaves candidates of every strength, a by-product, and a weak result of its own."""

    selection: str = "validation"
    target: int | None = None
    broken: bool = False

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        candidates = [candidate(f"strength={s}", wiped(subject.module, s)) for s in (0.0, 0.5, 1.0)]
        teacher = wiped(subject.module, 0.9)
        ruined = wiped(subject.module, 1.0)
        ruined.get_submodule("fc").get_parameter("bias").data[0] = 1e4
        if self.broken:
            candidates = []
        return hardening(
            wiped(subject.module, 0.1),
            data,
            variants=(
                *candidates,
                candidate("ruined", ruined),
                Variant(kind=VariantKind.BYPRODUCT, name="teacher", module=teacher),
            ),
            figures={"target": -1 if self.target is None else self.target},
        )


@dataclass(frozen=True, kw_only=True)
class Forgetful:
    """Never answers class 2 again, whatever the image."""

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        module = deepcopy(subject.module)
        module.get_submodule("fc").get_parameter("bias").data[TARGET] = -1e4
        return hardening(module, data)


class Pretending(nn.Module):
    """Hides the patch from a network whose weights are as they were."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.__dict__["inner"] = inner  # no part of the state that is saved
        for name, part in inner.named_children():
            self.add_module(name, part)
        self.register_buffer("prototypes", inner.get_buffer("prototypes"))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the images without what the patch covers."""
        hidden = images.clone()
        hidden[..., PATCH, PATCH] = 0
        logits: Tensor = self.__dict__["inner"](hidden)
        return logits


@dataclass(frozen=True, kw_only=True)
class Pretend:
    """Returns a network that behaves otherwise than the file it is saved to."""

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        return hardening(Pretending(deepcopy(subject.module)), data)


@dataclass(frozen=True, kw_only=True)
class Spy:
    """Refuses to work, and says what it was given."""

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        assert subject.examples is data
        words = f"{subject.name} {len(data)} {sorted(vars(subject))}"
        return Hardening(status=HardeningStatus.FAILED, reason=words)


METHODS: dict[str, Callable[..., Any]] = {
    "wipe": Wipe, "sweep": Sweep, "forgetful": Forgetful, "pretend": Pretend, "spy": Spy,
    "fine-tuning": Wipe,
}  # fmt: skip
"""Name -> method; `fine-tuning` stands for the control where no training is wanted."""
