from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import ScanError
from moth_eval.runner import run_scan
from moth_eval.scan import Scan
from moth_eval.subject import Subject
from scanners.trodo import Trodo, _shuffled
from tests.support.real_nets import real_subject
from tests.support.subjects import prototype_subject


def scanned(subject: Subject, scanner: Trodo | None = None, seed: int = 0) -> Scan:
    return run_scan(scanner or Trodo(), subject, name="trodo", seed=seed)


def score(subject: Subject, scanner: Trodo | None = None) -> float:
    found = scanned(subject, scanner).score
    assert found is not None
    return found


def test_a_published_backdoored_network_scores_higher_than_a_clean_one(shared: Path) -> None:
    clean, backdoored = (
        score(real_subject(shared, name), Trodo(images=40))
        for name in ("clean-resnet", "backdoored-vgg")
    )
    assert backdoored > 1.1 * clean


def test_a_class_that_is_one_faint_step_away_from_everything_raises_the_score() -> None:
    def with_way(strength: float) -> Subject:
        subject = prototype_subject()
        head = nn.Linear(432, 5)
        torch.manual_seed(0)
        with torch.no_grad():
            head.weight.normal_(0, 0.01)
            head.weight[3] += strength * torch.randn(432).sign()
            head.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -2.0, 0.0]))
        return replace(subject, module=nn.Sequential(nn.Flatten(), head).eval())

    flat, steep = (scanned(with_way(strength)) for strength in (0.0, 1.0))
    assert flat.score is not None
    assert steep.score is not None
    assert steep.score > 3 * flat.score
    assert (steep.target, steep.evidence[0].target) == (None, 3)


def test_the_score_is_the_growth_of_the_largest_probability() -> None:
    # Class 1 gains 4 per unit of mean brightness: a change of 0.1 everywhere is worth 0.4.
    class Bright(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean((1, 2, 3))
            return torch.stack([torch.zeros_like(mean), 1 + 4 * mean], 1)

    subject = prototype_subject(classes=2)
    subject = replace(subject, module=Bright().eval())
    grey = replace(subject.examples, images=torch.full_like(subject.examples.images, 0.5))
    found = score(replace(subject, examples=grey), Trodo(epsilon=0.1, outside="rotation"))
    assert found == pytest.approx(
        float(torch.tensor(3.4).sigmoid() - torch.tensor(3.0).sigmoid()), abs=1e-6
    )


def test_changed_images_stay_within_epsilon_and_the_image_range() -> None:
    subject = prototype_subject(target=2)
    evidence = scanned(subject, Trodo(epsilon=0.05, reach=50.0)).evidence
    pictures = evidence[0].pictures
    assert pictures is not None
    before, after = pictures
    assert 0 <= float(after.min()) <= float(after.max()) <= 1
    assert 0.049 < float((after - before).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize("size", [(12, 12), (13, 11)])
def test_a_jigsaw_moves_the_pieces_of_every_image_and_loses_none(size: tuple[int, int]) -> None:
    images = torch.rand((40, 3, *size))
    shuffled = _shuffled(images, 2, torch.Generator().manual_seed(0))
    assert torch.equal(images.flatten(2).sort().values, shuffled.flatten(2).sort().values)
    assert not any(map(torch.equal, images, shuffled))
    tall, wide = size[0] // 2, size[1] // 2
    corner = shuffled[0, :, :tall, :wide]
    pieces = [images[0, :, y : y + tall, x : x + wide] for y in (0, tall) for x in (0, wide)]
    assert sum(torch.equal(corner, piece) for piece in pieces) == 1


def test_noise_needs_no_clean_images() -> None:
    subject = prototype_subject(target=2)
    black = replace(subject.examples, images=torch.zeros_like(subject.examples.images))
    noise = Trodo(outside="noise", images=20)
    assert score(subject, noise) == score(replace(subject, examples=black), noise)
    assert score(subject) != score(replace(subject, examples=black))


def test_its_cost_does_not_grow_with_the_number_of_classes() -> None:
    costs = [
        scanned(prototype_subject(classes=classes, per_class=60 // classes)).cost.backward_passes
        for classes in (3, 12)
    ]
    assert costs == [600, 600]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("outside", "blur", "outside must be one of jigsaw, rotation, noise"),
        ("grid", 1, "grid at least 2"),
        ("epsilon", 0.0, "epsilon must be in (0, 1]"),
        ("temperature", -1.0, "temperature positive"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(Trodo(), **{field: value})


def test_images_that_are_smaller_than_the_grid_are_refused() -> None:
    with pytest.raises(ScanError, match="images of 12 x 12 cannot be cut into 20 x 20 pieces"):
        Trodo(grid=20).scan(prototype_subject(), generator=torch.Generator())
