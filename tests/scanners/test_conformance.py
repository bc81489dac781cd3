"""What every scanner of the table has to keep to."""

from __future__ import annotations

import dataclasses
import inspect
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from moth_eval.conformance import Check, scanner_checks
from moth_eval.plugins import build, resolve
from moth_eval.runner import run_scan
from moth_eval.scan import Ruled, Scanner, Status
from moth_eval.subject import Subject
from scanners import ENTRY_POINTS, SCANNERS
from tests.support.subjects import prototype_subject

SUBJECT = prototype_subject(classes=4, target=1, per_class=6)


@pytest.fixture(params=sorted(SCANNERS))
def scanner(request: pytest.FixtureRequest) -> Scanner:
    found = resolve(request.param, SCANNERS, ENTRY_POINTS)()
    assert isinstance(found, Scanner)
    return found


@pytest.mark.parametrize("check", scanner_checks(SUBJECT), ids=str)
def test_it_keeps_to_the_rules_of_scanners(scanner: Scanner, check: Check[Scanner]) -> None:
    check(scanner)


def test_it_inherits_from_nothing(scanner: Scanner) -> None:
    assert type(scanner).__mro__ == (type(scanner), object)


def test_it_names_its_source_and_how_it_differs_from_it(scanner: Scanner) -> None:
    text = inspect.getdoc(type(scanner)) or ""
    assert "Source:" in text
    assert "Differs from the reference:" in text
    assert all(field.name in text for field in dataclasses.fields(scanner))  # type: ignore[arg-type]


WITHOUT_A_RULE = {"trodo"}


def test_it_has_a_rule_of_its_own_or_says_why_it_has_none(scanner: Scanner) -> None:
    assert isinstance(scanner, Ruled)
    names = {type(resolve(name, SCANNERS, ENTRY_POINTS)()) for name in WITHOUT_A_RULE}
    assert bool(scanner.without_rule()) == (type(scanner) in names)


@pytest.mark.parametrize("name", ["nc", "pixel", "cso"])
def test_sizes_compare_models_and_have_no_rule(name: str) -> None:
    scanner = build(resolve(name, SCANNERS, ENTRY_POINTS), {"statistic": "size"})
    assert "its cut has to come from clean models" in scanner.without_rule()
    assert run_scan(scanner, SUBJECT, name=name, seed=0).rule is None


def test_a_network_that_raises_is_a_failed_scan_with_its_reason(scanner: Scanner) -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("no such luck")

    broken = dataclasses.replace(SUBJECT, module=Broken().eval())
    result = run_scan(scanner, broken, name="any", seed=0)
    assert (result.status, result.score) == (Status.FAILED, None)
    assert result.reason == "RuntimeError: no such luck"


def test_the_subject_that_it_sees_holds_no_ground_truth() -> None:
    names = {field.name for field in dataclasses.fields(Subject)}
    assert not {"truth", "poisoned", "label", "ground_truth", "trigger"} & names


class Counting(nn.Module):
    """A network that counts the images it is given, and that cannot be traced into others."""

    def __init__(self, network: nn.Module, counts: list[int]) -> None:
        super().__init__()
        self.network = network
        self.__dict__["counts"] = counts

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        return Counting(deepcopy(self.network), self.__dict__["counts"]).eval()

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 0:  # a tracer cannot know
            self.__dict__["counts"].append(len(images))
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize("name", ["nc", "pixel", "k-arm", "cso", "filters"])
def test_passes_that_are_counted_are_the_passes_that_are_made(name: str) -> None:
    """Public code runs the network twice per step and tells of one."""
    counts = list[int]()
    counted = dataclasses.replace(SUBJECT, module=Counting(SUBJECT.module, counts).eval())
    scanner = resolve(name, SCANNERS, ENTRY_POINTS)()
    assert isinstance(scanner, Scanner)
    result = scanner.scan(counted, generator=torch.Generator().manual_seed(0))
    assert result.status is Status.SCORED
    # A few images more, by which memory is measured.
    assert sum(counts) == pytest.approx(result.cost.forward_passes, rel=0.02, abs=20)
    assert result.cost.forward_passes >= result.cost.backward_passes > 1000
