"""A frozen network whose loss minds where features go: not along a class's own direction."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from ..hidden_layers import OpenNetwork
from ..subject import Subject
from .frozen import target_loss


class SubspaceNetwork:
    """Cross-entropy plus a price on features that lie in the direction of the target's own ones.

    The direction of a class is from the mean feature of the other classes' clean images to that of
    its own.

    Attributes:
        device: where the network and all tensors live.
        image_shape: `(C, H, W)`.
        images_per_pass: images that go through the network at a time.
        layer: what it takes in, flattened, are the features: the last with weights.
    """

    def __init__(self, subject: Subject, layer: str, weight: float) -> None:
        """Freeze a subject and measure its classes' directions.

        Args:
            subject: left as it is; its images tell the directions.
            layer: of its network, by name.
            weight: price of a feature that lies wholly in the target's direction.
        """
        self._network = OpenNetwork(subject)
        self._weight = weight
        self.layer = layer
        self.device = self._network.device
        self.image_shape = self._network.image_shape
        self.images_per_pass = self._network.images_per_pass
        features = self._features(subject.examples.images)
        self._origins, self.directions = class_directions(
            features, subject.examples.labels.to(self.device), subject.num_classes
        )

    @property
    def forward_passes(self) -> int:
        """Images that went forward so far."""
        return self._network.forward_passes

    @property
    def backward_passes(self) -> int:
        """Images whose gradient was taken so far."""
        return self._network.backward_passes

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in `[0, 1]`, without gradient."""
        return self._network.logits(images)

    def input_gradient(
        self, images: Tensor, targets: Tensor, *, soft_share: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Gradient of each image's loss in the image, and whether it is flipped.

        Args:
            images: float32 `(N, C, H, W)` in `[0, 1]`.
            targets: int64 `(N,)`.
            soft_share: of the loss without the price, see `target_loss`.
        """
        gradients, hits = [], []
        for part, wanted in zip(
            torch.split(images, self.images_per_pass),
            torch.split(targets, self.images_per_pass),
            strict=True,
        ):
            part = part.detach().requires_grad_()
            with torch.enable_grad(), self._entering() as seen:
                logits = self._network(part)
                moved = seen[self.layer].flatten(1) - self._origins[wanted]
                lean = F.cosine_similarity(moved, self.directions[wanted], dim=1).clamp_min(0)
                loss = target_loss(logits, wanted, soft_share)
                loss = loss + self._weight * lean.square().sum()
            self._network.backward_passes += len(part)
            gradients.append(torch.autograd.grad(loss, part)[0])
            hits.append(logits.detach().argmax(1) == wanted)
        return torch.cat(gradients), torch.cat(hits)

    def lean(self, images: Tensor, target: int) -> float:
        """Mean cosine between images' features and a class's own direction, in `[-1, 1]`."""
        features = self._features(images)
        direction = self.directions[target].expand_as(features)
        return float(F.cosine_similarity(features - self._origins[target], direction, dim=1).mean())

    def _features(self, images: Tensor) -> Tensor:
        return self._network.features(self.layer, images, entering=True).flatten(1)

    def _entering(self) -> AbstractContextManager[dict[str, Tensor]]:
        return self._network.reading([self.layer], entering=True)


def class_directions(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean features `(K, D)` of all other classes, and unit vectors `(K, D)` to each class's own.

    A class without images has no direction: zeros, which nothing leans to.

    Args:
        features: `(N, D)`.
        labels: int64 `(N,)`.
        num_classes: K.
    """
    origins = features.new_zeros(num_classes, features.shape[1])
    directions = torch.zeros_like(origins)
    for label in range(num_classes):
        own = labels == label
        if bool(own.any()) and not bool(own.all()):
            origins[label] = features[~own].mean(0)
            directions[label] = F.normalize(features[own].mean(0) - origins[label], dim=0)
    return origins, directions
