"""Is a grown class distance real, or does the inverter merely fail to find what is still there?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from .errors import InputError
from .inversion.frozen import FrozenNetwork
from .inversion.presets import FAST
from .inversion.schedule import Schedule
from .inverter_checks import MASK_AND_PATTERN, SIGNED_PIXELS, InverterCheck
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
        patch_sizes: sides of the square patches (pixels).
        patch_tries: patches per pair, size and kind.
    """

    pairs: tuple[Pair, ...]
    restarts: int = 3
    images_per_class: int = 100
    schedule: Schedule = FAST
    signed_schedule: Schedule = FAST
    attacks: tuple[PGD, ...] = (PGD(),)
    patch_kinds: tuple[Kind, ...] = KINDS
    patch_sizes: tuple[int, ...] = (2, 4, 6, 8)
    patch_tries: int = 3

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
        trained, other = (check.growth() for check in self.inverters)
        return None if trained is None or other is None else trained.factor / other.factor

    def to_json(self) -> dict[str, object]:
        """All fields and derived figures as plain values that `json` writes."""
        plain = dataclasses.asdict(self)
        for entry, check in zip(plain["inverters"], self.inverters, strict=True):
            entry["derived"] = check.derived()
        return plain | {"growth_ratio": self.growth_ratio}


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
    _check_comparable(before, after)
    base = int(torch.randint(2**62, (), generator=generator))
    subjects = (before, after)
    networks = (FrozenNetwork(before), FrozenNetwork(after))
    examples = _sources(before, settings, base)
    right = [
        network.logits(before.examples.images).argmax(1) == before.examples.labels
        for network in networks
    ]
    return HonestyReport(
        before=before.name,
        after=after.name,
        settings=settings,
        inverters=_inverters(networks, examples, settings, base),
        robustness=tuple(_robustness(subjects, networks, a, base) for a in settings.attacks),
        curves=tuple(
            _curves(subjects, networks, kind, settings, base) for kind in settings.patch_kinds
        ),
        accuracy=paired_accuracy(*right),
        cost=Cost(
            forward_passes=sum(network.forward_passes for network in networks),
            backward_passes=sum(network.backward_passes for network in networks),
        ),
    )


Subjects = tuple[Subject, Subject]
Networks = tuple[FrozenNetwork, FrozenNetwork]


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


def _inverters(
    networks: Networks, examples: Examples, settings: HonestySettings, base: int
) -> tuple[InverterCheck, InverterCheck]:
    trained, other = (
        inverter.check(
            networks,
            examples,
            settings.pairs,
            restarts=settings.restarts,
            schedule=schedule,
            seed=base,
        )
        for inverter, schedule in (
            (MASK_AND_PATTERN, settings.schedule),
            (SIGNED_PIXELS, settings.signed_schedule),
        )
    )
    return trained, other


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
                settings.patch_sizes,
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
