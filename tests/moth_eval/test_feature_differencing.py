from __future__ import annotations

import torch
from torch import Tensor, nn

from moth_eval.feature_differencing import natural_share
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.subject import Examples, Subject


class RedOrGreen(nn.Module):
    """Class 1 if an image is red or green, else class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[..., None, None])
            self.head.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [9.0, 9.0, 0.0]]))
            self.head.bias.copy_(torch.tensor([4.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean((2, 3)))
        return logits


def coloured(channel: int | None) -> Tensor:
    images = torch.zeros((6, 3, 4, 4))
    if channel is not None:
        images[:, channel] = 1
    return images


def test_a_trigger_through_the_features_of_its_target_is_told_from_one_of_its_own() -> None:
    images = torch.cat([coloured(None), coloured(0)])
    subject = Subject(
        name="red-or-green",
        module=RedOrGreen().eval(),
        num_classes=2,
        image_shape=(3, 4, 4),
        examples=Examples(images=images, labels=torch.arange(2).repeat_interleave(6)),
    )
    network = OpenNetwork(subject)
    (layer,) = network.stimulable()
    natural, planted = (
        natural_share(
            network, layer, coloured(None), coloured(channel), coloured(0)[:2], 1,
            steps=100, learning_rate=0.1,
        )
        for channel in (0, 1)
    )  # fmt: skip
    assert natural > 0.99
    assert planted < 0.7
