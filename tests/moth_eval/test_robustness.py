from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import InputError
from moth_eval.intervals import wilson
from moth_eval.robustness import PGD, pgd, robust_accuracy
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples, Subject
from tests.support.subjects import prototype_subject

SMALL = PGD(epsilon=0.05, step_size=0.02, steps=10)


class Plane(nn.Module):
    """Two classes apart by a plane through the middle of image space."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3 * 4 * 4, generator=generator))

    def margin(self, images: Tensor) -> Tensor:
        return (images - 0.5).flatten(1) @ self.weight

    def forward(self, images: Tensor) -> Tensor:
        margin = self.margin(images)
        return torch.stack([-margin, margin], 1)


@pytest.fixture
def plane() -> Subject:
    generator = torch.Generator().manual_seed(1)
    # Far from 0 and 1, so that the box never cuts the ball.
    images = 0.5 + 0.5 * (torch.rand((80, 3, 4, 4), generator=generator) - 0.5)
    labels = torch.randint(2, (80,), generator=generator)
    return Subject(
        name="plane",
        module=Plane().eval(),
        num_classes=2,
        image_shape=(3, 4, 4),
        examples=Examples(images=images, labels=labels),
    )


def test_robust_accuracy_of_a_plane_is_what_geometry_says(plane: Subject) -> None:
    module = plane.module
    assert isinstance(module, Plane)
    signed = module.margin(plane.examples.images) * (2 * plane.examples.labels - 1)
    robust = signed > 0.05 * module.weight.abs().sum()
    result = robust_accuracy(plane, SMALL, generator=generator_for(0))
    assert 0 < result.robust.hits < result.clean.hits < 80
    assert result.robust.hits == int(robust.sum())
    assert result.clean.hits == int((signed > 0).sum())
    for label, entry in enumerate(result.per_class):
        assert entry is not None
        assert entry.hits == int(robust[plane.examples.labels == label].sum())
    assert result.robust.interval == wilson(result.robust.hits, 80)


def test_adversarial_images_stay_in_the_ball_and_in_the_image_range() -> None:
    subject = prototype_subject()
    images, labels = subject.examples.images, subject.examples.labels
    found = pgd(subject.module, images, labels, SMALL, generator_for(0))
    assert (found - images).abs().max() <= SMALL.epsilon + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    assert not found.requires_grad


def test_adversarial_images_have_a_higher_loss_and_more_steps_do_not_lower_it(
    plane: Subject,
) -> None:
    images, labels = plane.examples.images, plane.examples.labels

    def loss(attack: PGD) -> float:
        found = pgd(plane.module, images, labels, attack, generator_for(0))
        return float(nn.functional.cross_entropy(plane.logits(found), labels))

    clean = float(nn.functional.cross_entropy(plane.logits(images), labels))
    losses = [loss(replace(SMALL, steps=steps)) for steps in (1, 3, 10)]
    assert clean < losses[0] < losses[1] <= losses[2]


def test_restarts_keep_the_worst_of_each_image() -> None:
    torch.manual_seed(0)
    bumpy = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.Hardtanh(-0.1, 0.1), nn.Linear(64, 3))
    images, labels = torch.rand(60, 3, 4, 4), torch.randint(3, (60,))
    attack = PGD(epsilon=0.1, step_size=0.05, steps=2)
    generator = generator_for(5)
    singles = [pgd(bumpy, images, labels, attack, generator) for _ in range(3)]
    several = pgd(bumpy, images, labels, replace(attack, restarts=3), generator_for(5))

    def fooled(found: Tensor) -> Tensor:
        return bumpy(found).argmax(1) != labels

    assert torch.equal(fooled(several), torch.stack([fooled(s) for s in singles]).any(0))
    assert fooled(several).sum() > max(fooled(s).sum() for s in singles)


@pytest.mark.parametrize(("restarts", "passes"), [(1, (4, 4)), (3, (15, 12))])
def test_an_attack_says_how_many_passes_it_takes(restarts: int, passes: tuple[int, int]) -> None:
    seen = [0]

    def network(images: Tensor) -> Tensor:
        seen[0] += len(images)
        return images.flatten(1)[:, :3]

    attack, labels = PGD(steps=4, restarts=restarts), torch.zeros(5, dtype=torch.int64)
    pgd(network, torch.rand(5, 3, 2, 2), labels, attack, generator_for(0))
    assert attack.passes == passes
    assert seen[0] == 5 * passes[0]


class Pinhole(nn.Module):
    """Class 0, but for images that are grey all over: class 1."""

    def forward(self, images: Tensor) -> Tensor:
        flat = 0 * images.flatten(1).sum(1)
        grey = ((images - 0.5).abs().flatten(1).amax(1) < 1e-3).float()
        return torch.stack([flat + 0.5, flat + grey], 1)


def test_a_misclassified_image_is_not_robust_even_if_the_attack_mends_it(plane: Subject) -> None:
    grey = Examples(images=torch.full((4, 3, 4, 4), 0.5), labels=torch.zeros(4, dtype=torch.int64))
    subject = replace(plane, module=Pinhole().eval(), examples=grey)
    attacked = pgd(subject.module, grey.images, grey.labels, SMALL, generator_for(0))
    assert not subject.logits(attacked).argmax(1).any()
    assert robust_accuracy(subject, SMALL, generator=generator_for(0)).robust.hits == 0


def test_a_class_without_images_has_no_robust_accuracy() -> None:
    subject = prototype_subject()
    keep = subject.examples.labels != 3
    examples = Examples(images=subject.examples.images[keep], labels=subject.examples.labels[keep])
    result = robust_accuracy(replace(subject, examples=examples), SMALL, generator=generator_for(0))
    assert [entry is None for entry in result.per_class] == [False, False, False, True, False]


def test_passes_are_counted_and_nothing_of_the_subject_changes() -> None:
    subject = prototype_subject()
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    images, state = subject.examples.images.clone(), torch.get_rng_state()
    result = robust_accuracy(
        subject, replace(SMALL, steps=3, restarts=2), generator=generator_for(0)
    )
    assert result.cost.backward_passes == 60 * 3 * 2
    assert result.cost.forward_passes == 60 * (1 + 2 * (3 + 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(subject.examples.images, images)
    assert all(torch.equal(before[k], v) for k, v in subject.module.state_dict().items())
    assert all(p.grad is None for p in subject.module.parameters())


def test_no_gradient_reaches_the_weights_of_a_network_in_training() -> None:
    subject = prototype_subject()
    pgd(subject.module, subject.examples.images, subject.examples.labels, SMALL, generator_for(0))
    assert all(p.requires_grad and p.grad is None for p in subject.module.parameters())


def test_equal_generators_give_equal_images() -> None:
    subject = prototype_subject()
    one, two = (
        pgd(
            subject.module, subject.examples.images, subject.examples.labels, SMALL,
            generator_for(seed),
        )
        for seed in (4, 4)
    )  # fmt: skip
    assert torch.equal(one, two)


def test_the_defaults_are_the_published_check() -> None:
    attack = PGD()
    assert (attack.epsilon, attack.step_size, attack.steps) == (8 / 255, 2 / 255, 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epsilon": 8.0}, "divide figures for 0..255 by 255"),
        ({"step_size": 0.0}, "step_size above 0"),
        ({"steps": 0}, "steps and restarts must be at least 1"),
        ({"restarts": 2, "random_start": False}, "are all the same"),
    ],
)
def test_an_attack_that_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PGD(**fields)


def test_a_subject_without_examples_is_refused() -> None:
    subject = prototype_subject()
    examples = Examples(images=subject.examples.images[:0], labels=subject.examples.labels[:0])
    with pytest.raises(InputError, match="robust accuracy needs examples"):
        robust_accuracy(replace(subject, examples=examples), SMALL, generator=generator_for(0))
