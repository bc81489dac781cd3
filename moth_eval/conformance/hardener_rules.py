"""What a hardener has to keep to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ..hardening import SILENT, Hardener, Hardening, HardeningStatus, Journal, LogEntry
from ..runner import run_hardening
from ..subject import Examples, Subject
from ..weights import are_finite
from .checks import (
    Check,
    check_all,
    global_randomness_untouched,
    is_a_frozen_dataclass,
    network_untouched,
    require,
    same_weights,
)
from .journals import Noted
from .subjects import Broken, small_subject


def check_hardener(
    hardener: Hardener, *, subject: Subject | None = None, data: Examples | None = None
) -> None:
    """Look whether a hardener keeps to every rule; `AssertionError` lists those that it breaks.

    Args:
        hardener: as cheap as its parameters allow: it hardens about nine times.
        subject: that it can change; None: `small_subject()`.
        data: clean training images; None: the subject's examples.
    """
    check_all(hardener_checks(subject, data), hardener)


def hardener_checks(
    subject: Subject | None = None, data: Examples | None = None
) -> tuple[Check[Hardener], ...]:
    """The rules one by one; the arguments are those of `check_hardener`."""
    given = subject or small_subject()
    images = given.examples if data is None else data
    return (
        Check("it is a frozen dataclass with defaults", is_a_frozen_dataclass),
        Check("it has the verb", _has_the_verb),
        Check("it returns a changed copy", lambda h: _changed_copy(h, given, images)),
        Check("equal generators give equal networks", lambda h: _repeats(h, given, images)),
        Check("it draws from its generator alone", lambda h: _own_randomness(h, given, images)),
        Check("its log holds finite figures", lambda h: _finite_log(h, given, images)),
        Check("what was broken off goes on", lambda h: _goes_on(h, given, images)),
        Check("a broken network is a failure", lambda h: _broken(h, given, images)),
    )


def _harden(
    hardener: Hardener, subject: Subject, data: Examples, journal: Journal = SILENT
) -> Hardening:
    generator = torch.Generator().manual_seed(0)
    return hardener.harden(subject, data, generator=generator, journal=journal)


def _network(done: Hardening) -> nn.Module:
    require(done.status is HardeningStatus.HARDENED, f"it ended {done.status}: {done.reason}")
    if done.module is None:
        raise AssertionError("it says that it hardened, and returns no network")
    return done.module


def _has_the_verb(hardener: Hardener) -> None:
    require(isinstance(hardener, Hardener), "it has no method harden(subject, data, ...)")


def _changed_copy(hardener: Hardener, subject: Subject, data: Examples) -> None:
    images = data.images.clone()
    with network_untouched(subject.module):
        module = _network(_harden(hardener, subject, data))
    require(module is not subject.module, "it returns the network that it was given")
    storages = {p.data_ptr() for p in subject.module.parameters()}
    shared = any(p.data_ptr() in storages for p in module.parameters())
    require(not shared, "its network shares memory with the one that it was given")
    require(not same_weights(module, subject.module), "it changed nothing")
    require(not any(part.training for part in module.modules()), "its network is in training mode")
    require(are_finite(module), "its network holds values that are not finite")
    require(torch.equal(images, data.images), "the training images were changed")


def _repeats(hardener: Hardener, subject: Subject, data: Examples) -> None:
    one, other = (_network(_harden(hardener, subject, data)) for _ in range(2))
    require(same_weights(one, other), "the second network has other weights than the first")


def _own_randomness(hardener: Hardener, subject: Subject, data: Examples) -> None:
    with global_randomness_untouched():
        _harden(hardener, subject, data)


def _finite_log(hardener: Hardener, subject: Subject, data: Examples) -> None:
    for entry in _harden(hardener, subject, data).log:
        require(math.isfinite(entry.loss), f"the loss of round {entry.round} is {entry.loss}")
        inside = 0 <= entry.accuracy <= 1
        require(inside, f"the accuracy of round {entry.round} is {entry.accuracy}")


def _goes_on(hardener: Hardener, subject: Subject, data: Examples) -> None:
    """Broken off in the middle, it comes to the network and log of one that was not.

    A method that keeps no state starts again, and keeps to the rule by giving the same again.
    """
    whole = Noted()
    expected = _harden(hardener, subject, data, whole)
    require(_untimed(whole.entries) == _untimed(expected.log), "its log is not what it noted")
    first = Noted(break_after=(whole.saves + 1) // 2)
    _break_off(hardener, subject, data, first)
    result = _harden(hardener, subject, data, Noted(first.saved))
    at = f"broken off at {first.saves} of {whole.saves} saves"
    require(same_weights(_network(expected), _network(result)), f"{at}, it ends in other weights")
    require(_untimed(expected.log) == _untimed(result.log), f"{at}, it has another log")
    passes = [(d.cost.forward_passes, d.cost.backward_passes) for d in (expected, result)]
    require(passes[0] == passes[1], f"{at}, it counts {passes[1]} passes and not {passes[0]}")


def _break_off(hardener: Hardener, subject: Subject, data: Examples, journal: Noted) -> None:
    try:
        with network_untouched(subject.module):
            _harden(hardener, subject, data, journal)
    except KeyboardInterrupt:
        return
    require(not journal.saves, "it went on where it was interrupted")


def _untimed(log: Sequence[LogEntry]) -> list[LogEntry]:
    return [replace(entry, seconds=0.0) for entry in log]


def _broken(hardener: Hardener, subject: Subject, data: Examples) -> None:
    broken = replace(subject, module=Broken().eval())
    done = run_hardening(hardener, broken, data, name="any", seed=0)
    ended = done.status in (HardeningStatus.FAILED, HardeningStatus.INAPPLICABLE)
    require(ended, f"a network that raises gave the status {done.status}")
    require(done.reason, "a failure has no reason")
