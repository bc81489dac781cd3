"""Networks and settings at the edges of what hardeners take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moth_eval.hardeners import adversarial_training, nc_unlearning, sitting
from moth_eval.hardeners.adversarial_training import AdversarialTraining
from moth_eval.hardeners.fine_tuning import FineTuning
from moth_eval.hardeners.ft_sam import FTSAM
from moth_eval.hardeners.i_bau import IBAU
from moth_eval.hardeners.nad import NAD
from moth_eval.hardeners.nc_unlearning import NCUnlearning, spread
from moth_eval.hardeners.reconstructive_neuron_pruning import ReconstructiveNeuronPruning
from moth_eval.hardeners.scheduling import PairScores
from moth_eval.hardeners.stamping import stamped_step
from moth_eval.hardeners.taps import find_taps
from moth_eval.hardeners.trainer import Recipe, Trainer
from moth_eval.hardeners.universal import Universal
from moth_eval.hardening import Hardener, HardeningStatus
from moth_eval.robustness import pgd
from moth_eval.runner import run_hardening
from moth_eval.subject import Examples, Subject
from tests.support.subjects import prototype_subject


class InPlace(nn.Module):
    """Changes what it is given, and what its convolution puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        found = nn.functional.relu(self.bn(self.conv(images.sub_(0.5))), inplace=True)
        return self.fc(found.mean((2, 3)))  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(192, 192, bias=False)
        self.again = self.first
        self.fc = nn.Linear(192, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.again(self.first(images.flatten(1))))  # type: ignore[no-any-return]


def subject_of(module: nn.Module) -> Subject:
    images = torch.rand((24, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return Subject(
        name="edge", module=module.eval(), num_classes=4, image_shape=(3, 8, 8),
        examples=Examples(images=images, labels=torch.arange(24) % 4),
    )  # fmt: skip


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_attention_is_read_before_a_network_changes_its_features_in_place() -> None:
    subject = subject_of(InPlace())
    method = NAD(epochs=1, teacher_epochs=1, taps="bn")
    result = run_hardening(method, subject, subject.examples, name="nad", seed=0)
    assert result.status is HardeningStatus.HARDENED, result.reason


def ending_in(size: int) -> nn.Sequential:
    """Features of 8x8, 4x4 and `size` places, which adaptive pooling brings to 6x6, and a layer."""
    features = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1),
        nn.AdaptiveMaxPool2d(size), nn.ReLU(), nn.AdaptiveAvgPool2d(6),
    )  # fmt: skip
    return nn.Sequential(features, nn.Flatten(), nn.Linear(144, 4))


@pytest.mark.parametrize(("size", "last"), [(1, ["0.2"]), (2, ["0.2", "0.4"])])
def test_copies_of_fewer_features_are_no_place_for_attention(size: int, last: list[str]) -> None:
    """Torchvision's VGG and AlexNet end in such where images are small, and in a container."""
    subject = subject_of(ending_in(size))
    assert find_taps(subject.module, subject.examples.images[:1]) == ("0.0", *last)
    method = NAD(epochs=1, teacher_epochs=1, taps="0.0+0.5")
    named = run_hardening(method, subject, subject.examples, name="nad", seed=0)
    assert named.status is HardeningStatus.FAILED
    assert "'0.5' puts out copies of fewer features" in named.reason


def test_a_tap_that_is_the_same_everywhere_is_named() -> None:
    """Rounding left a loss of 1e-16, which passed for a lesson."""
    subject = subject_of(ending_in(1))
    method = NAD(epochs=1, teacher_epochs=1, taps="0.2+0")  # the container ends in copies
    result = run_hardening(method, subject, subject.examples, name="nad", seed=0)
    assert result.status is HardeningStatus.FAILED
    assert "look alike at 0: attention cannot teach there" in result.reason


def test_weights_under_two_names_are_interpolated_once() -> None:
    subject = subject_of(Shared())
    before = subject.module.get_parameter("first.weight").detach().clone()
    ends = []
    for share in (1.0, 0.5):
        recipe = Recipe(learning_rate=1e-2, interpolation=share)
        trainer = Trainer(subject, recipe, generator())
        trainer.step(subject.examples.images, subject.examples.labels, done=0.0)
        ends.append(trainer.finished().get_parameter("first.weight").detach().clone())
    assert not torch.equal(ends[0], before)
    torch.testing.assert_close(ends[1], (before + ends[0]) / 2)


def test_images_of_every_class_are_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def recorded(answers: Any, images: Tensor, labels: Tensor, *rest: Any) -> Tensor:
        seen.append(labels)
        return pgd(answers, images, labels, *rest)

    monkeypatch.setattr(adversarial_training, "pgd", recorded)
    subject = prototype_subject(classes=4, target=1, per_class=12)
    AdversarialTraining(rounds=2, images=64).harden(
        subject, subject.examples, generator=generator()
    )
    assert all(len(labels.unique()) == 4 for labels in seen)


def test_a_class_whose_trigger_begins_late_has_the_steps_of_a_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: dict[int, list[int]] = {}
    invert = sitting.Sitting._invert

    def recorded(self: Any, starts: Mapping[tuple[int, int], Any], count: int) -> Any:
        for _, target in starts:
            steps.setdefault(target, []).append(count)
        return invert(self, starts, count)

    monkeypatch.setattr(sitting, "MOST_TARGETS", 2)
    monkeypatch.setattr(sitting.Sitting, "_invert", recorded)
    subject = prototype_subject(classes=4, target=1, per_class=12)
    Universal(rounds=8, clean=8, first_steps=5, next_steps=2).harden(
        subject, subject.examples, generator=generator()
    )
    assert len(steps) == 4
    assert any(len(counts) > 1 for counts in steps.values())
    assert all(counts == [5] + [2] * (len(counts) - 1) for counts in steps.values())


