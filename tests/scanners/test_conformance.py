"""What every scanner of the table has to keep to."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
from torch import Tensor, nn

from moth_eval.conformance import Check, scanner_checks
from moth_eval.plugins import resolve
from moth_eval.runner import run_scan
from moth_eval.scan import Scanner, Status
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
