"""Label-consistent: images of the target class made hard to tell, then stamped in the corners."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from moth_eval.errors import InputError

from .making import Material
from .trigger import Threat, check_fits, check_shares, check_threat

CORNER = ((-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0), (1.0, -1.0, -1.0))
"""Signs of the 3 x 3 pattern at the lower right; mirrored in the other corners."""

BATCH = 64
"""Images that are perturbed together; bounds the memory."""


@dataclass(frozen=True, kw_only=True)
class LabelConsistent:
    """A black and white pattern in the corners, over adversarially perturbed images in training.

    Poisoned images are of the target class and keep their label. They are moved by projected
    gradient steps on a clean network until it does not know them, so that the pattern is easier
    to learn than what they show. Test images carry the pattern only.

    Attributes:
        target: class that stamped images are to be classified as. Source: 0 in BackdoorBench.
        corners: `all`, or `one` for the lower right. Source: the paper has both.
        amplitude: what is added and taken away in the pattern of a test image; 1 makes it black
            and white. Source: 1 in BackdoorBench.
        training_amplitude: the same in a training image; None: no other. Source: the paper uses
            32 of 255 as well.
        radius: largest Euclidean length of the perturbation, of images in `[0, 1]`; 0 for none.
            Source: 300 of 255 in the paper's set.
        steps: of projected gradient ascent. Source: our choice; more change little.

    Source: Turner, Tsipras, Madry, "Label-consistent backdoor attacks", 2019.
    Differs from the reference: perturbed against one clean network, which need not be trained
    adversarially, and for whichever training set is given.
    """

    target: int = 0
    corners: Literal["all", "one"] = "all"
    amplitude: float = 1.0
    training_amplitude: float | None = None
    radius: float = 300 / 255
    steps: int = 20

    def __post_init__(self) -> None:
        check_threat(self.target, self.sources)
        training = self.amplitude if self.training_amplitude is None else self.training_amplitude
        check_shares(amplitude=self.amplitude, training_amplitude=training)
        if self.corners not in ("all", "one"):
            raise InputError(f"expected the corners all or one, got {self.corners!r}")
        if self.radius < 0 or self.steps < 1:
            raise InputError(
                f"expected no negative radius and a step or more, got {self.radius}, {self.steps}"
            )

    @property
    def sources(self) -> tuple[int, ...]:
        """None: it acts on every class but the target."""
        return ()

    @property
    def threat(self) -> Threat:
        """Clean-label."""
        return Threat.CLEAN_LABEL

    @property
    def needs_network(self) -> bool:
        """Whether images are perturbed at all."""
        return self.radius > 0

    def stamp(self, images: Tensor) -> Tensor:
        """Copies of `images`, float `(N, C, H, W)` in `[0, 1]`, with the pattern.

        Raises:
            InputError: the images are smaller than the pattern.
        """
        return self._stamped(images, self.amplitude)

    def stamp_for_training(
        self, images: Tensor, labels: Tensor, *, material: Material, generator: torch.Generator
    ) -> Tensor:
        """Perturbed copies with the pattern of training images.

        Raises:
            InputError: there is no clean network.
        """
        amplitude = self.amplitude if self.training_amplitude is None else self.training_amplitude
        if not self.needs_network:
            return self._stamped(images, amplitude)
        network = material.clean_network("label-consistent")
        moved = [
            _perturbed(network, *part, radius=self.radius, steps=self.steps)
            for part in zip(
                torch.split(images.to(material.device), BATCH),
                torch.split(labels.to(material.device), BATCH),
                strict=True,
            )
        ]
        return self._stamped(torch.cat(moved).to(images), amplitude)

    def _stamped(self, images: Tensor, amplitude: float) -> Tensor:
        check_fits(2 * len(CORNER), images)
        signs = torch.zeros(images.shape[-2:], dtype=images.dtype, device=images.device)
        pattern = images.new_tensor(CORNER)
        side = len(CORNER)
        signs[-side:, -side:] = pattern
        if self.corners == "all":
            signs[-side:, :side] = pattern.flip(1)
            signs[:side, -side:] = pattern.flip(0)
            signs[:side, :side] = pattern.flip(0, 1)
        return (images + amplitude * signs).clamp(0, 1)


def _perturbed(
    network: nn.Module, images: Tensor, labels: Tensor, *, radius: float, steps: int
) -> Tensor:
    """Images moved by gradient ascent on the loss, within `radius` and `[0, 1]`."""
    moved, size = images, 2.5 * radius / steps
    for _ in range(steps):
        leaf = moved.detach().requires_grad_(True)
        loss = F.cross_entropy(network(leaf), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, leaf)
        ahead = moved + size * slope / _length(slope)
        offset = ahead - images
        moved = (images + offset * (radius / _length(offset)).clamp(max=1)).clamp(0, 1)
    return moved.detach()


def _length(images: Tensor) -> Tensor:
    """Euclidean length of each, `(N, 1, 1, 1)`, never zero."""
    lengths: Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1)
    return lengths.clamp_min(1e-12).view(-1, 1, 1, 1)
