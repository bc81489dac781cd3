"""What a scanner has to keep to."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..runner import run_scan
from ..scan import Ruled, Scan, Scanner, Status
from ..subject import Subject
from .checks import (
    Check,
    check_all,
    global_randomness_untouched,
    in_range,
    is_a_frozen_dataclass,
    network_untouched,
    require,
)
from .subjects import Broken, Constant, small_subject


def check_scanner(scanner: Scanner, *, subject: Subject | None = None) -> None:
    """Look whether a scanner keeps to every rule; `AssertionError` lists those that it breaks.

    Args:
        scanner: as cheap as its parameters allow: it scans about ten times.
        subject: that it can score; None: `small_subject()`.
    """
    check_all(scanner_checks(subject), scanner)


def scanner_checks(subject: Subject | None = None) -> tuple[Check[Scanner], ...]:
    """The rules one by one; `subject` as for `check_scanner`."""
    given = subject or small_subject()
    return (
        Check("it is a frozen dataclass with defaults", is_a_frozen_dataclass),
        Check("it has the verb", _has_the_verb),
        Check("it scores with evidence", lambda s: _scores(s, given)),
        Check("its triggers are what it says", lambda s: _true_triggers(s, given)),
        Check("equal generators give equal results", lambda s: _repeats(s, given)),
        Check("it draws from its generator alone", lambda s: _own_randomness(s, given)),
        Check("it leaves the subject as it was", lambda s: _leaves_alone(s, given)),
        Check("a constant network gets an answer", lambda s: _constant(s, given)),
        Check("a broken network gets no score", lambda s: _broken(s, given)),
    )


def _scan(scanner: Scanner, subject: Subject) -> Scan:
    return scanner.scan(subject, generator=torch.Generator().manual_seed(0))


def _has_the_verb(scanner: Scanner) -> None:
    require(isinstance(scanner, Scanner), "it has no method scan(subject, *, generator)")


def _scores(scanner: Scanner, subject: Subject) -> None:
    found = _scan(scanner, subject)
    require(isinstance(found, Scan), f"scan returned a {type(found).__name__}, expected a Scan")
    require(found.status is Status.SCORED, f"it ended {found.status}: {found.reason}")
    require(found.score is not None and math.isfinite(found.score), f"its score is {found.score}")
    for what, label in (("target", found.target), ("source", found.source)):
        inside = label is None or 0 <= label < subject.num_classes
        require(inside, f"its {what} {label} is no class of {subject.num_classes}")
    _rule_as_announced(scanner, found)
    cost = found.cost
    require(cost.forward_passes >= 0 and cost.backward_passes >= 0, "it counts negative passes")


def _rule_as_announced(scanner: Scanner, found: Scan) -> None:
    """The cut is one, and is there if the scanner says so beforehand."""
    if found.rule is not None:
        rate = found.rule.false_alarm_rate
        require(rate is None or 0 <= rate <= 1, f"the false-alarm rate of its cut is {rate}")
        require(math.isfinite(found.rule.threshold), f"its cut is {found.rule.threshold}")
    if isinstance(scanner, Ruled):
        why = scanner.without_rule()
        said = f"it says that it has no cut ({why})" if why else "it says that it has a cut"
        require((found.rule is None) == bool(why), f"{said}, and its scan has {found.rule}")


def _true_triggers(scanner: Scanner, subject: Subject) -> None:
    for trigger in _scan(scanner, subject).triggers:
        name = f"the trigger to class {trigger.target}"
        require(
            trigger.mask.shape == (1, *subject.image_shape[1:]),
            f"{name} has a mask of shape {tuple(trigger.mask.shape)}, expected (1, H, W)",
        )
        require(
            tuple(trigger.pattern.shape) == subject.image_shape,
            f"{name} has a pattern of shape {tuple(trigger.pattern.shape)}, expected (C, H, W)",
        )
        require(in_range(trigger.mask), f"{name} has a mask outside [0, 1]")
        require(in_range(trigger.pattern), f"{name} has a pattern outside [0, 1]")
        size = float(trigger.mask.sum())
        same = math.isclose(trigger.size, size, rel_tol=1e-4, abs_tol=1e-6)
        require(same, f"{name} states a size of {trigger.size}, its mask sums to {size}")
        require(0 <= trigger.asr <= 1, f"{name} states a success rate of {trigger.asr}")


def _repeats(scanner: Scanner, subject: Subject) -> None:
    one, other = _scan(scanner, subject), _scan(scanner, subject)
    require(one.score == other.score, f"it scored {one.score} and then {other.score}")
    sizes = [[t.size for t in scan.triggers] for scan in (one, other)]
    require(sizes[0] == sizes[1], "it found other triggers the second time")


def _own_randomness(scanner: Scanner, subject: Subject) -> None:
    with global_randomness_untouched():
        _scan(scanner, subject)


def _leaves_alone(scanner: Scanner, subject: Subject) -> None:
    images, labels = subject.examples.images.clone(), subject.examples.labels.clone()
    with network_untouched(subject.module):
        _scan(scanner, subject)
    require(torch.equal(images, subject.examples.images), "the example images were changed")
    require(torch.equal(labels, subject.examples.labels), "the example labels were changed")
    require(torch.is_grad_enabled(), "gradients were left switched off")


def _constant(scanner: Scanner, subject: Subject) -> None:
    constant = replace(subject, module=Constant(subject.num_classes).eval())
    found = run_scan(scanner, constant, name="any", seed=0)
    answered = found.status in (Status.SCORED, Status.INCONCLUSIVE)
    require(answered, f"a network that answers one class to everything: {found.reason}")


def _broken(scanner: Scanner, subject: Subject) -> None:
    broken = replace(subject, module=Broken().eval())
    found = run_scan(scanner, broken, name="any", seed=0)
    require(found.status is not Status.SCORED, "a network that raises got a score")
