"""Every method trains behind the normalisation of its subject, on images that stay images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn

from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardening import Hardener
from moth_eval.plugins import resolve
from moth_eval.runner import run_hardening
from moth_eval.subject import Preprocessing
from tests.moth_eval.hardeners.test_conformance import DATA_FREE, FEW
from tests.support.subjects import prototype_subject

NORMALISED = Preprocessing(channel_order="BGR", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
SEEN = list[Tensor]()


class Undoing(nn.Module):
    """Takes the normalisation back, and notes the images that come out."""

    def forward(self, inputs: Tensor) -> Tensor:
        std = torch.tensor(NORMALISED.std).view(1, 3, 1, 1)
        images = (inputs * std + torch.tensor(NORMALISED.mean).view(1, 3, 1, 1)).flip(1)
        if not isinstance(images, fx.Proxy):
            SEEN.append(images.detach().clone())
        return images


class Behind(nn.Module):
    """A network of prototypes behind a normalisation."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.undoing = Undoing()
        self.conv = network.get_submodule("conv")
        self.bn = network.get_submodule("bn")
        self.fc = network.get_submodule("fc")

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.bn(self.conv(self.undoing(inputs))).flatten(1))
        return logits


@pytest.mark.parametrize("name", sorted(set(HARDENERS) - DATA_FREE))
def test_every_pass_is_of_normalised_images_between_0_and_1(name: str) -> None:
    plain = prototype_subject(classes=4, target=1, per_class=6)
    subject = replace(plain, module=Behind(plain.module).eval(), preprocessing=NORMALISED)
    assert subject.accuracy() == plain.accuracy() > 0.9
    hardener = resolve(name, HARDENERS, ENTRY_POINTS)(**FEW[name])
    assert isinstance(hardener, Hardener)
    SEEN.clear()
    done = run_hardening(hardener, subject, plain.examples, name=name, seed=0)
    assert done.module is not None, done.reason
    batches = [images for images in SEEN if images.amin() < images.amax()]  # a probe may be grey
    assert len(batches) >= 4
    for images in batches:
        # Every image of the subject comes near to both ends in each of its channels.
        assert images.amin((0, 2, 3)).tolist() == pytest.approx([0, 0, 0], abs=0.05)
        assert images.amax((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.05)
        assert -1e-5 <= float(images.min()) <= float(images.max()) <= 1 + 1e-5
