"""WaNet: the image is bent a little, always in the same way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .trigger import Threat, check_threat, threat_of


@dataclass(frozen=True, kw_only=True)
class WaNet:
    """A smooth warp, the same for every image; covers are warped at random and keep their label.

    The poisoned set is drawn and warped anew for every epoch: with a fixed set the success rate
    falls (a known limit of the method).

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        sources: classes that it acts on; empty for every class but the target.
        all_to_all: whether stamped images of class y are to be taken for `(y + 1) % K` instead.
        strength: mean shift of a control point, in half pixels. Source: s = 0.5.
        control_points: along a side, of the smooth field. Source: k = 4.
        covers_per_poisoned: images that are warped at random and keep their label, for one that
            is poisoned. Source: cross_ratio 2.
        redrawn: whether the poisoned set is drawn anew for every epoch. Source: the authors do
            so for every batch.
        tensors: `field`, the control points, made by `prepare`.

    Source: Nguyen, Tran, "WaNet", ICLR 2021.
    Differs from the reference: redrawn for every epoch, not for every batch; shifts are in pixels
    of their own axis where images are not square.
    """

    target: int = 0
    sources: tuple[int, ...] = ()
    all_to_all: bool = False
    strength: float = 0.5
    control_points: int = 4
    covers_per_poisoned: float = 2.0
    redrawn: bool = True
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        if self.control_points < 2 or not self.strength > 0 or self.covers_per_poisoned < 0:
            raise InputError(
                "expected control_points of 2 or more, a strength above 0 and covers_per_poisoned "
                f"of 0 or more, got {self.control_points}, {self.strength} and "
                f"{self.covers_per_poisoned}"
            )
        if self.all_to_all and self.sources:
            raise InputError(f"all_to_all acts on every class: leave out sources {self.sources}")

    @property
    def threat(self) -> Threat:
        """Universal, source-specific or all-to-all, as the fields say."""
        return threat_of(self.sources, all_to_all=self.all_to_all)

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with a field of its own."""
        side = self.control_points
        field = 2 * torch.rand((1, 2, side, side), generator=generator) - 1
        return replace(self, tensors={"field": field / field.abs().mean()})

    def stamp(self, images: Tensor) -> Tensor:
        """Warped copies of `images`, float `(N, C, H, W)` in `[0, 1]`.

        Raises:
            InputError: the attack is not prepared.
        """
        return _sampled(images, self._grid(images).expand(len(images), -1, -1, -1))

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """Every image."""
        return torch.ones_like(labels, dtype=torch.bool)

    def stamp_cover(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Copies warped by the field and, on top of it, by noise of at most half a pixel."""
        grid = self._grid(images)
        noise = 2 * torch.rand((len(images), *grid.shape[1:]), generator=generator) - 1
        return _sampled(images, grid + noise.to(grid) / _sides(images))

    def _grid(self, images: Tensor) -> Tensor:
        """Where each pixel looks: `(1, H, W, 2)`, x and y in `[-1, 1]`."""
        field = carried_tensor(self.tensors, "field", "wanet").to(images)
        height, width = images.shape[-2:]
        smooth = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
        rows = torch.linspace(-1, 1, height, dtype=images.dtype, device=images.device)
        columns = torch.linspace(-1, 1, width, dtype=images.dtype, device=images.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        shift = self.strength * smooth.permute(0, 2, 3, 1) / _sides(images)
        return torch.stack([x, y], dim=-1)[None] + shift


def _sides(images: Tensor) -> Tensor:
    """Width and height, as a tensor `(2,)` beside x and y."""
    return images.new_tensor([images.shape[-1], images.shape[-2]])


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    if not len(images):
        return images.clone()
    return F.grid_sample(images, grid.clamp(-1, 1), align_corners=True).clamp(0, 1)
