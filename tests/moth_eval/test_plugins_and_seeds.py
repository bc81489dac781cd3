from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint

import pytest
import torch

from moth_eval import plugins
from moth_eval.errors import InputError, InstallationError
from moth_eval.seeds import derive_seed, generator_for
from scanners import ENTRY_POINTS, SCANNERS
from scanners.neural_cleanse import NeuralCleanse


def offer(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint(name="extra", value=value, group=ENTRY_POINTS)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [entry])


def test_a_row_of_the_table_is_loaded_by_name() -> None:
    assert plugins.resolve("nc", SCANNERS, ENTRY_POINTS) is NeuralCleanse


def test_an_entry_point_of_another_distribution_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "scanners.neural_cleanse:NeuralCleanse")
    assert plugins.names(SCANNERS, ENTRY_POINTS) == [*SCANNERS, "extra"]
    assert plugins.resolve("extra", SCANNERS, ENTRY_POINTS) is NeuralCleanse


def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, "no_such_module_anywhere:Scanner")
    with pytest.raises(InstallationError, match="plug-in 'extra' of an unnamed distribution"):
        plugins.resolve("extra", SCANNERS, ENTRY_POINTS)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="expected one of nc"):
        plugins.resolve("nope", SCANNERS, ENTRY_POINTS)


def test_seeds_depend_on_every_part_and_on_their_borders() -> None:
    seeds = {derive_seed(*p) for p in ((0, "ab", "c"), (0, "a", "bc"), (1, "ab", "c"), (0, "ab"))}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "model", "nc") == 859323655221941037
    draws = [torch.rand(2, generator=generator_for("x")).tolist() for _ in range(2)]
    assert draws[0] == draws[1]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Something with a tuple among its parameters, and a field that is none."""

    classes: tuple[int, ...] = (1,)
    colour: tuple[float, float] = (0.0, 0.0)
    limit: float | None = None
    kept: str = field(default="", metadata={"parameter": False})


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, object]]:
    table = {"method": f"{__name__}:Method"}
    monkeypatch.setattr(plugins, "import_module", lambda name: sys.modules[name])

    def parse(spec: str) -> dict[str, object]:
        return plugins.parse_spec(spec, table, "none", kind="method", contract=Method)[1]

    return parse


@pytest.mark.parametrize("text", ["limit=inf", "limit=nan", "colour=0.5+-inf"])
def test_a_number_that_no_record_could_hold_is_refused(
    parsed: Callable[[str], dict[str, object]], text: str
) -> None:
    """JSON has none for it: the run could be neither resumed nor repeated."""
    name, _, value = text.partition("=")
    with pytest.raises(InputError, match=f"{name} takes finite numbers, got '{re.escape(value)}"):
        parsed(f"method:{text}")
    assert parsed("method:limit=none")["limit"] is None


def test_parts_of_a_tuple_are_joined_by_a_plus(
    parsed: Callable[[str], dict[str, object]],
) -> None:
    assert parsed("method") == {"classes": (1,), "colour": (0.0, 0.0), "limit": None}
    assert parsed("method:classes=1+2,colour=0.5+1")["classes"] == (1, 2)
    assert parsed("method:classes=")["classes"] == ()
    with pytest.raises(InputError, match=r"classes takes a tuple\[int, \.\.\.\], got '1\+x'"):
        parsed("method:classes=1+x")
    with pytest.raises(InputError, match="has no parameter 'kept': expected field=value"):
        parsed("method:kept=1")
