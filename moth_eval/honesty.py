"""Is a grown class distance real, or does the inverter merely fail to find what is still there?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from .errors import InputError
from .inversion.frozen import PRECISIONS, FrozenNetwork, Precision
from .inversion.presets import SHORT
from .inversion.schedule import Schedule
from .inverter_checks import MASK_AND_PATTERN, SIGNED_PIXELS
from .inverter_table import InverterCheck, growth_ratio
from .paired import PairedAccuracy, paired_accuracy
from .patch_curves import KINDS, CurvePoint, Kind, Pair, patch_curve
from .robustness import PGD, Robustness, robust_accuracy
from .scan import Cost
from .seeds import generator_for
from .subject import Examples, Subject


@dataclass(frozen=True, kw_only=True)
class HonestySettings:
    """What is checked, and how thoroughly.

    Attributes:
        pairs: `(source, target)` classes whose distance is measured.
        restarts: inversions of each pair from different random starts; the smallest counts.
        images_per_class: images of a source class that triggers are found on and measured on.
        schedule: of the inversions by mask and pattern.
        signed_schedule: of the inversions by signed pixels.
        attacks: whose robust accuracy is measured.
        patch_kinds: whose curves are measured.
        patch_sizes: sides of the square patches (pixels); size 0, the floor, is always measured.
        patch_tries: patches per pair, size and kind.
        precision: of the gradients, `float32` or `bfloat16`; what counts is always float32.
    """

    pairs: tuple[Pair, ...]
    restarts: int = 3
    images_per_class: int = 100
    schedule: Schedule = SHORT
    signed_schedule: Schedule = SHORT
    attacks: tuple[PGD, ...] = (PGD(),)
    patch_kinds: tuple[Kind, ...] = KINDS
    patch_sizes: tuple[int, ...] = (2, 4, 6, 8)
    patch_tries: int = 3
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if not self.pairs or any(source == target for source, target in self.pairs):
            raise InputError(
                f"expected at least one pair of two different classes, got {list(self.pairs)}"
            )
        if self.restarts < 1 or self.images_per_class < 1:
            raise InputError(
                "restarts and images_per_class must be at least 1, got "
                f"{self.restarts} and {self.images_per_class}"
            )
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )

    @property
    def checks(self) -> tuple[str, ...]:
        """Names of all checks, in the order in which they are made.

        `accuracy`, one per inverter, `pgd-N` for attack N from 0, and `patches-KIND`.
        """
        return (
            "accuracy",
            *(inverter.name for inverter in (MASK_AND_PATTERN, SIGNED_PIXELS)),
            *(f"pgd-{number}" for number in range(len(self.attacks))),
            *(f"patches-{kind}" for kind in self.patch_kinds),
        )


@dataclass(frozen=True, kw_only=True)
class RobustnessCheck:
    """Robust accuracy under one attack; both networks met the same random starts."""

    before: Robustness
    after: Robustness


@dataclass(frozen=True, kw_only=True)
class CurveCheck:
    """ASR of growing patches of one kind; both networks met the same images and places."""

    kind: Kind
    before: tuple[CurvePoint, ...]
    after: tuple[CurvePoint, ...]


@dataclass(frozen=True, kw_only=True)
class HonestyReport:
    """Everything that was measured; it names no verdict.

    Attributes:
        before: name of the first subject.
        after: name of the second.
        settings: what was asked for.
        inverters: mask and pattern, then signed pixels.
        robustness: one entry per attack.
        curves: one entry per kind of patch.
        accuracy: clean accuracies, compared image by image.
        cost: passes spent on both networks together.
    """

    before: str
    after: str
    settings: HonestySettings
    inverters: tuple[InverterCheck, InverterCheck]
    robustness: tuple[RobustnessCheck, ...]
    curves: tuple[CurveCheck, ...]
    accuracy: PairedAccuracy
    cost: Cost

    @property
    def growth_ratio(self) -> float | None:
        """Growth factor under mask and pattern over that under signed pixels; None if unknown.

        Near 1, both inverters tell the same story. Well above 1, the one that hardening usually
        trains against sees a growth that the other does not.
        """
        return growth_ratio(*self.inverters)

    def to_json(self) -> dict[str, object]:
        """All fields and derived figures as plain values that `json` writes."""
        plain = dataclasses.asdict(self)
        for entry, check in zip(plain["inverters"], self.inverters, strict=True):
            entry["derived"] = check.derived()
        return plain | {"growth_ratio": self.growth_ratio}


@dataclass(frozen=True, kw_only=True)
class FinishedCheck:
    """One check on both networks.

    Attributes:
        name: one of `HonestySettings.checks`.
        result: what was measured.
        cost: passes spent on both networks together.
    """

    name: str
    result: InverterCheck | RobustnessCheck | CurveCheck | PairedAccuracy
    cost: Cost


def honesty_checks(
    before: Subject, after: Subject, settings: HonestySettings, *, generator: torch.Generator
) -> HonestyReport:
    """The same measurements on a network before and after hardening.

    Args:
        before: the network as it was.
        after: the hardened one, with the same examples.
        settings: what is checked.
        generator: decides images, starts and patches, alike for both; on the CPU.

    Raises:
        InputError: the subjects do not share classes, examples and device, or a class of a pair
            lacks examples.
    """
    checks = list(finished_checks(before, after, settings, generator=generator))
    results = [check.result for check in checks]
    trained, other = (r for r in results if isinstance(r, InverterCheck))
    [accuracy] = (r for r in results if isinstance(r, PairedAccuracy))
    return HonestyReport(
        before=before.name,
        after=after.name,
        settings=settings,
        inverters=(trained, other),
        robustness=tuple(r for r in results if isinstance(r, RobustnessCheck)),
        curves=tuple(r for r in results if isinstance(r, CurveCheck)),
        accuracy=accuracy,
        cost=Cost(
            forward_passes=sum(check.cost.forward_passes for check in checks),
            backward_passes=sum(check.cost.backward_passes for check in checks),
        ),
    )


def finished_checks(
    before: Subject,
    after: Subject,
    settings: HonestySettings,
    *,
    generator: torch.Generator,
    skip: Container[str] = (),
) -> Iterator[FinishedCheck]:
    """The checks of :func:`honesty_checks` one by one, each as soon as it is finished.

    What a check finds does not depend on which others are made.

    Args:
        before: the network as it was.
        after: the hardened one, with the same examples.
        settings: what is checked.
        generator: decides images, starts and patches, alike for both; on the CPU.
        skip: names of checks that are not wanted.

    Raises:
        InputError: see :func:`honesty_checks`.
    """
    _check_comparable(before, after)
    base = int(torch.randint(2**62, (), generator=generator))
    examples = _sources(before, settings, base)
    networks = (
        FrozenNetwork(before, precision=settings.precision),
        FrozenNetwork(after, precision=settings.precision),
    )
    measurements = _measurements((before, after), networks, examples, settings, base)
    for name, measure in zip(settings.checks, measurements, strict=True):
        if name in skip:
            continue
        spent = _spent(networks)
        result = measure()
        now = _spent(networks)
        cost = Cost(forward_passes=now[0] - spent[0], backward_passes=now[1] - spent[1])
        yield FinishedCheck(name=name, result=result, cost=cost)


Subjects = tuple[Subject, Subject]
Networks = tuple[FrozenNetwork, FrozenNetwork]
Measurement = Callable[[], InverterCheck | RobustnessCheck | CurveCheck | PairedAccuracy]


def _spent(networks: Networks) -> tuple[int, int]:
    """Images that went forward and backward so far."""
    return sum(n.forward_passes for n in networks), sum(n.backward_passes for n in networks)


def _measurements(
    subjects: Subjects, networks: Networks, examples: Examples, settings: HonestySettings, base: int
) -> list[Measurement]:
    """In the order of `HonestySettings.checks`."""
    inverters = ((MASK_AND_PATTERN, settings.schedule), (SIGNED_PIXELS, settings.signed_schedule))
    return [
        partial(_accuracy, subjects, networks),
        *(
            partial(
                inverter.check,
                networks,
                examples,
                settings.pairs,
                restarts=settings.restarts,
                schedule=schedule,
                seed=base,
            )
            for inverter, schedule in inverters
        ),
        *(partial(_robustness, subjects, networks, a, base) for a in settings.attacks),
        *(partial(_curves, subjects, networks, k, settings, base) for k in settings.patch_kinds),
    ]


def _accuracy(subjects: Subjects, networks: Networks) -> PairedAccuracy:
    before, after = (
        network.logits(subject.examples.images).argmax(1) == subject.examples.labels
        for subject, network in zip(subjects, networks, strict=True)
    )
    return paired_accuracy(before, after)


def _check_comparable(before: Subject, after: Subject) -> None:
    one, other = before.examples, after.examples
    same = (
        before.num_classes == after.num_classes
        and one.images.shape == other.images.shape
        and one.images.device == other.images.device
        and torch.equal(one.images, other.images)
        and torch.equal(one.labels, other.labels)
    )
    if not same:
        raise InputError(
            f"{before.name} and {after.name} must share classes, device and examples to be "
            f"compared, got {before.num_classes} and {after.num_classes} classes, and "
            f"{tuple(one.images.shape)} on {one.images.device} and {tuple(other.images.shape)} on "
            f"{other.images.device}: make the second subject from the first one by replacing "
            "its network"
        )


def _sources(subject: Subject, settings: HonestySettings, base: int) -> Examples:
    """The images of the source classes that triggers are found on, equal for both networks."""
    labels = subject.examples.labels.cpu()
    outside = [p for p in settings.pairs if not 0 <= min(p) <= max(p) < subject.num_classes]
    if outside:
        raise InputError(
            f"{subject.name} has the classes 0 to {subject.num_classes - 1}, got the pairs "
            f"{outside}: leave them out"
        )
    parts = []
    for source in sorted({source for source, _ in settings.pairs}):
        members = (labels == source).nonzero().flatten()
        if not len(members):
            raise InputError(
                f"{subject.name}: there is no example of the source class {source}: leave its "
                "pairs out, or add examples"
            )
        order = torch.randperm(len(members), generator=generator_for(base, "images", source))
        parts.append(members[order[: settings.images_per_class]])
    chosen = torch.cat(parts)
    images = subject.examples.images
    return Examples(images=images[chosen.to(images.device)], labels=labels[chosen])


def _robustness(subjects: Subjects, networks: Networks, attack: PGD, base: int) -> RobustnessCheck:
    before, after = (
        robust_accuracy(subject, attack, generator=generator_for(base, "pgd"), network=network)
        for subject, network in zip(subjects, networks, strict=True)
    )
    return RobustnessCheck(before=before, after=after)


def _curves(
    subjects: Subjects, networks: Networks, kind: Kind, settings: HonestySettings, base: int
) -> CurveCheck:
    before, after = (
        tuple(
            patch_curve(
                subject,
                settings.pairs,
                (0, *settings.patch_sizes),
                generator=generator_for(base, "patches", kind),
                kind=kind,
                tries=settings.patch_tries,
                max_images=settings.images_per_class,
                network=network,
            )
        )
        for subject, network in zip(subjects, networks, strict=True)
    )
    return CurveCheck(kind=kind, before=before, after=after)
