"""The triggers that a hardening keeps from one visit of a pair to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..inversion.problems import Inversion


@dataclass(frozen=True, kw_only=True)
class Held:
    """The last trigger of one direction.

    Attributes:
        mask: `(1, H, W)` in `[0, 1]`.
        pattern: `(C, H, W)` in `[0, 1]`.
        cost: weight of the size at which its inversion stood.
    """

    mask: Tensor
    pattern: Tensor
    cost: float

    @staticmethod
    def of(inversion: Inversion) -> Held:
        """What to keep of a finished inversion; it shares no memory with anything else."""
        return Held(
            mask=inversion.mask.clone(), pattern=inversion.pattern.clone(), cost=inversion.cost
        )


class HeldTriggers:
    """Triggers by ordered pair of classes, each with memory of its own."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], Held] = {}

    def get(self, source: int, target: int) -> Held | None:
        """The trigger from `source` to `target`; the universal one (source -1) if there is none."""
        return self._held.get((source, target), self._held.get((-1, target)))

    def put(self, source: int, target: int, held: Held) -> None:
        """Keep a trigger from `source` (-1: every other class) to `target`."""
        self._held[source, target] = held

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything by name, for a later `restore`."""
        for (source, target), held in self._held.items():
            name = f"held.{source}.{target}"
            yield f"{name}.mask", held.mask
            yield f"{name}.pattern", held.pattern
            yield f"{name}.cost", torch.tensor(held.cost, dtype=torch.float64)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave; other names are passed over."""
        for name, mask in tensors.items():
            if name.startswith("held.") and name.endswith(".mask"):
                stem = name.removesuffix(".mask")
                _, source, target = stem.split(".")
                self._held[int(source), int(target)] = Held(
                    mask=mask,
                    pattern=tensors[f"{stem}.pattern"],
                    cost=float(tensors[f"{stem}.cost"]),
                )
