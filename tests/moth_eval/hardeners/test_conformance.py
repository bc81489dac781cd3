"""What every hardener of the table has to keep to."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from moth_eval.conformance import check_hardener
from moth_eval.conformance.journals import Noted
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardening import SILENT, Hardener, Hardening, HardeningStatus, LogEntry
from moth_eval.plugins import resolve
from moth_eval.runner import run_hardening
from moth_eval.subject import Examples, Subject
from tests.support.counted import Counted
from tests.support.subjects import prototype_subject

PAIRED: dict[str, Any] = {
    "rounds": 3, "inversion_images": 8, "inversion_batch": 4, "stamped": 2, "clean": 8,
    "pairs_per_round": 2, "next_steps": 4,
}  # fmt: skip
FEW: dict[str, dict[str, Any]] = {
    "moth": {**PAIRED, "first_steps": 4, "fresh_steps": 8, "warm_up_rounds": 1, "warm_up_steps": 8},
    "moth-paper": {
        **PAIRED, "first_steps": 4, "fresh_steps": 8, "warm_up_rounds": 1, "warm_up_steps": 8,
    },
    "moth-removal": {
        **PAIRED, "first_steps": 4, "fresh_steps": 8, "warm_up_rounds": 1, "warm_up_steps": 8,
    },
    "pairwise": {**PAIRED, "steps": 8},
    "universal": {
        "rounds": 4, "first_steps": 8, "next_steps": 4, "inversion_images": 8,
        "inversion_batch": 4, "stamped": 2, "clean": 8,
    },
    "nc-triggers": {
        "rounds": 4, "inversion_images": 20, "success_rate": 0.5, "stamped": 2, "clean": 8,
    },
    "adversarial": {"rounds": 4, "images": 8},
    "fine-pruning": {"epochs": 3, "images": 8},
    "anp": {"rounds": 12, "images": 8, "max_drop": 1.0, "learning_rate": 5.0},
    "clp": {"u": 0.5},
    "rnp": {"epochs": 3, "unlearning_epochs": 2, "images": 8, "max_drop": 1.0},
    "fine-tuning": {"epochs": 4, "batch": 16},
    "ft-sam": {"epochs": 4, "batch": 16},
    "nad": {"teacher_epochs": 2, "epochs": 2, "batch": 16, "taps": "conv+bn"},
    "nc-unlearning": {
        "epochs": 4, "batch": 16, "inversion_images": 20, "success_rate": 0.5, "target": 1,
    },
    "i-bau": {"rounds": 4, "batch": 16},
}  # fmt: skip
"""Settings that take a second; a method without a row fails its tests."""


DATA_FREE = {"clp"}
"""Methods that look at no image and draw nothing: equal for every seed, without rounds."""

PRUNING = {"anp", "rnp"}
"""Methods whose seed shows in the log; few channels leave few ways to prune them."""


@pytest.fixture(params=sorted(HARDENERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def hardener(name: str) -> Hardener:
    found = resolve(name, HARDENERS, ENTRY_POINTS)(**FEW[name])
    assert isinstance(found, Hardener)
    return found


@pytest.fixture
def subject(name: str) -> Subject:
    found = prototype_subject(classes=4, target=1, per_class=6)
    if name in DATA_FREE:
        # One channel stands out, so that there is something to change.
        with torch.no_grad():
            found.module.get_parameter("bn.weight")[0] = 2
    if name in PRUNING:
        # One channel does harm; answers that are quite certain have no gradient to mask by.
        with torch.no_grad():
            found.module.get_parameter("bn.weight")[0] = -1
            for weight in found.module.get_submodule("fc").parameters():
                weight *= 0.02
    return found


def with_data(name: str) -> None:
    if name in DATA_FREE:
        pytest.skip("looks at no image")


@pytest.fixture(scope="module")
def data() -> Examples:
    return prototype_subject(classes=4, target=1, per_class=10).examples


def harden(
    hardener: Hardener, subject: Subject, data: Examples, journal: Any = SILENT, seed: int = 0
) -> Hardening:
    generator = torch.Generator().manual_seed(seed)
    return hardener.harden(subject, data, generator=generator, journal=journal)


def weights(module: nn.Module | None) -> dict[str, torch.Tensor]:
    assert module is not None
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_it_keeps_to_the_rules_of_hardeners(
    hardener: Hardener, subject: Subject, data: Examples
) -> None:
    check_hardener(hardener, subject=subject, data=data)


def test_it_inherits_from_nothing(hardener: Hardener) -> None:
    assert type(hardener).__mro__ == (type(hardener), object)


def test_it_names_its_source_and_every_field(hardener: Hardener) -> None:
    text = inspect.getdoc(type(hardener)) or ""
    assert "Source:" in text
    assert all(field.name in text for field in dataclasses.fields(hardener))  # type: ignore[arg-type]


def test_it_returns_a_changed_copy_and_leaves_the_subject_alone(
    name: str, hardener: Hardener, subject: Subject, data: Examples
) -> None:
    before, state = weights(subject.module), torch.get_rng_state()
    images = data.images.clone()
    flags = [p.requires_grad for p in subject.module.parameters()]
    result = harden(hardener, subject, data)
    assert result.status is HardeningStatus.HARDENED
    assert result.module is not None
    assert result.module is not subject.module
    assert not result.module.training
    assert not same(before, weights(result.module))
    assert same(before, weights(subject.module))
    assert flags == [p.requires_grad for p in subject.module.parameters()]
    assert all(p.grad is None for p in subject.module.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, data.images)
    assert result.images_used == (0 if name in DATA_FREE else len(data))
    assert (result.cost.backward_passes > 0) == (name not in DATA_FREE)


def untimed(result: Hardening) -> list[LogEntry]:
    return [replace(entry, seconds=0.0) for entry in result.log]


def test_equal_seeds_give_equal_networks_and_other_seeds_others(
    name: str, hardener: Hardener, subject: Subject, data: Examples
) -> None:
    first = harden(hardener, subject, data)
    torch.rand(5)
    again, other = harden(hardener, subject, data), harden(hardener, subject, data, seed=1)
    assert same(weights(first.module), weights(again.module))
    assert untimed(first) == untimed(again)
    if name in PRUNING:
        assert untimed(first) != untimed(other)
    else:
        assert same(weights(first.module), weights(other.module)) == (name in DATA_FREE)


def test_its_state_is_kept_while_it_works(
    name: str, hardener: Hardener, subject: Subject, data: Examples
) -> None:
    with_data(name)
    journal = Noted()
    harden(hardener, subject, data, journal)
    assert journal.saves >= 2


def test_the_log_tells_every_round_with_finite_figures(
    name: str, hardener: Hardener, subject: Subject, data: Examples
) -> None:
    with_data(name)
    log = harden(hardener, subject, data).log
    assert [entry.round for entry in log] == list(range(1, len(log) + 1))
    for entry in log:
        assert 0 <= entry.accuracy <= 1
        assert entry.loss >= 0
        assert entry.distance is None or entry.distance > 0
    assert [e.steps for e in log] == sorted({e.steps for e in log})


def test_a_class_without_images_is_no_obstacle(
    hardener: Hardener, subject: Subject, data: Examples
) -> None:
    some = data.labels != 3
    few = Examples(images=data.images[some], labels=data.labels[some])
    result = run_hardening(hardener, subject, few, name="any", seed=0)
    assert result.status is HardeningStatus.HARDENED, result.reason


def test_no_images_at_all_is_a_failure_with_a_reason(
    name: str, hardener: Hardener, subject: Subject, data: Examples
) -> None:
    with_data(name)
    nothing = Examples(images=data.images[:0], labels=data.labels[:0])
    result = run_hardening(hardener, subject, nothing, name="any", seed=0)
    assert result.status is HardeningStatus.FAILED
    assert "expected" in result.reason


NO_TEACHER = {"clp", "anp", "rnp", "i-bau"}
"""Methods whose recipe asks for no answers of the network as it came."""


def test_it_counts_what_goes_through_the_network_and_through_its_teacher(
    name: str, hardener: Any, subject: Subject, data: Examples
) -> None:
    if name not in NO_TEACHER:
        hardener = replace(hardener, recipe=replace(hardener.recipe, distillation=0.5))
    if name == "nad":
        hardener = replace(hardener, taps="network.conv+network.bn")
    counted = Counted(subject.module).eval()
    cost = harden(hardener, replace(subject, module=counted), data).cost
    # One image tells how the network is built, six and more whether BatchNorm can be folded.
    assert 0 <= int(counted.seen) - cost.forward_passes <= 8


def test_every_round_is_told_with_its_figures(
    name: str,
    hardener: Hardener,
    subject: Subject,
    data: Examples,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with_data(name)
    with caplog.at_level("DEBUG", logger="moth_eval.runner"):
        done = run_hardening(hardener, subject, data, name="x", seed=0)
    told = [r for r in caplog.records if r.getMessage() == "hardening"]
    assert [vars(r)["figures"]["round"] for r in told] == [entry.round for entry in done.log]
    assert vars(told[0])["figures"]["loss"] == done.log[0].loss
