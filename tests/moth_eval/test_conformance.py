"""The public rules tell what breaks them; each of these breaks one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from moth_eval.conformance import (
    attack_checks,
    check_attack,
    check_hardener,
    check_scanner,
    hardener_checks,
    scanner_checks,
    small_subject,
)
from moth_eval.hardening import (
    SILENT,
    Hardening,
    HardeningStatus,
    Journal,
    LogEntry,
    Saved,
)
from moth_eval.scan import Scan, Status, Trigger
from moth_eval.subject import Examples, Subject


def plain(subject: Subject, generator: torch.Generator) -> Scan:
    noise = float(torch.rand((), generator=generator)) + 0 * subject.accuracy()
    return Scan(status=Status.SCORED, score=noise)


@dataclass(frozen=True, kw_only=True)
class Acting:
    """A scanner that does whatever a test wants."""

    act: Callable[[Subject, torch.Generator], Any] = plain

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        found: Scan = self.act(subject, generator)
        return found


def drawing(subject: Subject, generator: torch.Generator) -> Scan:
    torch.rand(1)
    return plain(subject, generator)


def forgetful(subject: Subject, generator: torch.Generator) -> Scan:
    return plain(subject, torch.Generator().manual_seed(torch.seed() % 2**31))


def training(subject: Subject, generator: torch.Generator) -> Scan:
    subject.module.train()
    found = plain(subject, generator)
    subject.module.eval()
    return found


def painting(subject: Subject, generator: torch.Generator) -> Scan:
    subject.examples.images.mul_(0.999)
    return plain(subject, generator)


def bragging(subject: Subject, generator: torch.Generator) -> Scan:
    mask, pattern = torch.ones(1, 12, 12), torch.ones(3, 12, 12)
    trigger = Trigger(target=1, mask=mask, pattern=pattern, size=3.0, asr=1.0, valid=True)
    return replace(plain(subject, generator), triggers=(trigger,))


def bright(subject: Subject, generator: torch.Generator) -> Scan:
    mask, pattern = torch.ones(1, 12, 12), torch.full((3, 12, 12), torch.nan)
    trigger = Trigger(target=1, mask=mask, pattern=pattern, size=144.0, asr=1.0, valid=True)
    return replace(plain(subject, generator), triggers=(trigger,))


def misplaced(subject: Subject, generator: torch.Generator) -> Scan:
    return replace(plain(subject, generator), target=4)


def swallowing(subject: Subject, generator: torch.Generator) -> Scan:
    try:
        return plain(subject, generator)
    except RuntimeError:
        return Scan(status=Status.SCORED, score=0.0)


def timid(subject: Subject, generator: torch.Generator) -> Scan:
    return Scan(status=Status.INCONCLUSIVE, reason="no idea")


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (drawing, "it draws from torch's global generator"),
        (forgetful, "equal generators give equal results: it scored"),
        (training, "weights or buffers were changed: bn.running_mean"),
        (painting, "the example images were changed"),
        (bragging, r"states a size of 3.0, its mask sums to 144.0"),
        (bright, r"has a pattern outside \[0, 1\]"),
        (misplaced, "its target 4 is no class of 4"),
        (swallowing, "a network that raises got a score"),
        (timid, "it ended inconclusive: no idea"),
        (lambda subject, generator: 0.5, "scan returned a float, expected a Scan"),
    ],
)
def test_a_scanner_that_breaks_a_rule_is_told_so(act: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_scanner(Acting(act=act))


def test_a_scanner_that_keeps_to_the_rules_passes() -> None:
    check_scanner(Acting())


def test_an_open_dataclass_is_told_so() -> None:
    @dataclass
    class Open:
        order: int

        def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
            return plain(subject, generator)

    with pytest.raises(AssertionError, match=r"it is a frozen dataclass .*: Open is not frozen"):
        check_scanner(Open(2))


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """A hardener that makes weights smaller, in one of several ways."""

    way: str = "copy"

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        from copy import deepcopy

        subject.logits(data.images[:2])
        module = subject.module if self.way == "same" else deepcopy(subject.module)
        factor = 0.9 + (torch.rand(()) / 100 if self.way == "global" else 0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(1 if self.way == "nothing" else factor)
        module.train(self.way == "training")
        return Hardening(status=HardeningStatus.HARDENED, module=module)


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """A hardener of four rounds that goes on where it stopped, in one of several ways."""

    way: str = ""

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        from copy import deepcopy

        subject.logits(data.images[:2])
        module, log, first = deepcopy(subject.module), list[LogEntry](), 0
        saved = journal.resumed()
        if saved is not None and self.way != "restarts with the old log":
            module.load_state_dict(dict(saved.tensors))
            first = int(str(saved.values["round"]))
        if saved is not None and self.way != "forgets its log":
            log = [self.entry(number) for number in range(int(str(saved.values["round"])))]
        for number in range(first, 4):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.mul_(0.9 if self.way != "draws" else 0.9 + self.drawn(generator))
            log.append(self.entry(number))
            journal.note(log[-1])
            if journal.wants_save():
                state = Saved(tensors=module.state_dict(), values={"round": number + 1})
                try:
                    journal.save(state)
                except KeyboardInterrupt:
                    if self.way != "goes on":
                        raise
        return Hardening(status=HardeningStatus.HARDENED, module=module, log=tuple(log))

    def entry(self, number: int) -> LogEntry:
        return LogEntry(phase="rounds", round=number, steps=number, loss=1.0, accuracy=1.0)

    def drawn(self, generator: torch.Generator) -> float:
        return float(torch.rand((), generator=generator)) / 10


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("draws", "broken off at 2 of 4 saves, it ends in other weights"),
        ("forgets its log", "broken off at 2 of 4 saves, it has another log"),
        ("restarts with the old log", "broken off at 2 of 4 saves, it has another log"),
        ("goes on", "it went on where it was interrupted"),
    ],
)
def test_a_hardener_that_cannot_go_on_is_told_so(way: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_hardener(Rounds(way=way))


def test_a_hardener_that_goes_on_where_it_stopped_passes() -> None:
    check_hardener(Rounds())


@pytest.mark.parametrize(
    ("way", "complaint"),
    [
        ("same", "weights or buffers were changed: conv.weight"),
        ("nothing", "it changed nothing"),
        ("training", "its network is in training mode"),
        ("global", "the second network has other weights than the first"),
        ("global", "it draws from torch's global generator"),
    ],
)
def test_a_hardener_that_breaks_a_rule_is_told_so(way: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_hardener(Scaling(way=way))


def test_a_hardener_that_keeps_to_the_rules_passes() -> None:
    check_hardener(Scaling())


@dataclass(frozen=True, kw_only=True)
class Dark:
    """An attack that halves brightness, in one of several ways."""

    target: int = 0
    sources: tuple[int, ...] = ()
    threat: str = "universal"
    way: str = ""

    def stamp(self, images: Tensor) -> Tensor:
        if self.way == "in place":
            return images.mul_(0.5)
        if self.way == "nothing":
            return images.clone()
        if self.way == "random":
            return images * torch.rand(())
        if self.way == "company":
            return images * 0.5 * len(images) / 5
        if self.way == "bright":
            return images + 0.5
        return images * 0.5 + (0.01 if self.way == "" else 0)


@pytest.mark.parametrize(
    ("attack", "complaint"),
    [
        (Dark(way="in place"), "stamp changed the images that it was given"),
        (Dark(way="nothing"), "5 of 5 images carry no trigger"),
        (Dark(way="random"), "the second stamp is another"),
        (Dark(way="company"), "an image gets another stamp alone than among others"),
        (Dark(way="bright"), r"stamped images of the value 1.0 are outside \[0, 1\]"),
        (Dark(threat="loud"), "its threat 'loud' is none of"),
        (Dark(sources=(0, 1)), "its target is one of its sources"),
    ],
)
def test_an_attack_that_breaks_a_rule_is_told_so(attack: Dark, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_attack(attack)


def test_an_attack_that_keeps_to_the_rules_passes() -> None:
    check_attack(Dark())


def test_rules_have_names_of_their_own() -> None:
    for checks in (scanner_checks(), hardener_checks(), attack_checks()):
        names = [str(check) for check in checks]
        assert len(set(names)) == len(names)
        assert not any(" " in name for name in names)


def test_the_small_subject_has_the_backdoor_that_it_says() -> None:
    subject = small_subject(classes=5, target=3)
    assert subject.accuracy() == 1
    images = subject.examples.images.clone()
    images[..., 8:11, 8:11] = 1
    assert (subject.logits(images).argmax(1) == 3).all()
