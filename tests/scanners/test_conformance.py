"""What every scanner of the table has to keep to."""

from __future__ import annotations

import dataclasses
import inspect
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moth_eval.plugins import resolve
from moth_eval.runner import run_scan
from moth_eval.scan import Scan, Scanner, Status
from moth_eval.subject import Subject
from scanners import ENTRY_POINTS, SCANNERS
from tests.support.subjects import prototype_subject


@pytest.fixture(params=sorted(SCANNERS))
def scanner(request: pytest.FixtureRequest) -> Scanner:
    found = resolve(request.param, SCANNERS, ENTRY_POINTS)()
    assert isinstance(found, Scanner)
    return found


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prototype_subject(classes=4, target=1, per_class=6)


def scan(scanner: Scanner, subject: Subject, seed: int = 0) -> Scan:
    return scanner.scan(subject, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_frozen_keyword_only_dataclass_that_needs_no_arguments(scanner: Scanner) -> None:
    kind = type(scanner)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    parameters = inspect.signature(kind).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters)
    assert kind.__mro__ == (kind, object)


def test_it_names_its_source_and_how_it_differs_from_it(scanner: Scanner) -> None:
    text = inspect.getdoc(type(scanner)) or ""
    assert "Source:" in text
    assert "Differs from the reference:" in text
    assert all(field.name in text for field in dataclasses.fields(scanner))  # type: ignore[arg-type]


def test_it_scores_a_subject_with_a_finite_score_and_says_what_it_cost(
    scanner: Scanner, subject: Subject
) -> None:
    result = scan(scanner, subject)
    assert result.status is Status.SCORED
    assert result.score is not None
    assert math.isfinite(result.score)
    assert result.cost.forward_passes > 0
    assert result.target is None or 0 <= result.target < subject.num_classes
    assert result.rule is None or 0 <= result.rule.false_alarm_rate <= 1


def test_its_triggers_are_images_and_their_figures_are_true(
    scanner: Scanner, subject: Subject
) -> None:
    for trigger in scan(scanner, subject).triggers:
        assert trigger.mask.shape == (1, *subject.image_shape[1:])
        assert trigger.pattern.shape == subject.image_shape
        for part in (trigger.mask, trigger.pattern):
            assert 0 <= part.min() <= part.max() <= 1
        assert trigger.size == pytest.approx(float(trigger.mask.sum()), rel=1e-4)
        assert 0 <= trigger.asr <= 1


def test_equal_generators_give_equal_results(scanner: Scanner, subject: Subject) -> None:
    one, other = scan(scanner, subject), scan(scanner, subject)
    assert one.score == other.score
    assert [t.size for t in one.triggers] == [t.size for t in other.triggers]


def test_it_draws_from_its_generator_alone(scanner: Scanner, subject: Subject) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    scan(scanner, subject)
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])


def test_it_leaves_the_subject_as_it_was(scanner: Scanner, subject: Subject) -> None:
    module = subject.module
    weights = {k: v.clone() for k, v in module.state_dict().items()}
    flags = [p.requires_grad for p in module.parameters()]
    images, device = subject.examples.images.clone(), subject.examples.images.device
    scan(scanner, subject)
    assert all(torch.equal(weights[k], v) for k, v in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == flags
    assert all(p.grad is None and p.device == device for p in module.parameters())
    assert not any(part.training for part in module.modules())
    assert torch.equal(images, subject.examples.images)
    assert torch.is_grad_enabled()


def test_a_network_that_answers_one_class_for_everything_gets_an_answer(scanner: Scanner) -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([3.0, 0.0, 0.0, 0.0]) + 0 * images.mean((1, 2, 3))[:, None]

    constant = dataclasses.replace(
        prototype_subject(classes=4, per_class=3), module=Constant().eval()
    )
    result = run_scan(scanner, constant, name="any", seed=0)
    assert result.status in (Status.SCORED, Status.INCONCLUSIVE)


def test_a_network_that_raises_is_a_failed_scan_with_its_reason(scanner: Scanner) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no such luck")

    broken = dataclasses.replace(prototype_subject(classes=4), module=Broken().eval())
    result = run_scan(scanner, broken, name="any", seed=0)
    assert (result.status, result.score) == (Status.FAILED, None)
    assert result.reason == "RuntimeError: no such luck"


def test_the_subject_that_it_sees_holds_no_ground_truth() -> None:
    names = {field.name for field in dataclasses.fields(Subject)}
    assert not {"truth", "poisoned", "label", "ground_truth", "trigger"} & names
