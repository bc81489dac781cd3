"""One rule as something that can be called, and what rules have in common."""

from __future__ import annotations

import dataclasses
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")


@dataclass(frozen=True)
class Check(Generic[T]):
    """One rule: called with an object, it raises `AssertionError` with a sentence, or returns.

    Attributes:
        rule: the rule, in words.
        hold: what looks whether it is kept.
    """

    rule: str
    hold: Callable[[T], None]

    def __call__(self, subject: T) -> None:
        """Look whether an object keeps to the rule; `AssertionError` says how it does not."""
        self.hold(subject)

    def __str__(self) -> str:
        """The rule as a word, for the name of a test."""
        return self.rule.replace(" ", "-")


def require(condition: object, sentence: str) -> None:
    """Raise `AssertionError` with a sentence unless a condition holds; also under `python -O`."""
    if not condition:
        raise AssertionError(sentence)


def check_all(checks: Sequence[Check[T]], one: T) -> None:
    """Carry out all checks; one `AssertionError` with a line for each that failed."""
    failed = []
    for check in checks:
        try:
            check(one)
        except AssertionError as error:
            failed.append(f"{check.rule}: {error}")
        except Exception as error:  # whatever a third party's code raises breaks the rule
            failed.append(f"{check.rule}: {type(error).__name__}: {error}")
    require(not failed, "\n".join(failed))


def is_a_frozen_dataclass(one: object) -> None:
    """Frozen, keyword-only, with a default for every field."""
    kind = type(one)
    require(dataclasses.is_dataclass(kind), f"{kind.__name__} is no dataclass")
    frozen = kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    require(frozen, f"{kind.__name__} is not frozen")
    for parameter in inspect.signature(kind).parameters.values():
        require(
            parameter.kind is parameter.KEYWORD_ONLY,
            f"the field {parameter.name} can be given by its position: add kw_only=True",
        )
        require(parameter.default is not parameter.empty, f"{parameter.name} has no default")


@contextmanager
def global_randomness_untouched() -> Iterator[None]:
    """Require that the random states of Python, NumPy and torch are the same on leaving."""
    before = random.getstate(), _numpy_state(), torch.get_rng_state()
    yield
    require(random.getstate() == before[0], "it draws from the module random")
    require(_numpy_state() == before[1], "it draws from numpy.random")
    require(torch.equal(torch.get_rng_state(), before[2]), "it draws from torch's global generator")


def _numpy_state() -> str:
    state = np.random.get_state()
    return repr([part.tolist() if isinstance(part, np.ndarray) else part for part in state])


@contextmanager
def network_untouched(module: nn.Module) -> Iterator[None]:
    """Require that weights, buffers, modes and gradients of a network are the same on leaving."""
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    modes = {name: part.training for name, part in module.named_modules()}
    yield
    now = module.state_dict()
    require(now.keys() == weights.keys(), "the network has other weights or buffers than before")
    changed = [name for name, value in weights.items() if not torch.equal(value, now[name])]
    require(not changed, f"weights or buffers were changed: {', '.join(changed)}")
    require(
        flags == {name: p.requires_grad for name, p in module.named_parameters()},
        "requires_grad of a parameter was changed",
    )
    require(
        modes == {name: part.training for name, part in module.named_modules()},
        "a part of the network was put into another mode",
    )
    require(all(p.grad is None for p in module.parameters()), "gradients were left behind")


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks have equal weights and buffers."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


def in_range(images: Tensor) -> bool:
    """Whether all values are in `[0, 1]`, NaN never."""
    return bool(((images >= 0) & (images <= 1)).all())
