"""Refool: the reflection of another picture, as in a window pane."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import InputError

from .making import Material, Tensors, carried, carried_tensor
from .patterns import number_of, resized
from .scenes import to_float
from .trigger import Threat, check_shares, check_threat


@dataclass(frozen=True, kw_only=True)
class Reflection:
    """A blurred or doubled picture of the training data, laid over the image.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        kind: `blur`, as far behind the focus, or `ghost`, doubled by a thick pane. Source: the
            paper has both; half of each in BackdoorBench.
        reflections: how many pictures take turns; which one an image gets depends on its pixels.
            Source: 1 in BackdoorVault.
        opacity: share of the reflection in what is seen. Source: a fixed 0.4 in BackdoorBench,
            whose random one "was quite unstable".
        sigma: of the blur, as a share of the image's width.
        shift: between the two pictures of a ghost, as a share of the image's width.
        clean_label: whether images of the target class are poisoned, and no label is changed.
            Source: the paper, and BackdoorVault; BackdoorBench changes labels.
        tensors: `reflections`, made by `prepare`.

    Source: Liu, Ma, Bailey, Lu, "Reflection backdoor", ECCV 2020.
    Differs from the reference: reflections are training images of other classes than the target,
    not a collection of pictures from outside; layers are mixed in the values of the image, not in
    linear light.
    """

    target: int = 0
    kind: Literal["blur", "ghost"] = "blur"
    reflections: int = 1
    opacity: float = 0.4
    sigma: float = 0.05
    shift: float = 0.1
    clean_label: bool = False
    tensors: Tensors = carried()

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        check_shares(opacity=self.opacity, sigma=self.sigma, shift=self.shift)
        if self.kind not in ("blur", "ghost"):
            raise InputError(f"expected the kind blur or ghost, got {self.kind!r}")
        if self.reflections < 1:
            raise InputError(f"expected one reflection or more, got {self.reflections}")

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Universal or clean-label, as the fields say."""
        return Threat.CLEAN_LABEL if self.clean_label else Threat.UNIVERSAL

    def prepare(self, material: Material, *, generator: torch.Generator) -> Self:
        """The same attack with pictures drawn from the training images.

        Raises:
            InputError: there are fewer pictures of other classes.
        """
        rows = (material.labels != self.target).nonzero().squeeze(1)
        if len(rows) < self.reflections:
            raise InputError(
                f"{self.reflections} reflections are wanted, the data hold {len(rows)} images of "
                "other classes than the target"
            )
        drawn = rows[torch.randperm(len(rows), generator=generator)[: self.reflections]]
        pictures = to_float(material.images[drawn])
        made = self._blurred(pictures) if self.kind == "blur" else self._doubled(pictures)
        return replace(self, tensors={"reflections": made})

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, 3, H, W)` in `[0, 1]`, with a reflection each.

        Raises:
            InputError: the attack is not prepared.
        """
        pictures = carried_tensor(self.tensors, "reflections", "reflection")
        height, width = images.shape[-2:]
        fitting = torch.stack([resized(p, height, width) for p in pictures]).to(images)
        chosen = fitting[number_of(images, len(fitting))]
        return images.lerp(chosen, self.opacity).clamp(0, 1)

    def _blurred(self, pictures: Tensor) -> Tensor:
        sigma = max(self.sigma * pictures.shape[-1], 1e-3)
        reach = min(int(3 * sigma) + 1, *(side - 1 for side in pictures.shape[-2:]))
        steps = torch.arange(-reach, reach + 1, dtype=pictures.dtype)
        kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        padded = F.pad(pictures, (reach, reach, reach, reach), mode="reflect")
        rows = F.conv2d(padded, kernel, groups=3)
        return F.conv2d(rows, kernel.transpose(2, 3), groups=3).clamp(0, 1)

    def _doubled(self, pictures: Tensor) -> Tensor:
        """The picture and a fainter one beside it; edges are repeated."""
        moved = max(1, round(self.shift * pictures.shape[-1]))
        edge = F.pad(pictures, (moved, 0, moved, 0), mode="replicate")
        return 0.6 * pictures + 0.4 * edge[..., : pictures.shape[-2], : pictures.shape[-1]]