def test_nothing_is_unlearned_where_everything_may_be_known() -> None:
    subject = prototype_subject(target=2, per_class=12)
    method = ReconstructiveNeuronPruning(forgotten=1.0, epochs=1)
    result = run_hardening(method, subject, subject.examples, name="rnp", seed=0)
    assert result.status is not HardeningStatus.FAILED, result.reason
    if result.status is HardeningStatus.HARDENED:
        assert result.figures["unlearning_epochs"] == 0
        assert result.figures["unlearned_accuracy"] == pytest.approx(subject.accuracy(), abs=0.1)


def test_a_pair_that_worked_at_last_counts_as_measured_once() -> None:
    scores = PairScores(3, [0, 1, 2], symmetric=False)
    scores.note(0, 1, None)
    assert scores.gain[0, 1].isnan()
    scores.note(0, 1, 50.0)
    assert scores.gain[0, 1].isinf()
    scores.note(0, 1, 60.0)
    assert float(scores.gain[0, 1]) == pytest.approx(0.1823, abs=1e-4)


@pytest.mark.parametrize("batch", [100, 16])
def test_i_bau_says_what_its_last_perturbation_carried_away(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """With one batch it had been the clean error rate: the perturbation was zero until then."""
    found: list[float] = []
    perturbation = IBAU._perturbation

    def recorded(self: Any, answers: Any, rounds: Any, drawn: Any) -> Tensor:
        delta = perturbation(self, answers, rounds, drawn)
        plain, labels = (
            torch.cat([part(rows) for rows in drawn])
            for part in (rounds.batches.images, rounds.batches.labels)
        )
        with torch.no_grad():
            right = answers(plain).argmax(1) == labels
            wrong = answers((plain + delta).clamp(0, 1)).argmax(1) != labels
        found.append(float((right & wrong).float().mean()))
        return delta

    monkeypatch.setattr(IBAU, "_perturbation", recorded)
    layer = nn.Linear(192, 4)
    nn.init.normal_(layer.weight, generator=generator())
    subject = subject_of(nn.Sequential(nn.Flatten(), layer))
    answered = subject.logits(subject.examples.images).argmax(1)
    subject = replace(subject, examples=replace(subject.examples, labels=answered))
    method = IBAU(rounds=2, batch=batch, inner_rate=1e3)
    result = run_hardening(method, subject, subject.examples, name="i-bau", seed=0)
    assert found[-1] > 0.2
    assert result.figures["fooled"] == pytest.approx(found[-1])


@pytest.mark.parametrize(
    ("method", "images"),
    [
        (FineTuning(epochs=1), 1),
        (FTSAM(epochs=1), 1),
        (ReconstructiveNeuronPruning(epochs=1, forgotten=0.0), 2),  # one of them is held back
    ],
)
def test_one_image_that_batch_norm_cannot_normalise_by_is_said_to_be_too_few(
    method: Hardener, images: int
) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4))
    subject = subject_of(module)
    found = subject.examples.images[:images]
    data = Examples(images=found, labels=subject.logits(found[:1]).argmax(1).repeat(images))
    result = run_hardening(method, subject, data, name="x", seed=0)
    assert result.status is HardeningStatus.FAILED
    assert "BatchNorm cannot normalise by a batch of a single image: expected at least two" in (
        result.reason
    )


def test_one_image_of_many_pixels_is_trained_on() -> None:
    subject = subject_of(ending_in(2).insert(0, nn.BatchNorm2d(3)))
    data = Examples(images=subject.examples.images[:1], labels=subject.examples.labels[:1])
    result = run_hardening(FineTuning(epochs=1), subject, data, name="x", seed=0)
    assert result.status is HardeningStatus.HARDENED, result.reason


def test_unlearning_many_triggers_keeps_to_the_batch_and_gives_each_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps: list[tuple[list[int], int]] = []

    def recorded(*given: Any, **how: Any) -> None:
        steps.append((how["stamped"], how["clean"]))
        stamped_step(*given, **how)

    monkeypatch.setattr(nc_unlearning, "stamped_step", recorded)
    subject = prototype_subject(classes=4, target=1, per_class=12)
    method = NCUnlearning(epochs=1, batch=4, stamped_share=0.5, cut=-100, success_rate=0.1)
    result = run_hardening(method, subject, subject.examples, name="x", seed=0)
    assert result.figures["flagged"] == 4
    assert all((sum(stamped), clean) == (2, 2) for stamped, clean in steps)
    assert [sum(each) for each in zip(*(stamped for stamped, _ in steps), strict=True)] == [6] * 4


@pytest.mark.parametrize("target", [None, 1])
def test_unlearning_with_images_of_one_class_asks_for_a_second(target: int | None) -> None:
    subject = prototype_subject(classes=4, target=1, per_class=12)
    ones = subject.examples.labels == 1
    data = Examples(images=subject.examples.images[ones], labels=subject.examples.labels[ones])
    result = run_hardening(NCUnlearning(target=target), subject, data, name="x", seed=0)
    assert result.status is HardeningStatus.FAILED
    assert "expected images of a second class, which a trigger could lead away, got those of" in (
        result.reason
    )


def test_triggers_share_what_does_not_divide() -> None:
    assert [spread(5, 3, turn=turn) for turn in range(3)] == [[2, 2, 1], [2, 1, 2], [1, 2, 2]]
    assert spread(4, 1, turn=7) == [4]
