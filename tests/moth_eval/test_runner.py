from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from moth_eval.errors import InputError, ScanError
from moth_eval.runner import resolve_device, run_scan, untouched
from moth_eval.scan import Scan, Status
from moth_eval.subject import Examples, Subject
from tests.support.subjects import prototype_subject


@dataclass(frozen=True, kw_only=True)
class Dice:
    """A scanner whose score is a random number, and which is careless with everything else."""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        subject.module.train()
        for parameter in subject.module.parameters():
            parameter.requires_grad_(False)
        score = float(torch.rand((), generator=generator))
        return Scan(status=Status.SCORED, score=score)


@dataclass(frozen=True, kw_only=True)
class Explosive:
    """A scanner that raises what it is told to."""

    error: Exception

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        raise self.error


def score(subject: Subject, *, name: str = "dice", seed: int = 0) -> float | None:
    return run_scan(Dice(), subject, name=name, seed=seed).score


def test_randomness_depends_on_seed_model_and_scanner_alone() -> None:
    subject = prototype_subject()
    first = score(subject)
    torch.rand(3)
    assert score(subject) == first
    others = [
        score(subject, seed=1),
        score(subject, name="other"),
        score(replace(subject, sha256="ab")),
        score(replace(subject, name="renamed")),
    ]
    assert len({first, *others}) == 5
    assert score(replace(subject, sha256="ab", name="renamed")) == others[2]


def test_a_careless_scanner_changes_nothing() -> None:
    subject = prototype_subject()
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    run_scan(Dice(), subject, name="dice", seed=0)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert not subject.module.training
    assert all(p.requires_grad for p in subject.module.parameters())


def test_an_exception_is_put_right_after_too() -> None:
    module = prototype_subject().module
    with pytest.raises(ValueError, match="oops"), untouched(module):
        module.train()
        raise ValueError("oops")
    assert not module.training


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ScanError("too few classes"), "too few classes"), (KeyError("x"), "KeyError: 'x'")],
)
def test_a_failing_scanner_is_a_result(error: Exception, reason: str) -> None:
    result = run_scan(Explosive(error=error), prototype_subject(), name="e", seed=0)
    assert (result.status, result.reason) == (Status.FAILED, reason)
    assert result.cost.seconds >= 0


def test_the_user_can_still_interrupt() -> None:
    scanner = Explosive(error=KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run_scan(scanner, prototype_subject(), name="e", seed=0)


def test_time_and_memory_are_measured_by_the_runner() -> None:
    cost = run_scan(Dice(), prototype_subject(), name="dice", seed=0).cost
    assert cost.seconds > 0
    assert cost.peak_memory_bytes > 10 << 20


def test_a_subject_without_examples_or_in_training_mode_is_not_scanned() -> None:
    subject = prototype_subject()
    empty = Examples(images=subject.examples.images[:0], labels=subject.examples.labels[:0])
    result = run_scan(Dice(), replace(subject, examples=empty), name="dice", seed=0)
    assert (result.status, "got none" in result.reason) == (Status.FAILED, True)
    subject.module.train()
    result = run_scan(Dice(), subject, name="dice", seed=0)
    assert "training mode" in result.reason


def test_devices_are_resolved_or_explained() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type in ("cpu", "cuda")
    with pytest.raises(InputError, match="device 'abacus' cannot be used here"):
        resolve_device("abacus")
