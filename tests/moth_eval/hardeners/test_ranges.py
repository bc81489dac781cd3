"""Values that would turn a method off or upside down are refused where they are given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from moth_eval.errors import HardeningError, InputError
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardeners.ranges import require_in, require_word
from moth_eval.hardening import Hardener
from moth_eval.plugins import parse_spec, resolve

ANY_NUMBER = {"nc-unlearning:cut"}
"""Fields that may lie on either side of zero."""


def numbers(method: Any, prefix: str) -> Iterator[str]:
    """Every field that takes a number, inner ones with a dot."""
    for field in fields(method):
        if is_dataclass(value := getattr(method, field.name)):
            yield from numbers(value, f"{prefix}{field.name}.")
        elif {"int", "float"} & set(str(field.type).split(" | ")):
            yield f"{prefix}{field.name}"


NUMBERS = [
    one
    for name in HARDENERS
    for one in numbers(resolve(name, HARDENERS, ENTRY_POINTS)(), f"{name}:")
]


def given(spec: str) -> None:
    parse_spec(spec, HARDENERS, ENTRY_POINTS, kind="method", contract=Hardener)


@pytest.mark.parametrize("field", [one for one in NUMBERS if one not in ANY_NUMBER])
def test_no_number_below_zero_is_taken_and_the_field_is_named(field: str) -> None:
    name = field.rpartition(":")[2].rpartition(".")[2]
    with pytest.raises(InputError, match=rf"--method {field}=-1: .*\b{name}\b.*-1|one round"):
        given(f"{field}=-1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("moth:random_share=3", r"random_share must be in \[0, 1\], got 3.0"),
        ("moth:least_asr=7", r"least_asr must be in \[0, 1\], got 7.0"),
        ("moth:initial_cost=0", r"initial_cost must be in \(0, inf\), got 0.0"),
        ("moth:largest_share=0", r"largest_share must be in \(0, 1\], got 0.0"),
        ("pairwise:largest_share=2", r"largest_share must be in \(0, 1\], got 2.0"),
        ("fine-tuning:batch=1", "expected at least 2, got batch=1"),
        ("ft-sam:batch=1", "expected at least 2, got batch=1"),
        ("nad:batch=1", "expected at least 2, got batch=1"),
        ("fine-pruning:images=1", "expected at least 2, got images=1"),
        ("adversarial:images=1,recipe.batch_norm=train", "expected at least 2, got images=1"),
        ("universal:clean=1,recipe.batch_norm=train", "expected at least 2, got clean=1"),
        ("pairwise:steps=0", "expected at least 1, got steps=0"),
        ("universal:first_steps=0", "expected at least 1, got first_steps=0"),
        ("universal:success_rate=2", r" success_rate must be in \(0, 1\], got 2.0"),
        ("nc-triggers:success_rate=2", r"success_rate must be in \(0, 1\], got 2.0"),
        ("nc-unlearning:success_rate=2", r"success_rate must be in \(0, 1\], got 2.0"),
        ("nc-unlearning:stamped_share=1", r"stamped_share must be in \(0, 1\), got 1.0"),
        ("fine-tuning:recipe.momentum=1.5", r"momentum must be in \[0, 1\), got 1.5"),
        ("i-bau:inner_rate=0", r"inner_rate must be in \(0, inf\), got 0.0"),
        ("fine-pruning:max_drop=5", r"max_drop must be in \[0, 1\], got 5.0"),
        ("anp:epsilon=0", r"epsilon must be in \(0, inf\), got 0.0"),
        ("anp:learning_rate=0", r" learning_rate must be in \(0, inf\), got 0.0"),
        ("rnp:largest_gradient=0", r"largest_gradient must be in \(0, inf\), got 0.0"),
        ("rnp:precision=int8", "precision must be one of float32, bfloat16, got 'int8'"),
        ("nc-triggers:precision=int8", "precision must be one of float32, bfloat16, got 'int8'"),
        ("anp:selection=best", "selection must be one of validation, oracle, got 'best'"),
    ],
)
def test_what_would_turn_a_method_off_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        given(spec)


@pytest.mark.parametrize(
    "spec", ["fine-tuning:batch=1,recipe.batch_norm=eval", "adversarial:images=1", "moth:clean=1"]
)
def test_a_batch_of_one_image_is_taken_where_batch_norm_keeps_its_statistics(spec: str) -> None:
    given(spec)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, 1]", (1e-9, 1.0), (0.0, 1.1, float("nan"))),
        ("[0, 1)", (0.0, 0.99), (-0.1, 1.0)),
        ("[1, inf)", (1.0, 1e30), (0.9, float("inf"))),
        ("(-inf, inf)", (-3.0, 0.0), (float("-inf"), float("nan"))),
    ],
)
def test_an_interval_takes_in_its_square_ends_alone(
    interval: str, inside: tuple[float, ...], outside: tuple[float, ...]
) -> None:
    for value in inside:
        require_in(interval, share=value, limit=None)
    for value in outside:
        with pytest.raises(HardeningError, match="share must be in"):
            require_in(interval, share=value)


def test_a_word_is_taken_only_from_the_list() -> None:
    require_word(("a", "b"), kind="b")
    with pytest.raises(HardeningError, match=r"^kind must be one of a, b, got 'c'$"):
        require_word(("a", "b"), kind="c")
