"""Attack success of patches that an attacker could paste, as the patch grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import InputError
from .intervals import Interval
from .inversion.engine import invert
from .inversion.frozen import FrozenNetwork
from .inversion.problems import Problem
from .inversion.schedule import Schedule
from .inversion.square_patch import SquarePatch, random_square
from .robustness import rate
from .seeds import derive_seed, generator_for
from .subject import Subject

Kind = Literal["solid", "crop", "optimised"]

KINDS: tuple[Kind, ...] = ("solid", "crop", "optimised")

Pair = tuple[int, int]
"""Source class, target class."""

Patch = tuple[Tensor, Tensor]
"""A mask `(1, H, W)` of 0 and 1 and a pattern `(C, H, W)` in `[0, 1]`."""

COLOURS = Schedule(
    steps=200,
    batch_size=16,
    final_learning_rate=0.01,
    success_rate=1.0,
    warm_up=False,
    average=0.9,
    check_every=200,
)
"""Ours, for the colours of a patch of fixed place: looked at once, when all steps are done, because
a patch that already works on the images at hand still gains on others."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Attack success at one patch size.

    Attributes:
        size: side of the square (pixels); 0: no patch, the floor that the network has anyway.
        asr: fraction of stamped images classified as the target class, in `[0, 1]`; as every pair
            counts with equally many images, also the mean over the pairs.
        n: stamped images, all pairs together.
        interval: Wilson's of the ASR; it takes images as independent, though those of one pair
            share a patch.
        per_pair: ASR of each pair, in the order of the pairs.
    """

    size: int
    asr: float
    n: int
    interval: Interval
    per_pair: tuple[float, ...]


def patch_curve(
    subject: Subject,
    pairs: Sequence[Pair],
    sizes: Sequence[int],
    *,
    generator: torch.Generator,
    kind: Kind = "optimised",
    tries: int = 3,
    max_images: int = 100,
    schedule: Schedule = COLOURS,
    network: FrozenNetwork | None = None,
) -> list[CurvePoint]:
    """ASR of square patches on images of each source class, one point per size.

    Each pair has `tries` patches at random places. The one that works best on one half of the
    source images is measured on the other half, so that neither choice nor optimisation flatters
    the figure. From equal generators, two subjects with the same examples meet the same places,
    colours, crops and images.

    Kinds: `solid` has one random colour; `crop` is cut out of a random example of the target class
    and pasted at the same place; `optimised` has colours that Adam found for these images.

    Args:
        subject: left as it is.
        pairs: `(source, target)` classes.
        sizes: sides of the squares (pixels); 0: images as they are.
        generator: decides images, places, colours and crops; on the CPU.
        kind: where patches come from.
        tries: patches per pair and size.
        max_images: source images per pair, both halves together.
        schedule: of the optimised patches.
        network: the subject's network if it is frozen already; its counters go on.

    Raises:
        InputError: no pairs, an unknown kind, fewer than two images of a source class, or for
            `crop` no image of a target class.
        ScanError: a square does not fit into the image.
    """
    search = _Search(subject, pairs, generator, kind, tries, max_images)
    frozen = network or FrozenNetwork(subject)
    return [search.point(size, search.patches(size, frozen, schedule), frozen) for size in sizes]


class _Search:
    """What all sizes of a curve share: the images, and where patches come from."""

    def __init__(
        self,
        subject: Subject,
        pairs: Sequence[Pair],
        generator: torch.Generator,
        kind: Kind,
        tries: int,
        max_images: int,
    ) -> None:
        if kind not in KINDS or not pairs or tries < 1:
            raise InputError(
                f"a patch curve needs a kind out of {', '.join(KINDS)}, at least one pair and one "
                f"try, got {kind!r}, {len(pairs)} pairs and {tries} tries"
            )
        self._images = subject.examples.images
        self._labels = subject.examples.labels.cpu()
        self._shape = subject.image_shape
        self._name = subject.name
        self._base = int(torch.randint(2**62, (), generator=generator))
        self._pairs = [(int(source), int(target)) for source, target in pairs]
        self._kind: Kind = kind
        self._tries = tries
        self._fit, self._held = self._halves(max_images)

    def _halves(self, max_images: int) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Per source class, equally many images to choose patches on and to measure them on."""
        sources = sorted({source for source, _ in self._pairs})
        members = {source: (self._labels == source).nonzero().flatten() for source in sources}
        count = min(max_images, *map(len, members.values())) // 2
        if not count:
            counts = {source: len(found) for source, found in members.items()}
            raise InputError(
                f"{self._name}: a patch curve needs at least two images of every source class and "
                f"max_images of 2 or more, got {counts} and {max_images}"
            )
        shuffled = {
            source: found[
                torch.randperm(len(found), generator=generator_for(self._base, "images", source))
            ]
            for source, found in members.items()
        }
        fit = {source: found[:count] for source, found in shuffled.items()}
        return fit, {source: found[count : 2 * count] for source, found in shuffled.items()}

    def patches(self, size: int, network: FrozenNetwork, schedule: Schedule) -> list[list[Patch]]:
        """The tries of every pair."""
        if not size:
            nothing = torch.zeros(1, *self._shape[1:])
            return [[(nothing, nothing)] for _ in self._pairs]
        if self._kind == "optimised":
            return self._optimised(size, network, schedule)
        make: Callable[[int, Pair, int], Patch] = {"solid": self._solid, "crop": self._crop}[
            self._kind
        ]
        return [[make(size, pair, number) for number in range(self._tries)] for pair in self._pairs]

    def _solid(self, size: int, pair: Pair, number: int) -> Patch:
        generator = generator_for(self._base, "solid", *pair, number)
        colour = torch.rand((self._shape[0], 1, 1), generator=generator)
        return random_square(size, self._shape, generator), colour.expand(self._shape)

    def _crop(self, size: int, pair: Pair, number: int) -> Patch:
        generator = generator_for(self._base, "crop", *pair, number)
        members = (self._labels == pair[1]).nonzero().flatten()
        if not len(members):
            raise InputError(
                f"{self._name}: there is no example of class {pair[1]} to cut a patch out of: add "
                "one, or choose another kind of patch"
            )
        chosen = members[int(torch.randint(len(members), (), generator=generator))]
        return random_square(size, self._shape, generator), self._images[int(chosen)].cpu()

    def _optimised(
        self, size: int, network: FrozenNetwork, schedule: Schedule
    ) -> list[list[Patch]]:
        problems = [
            Problem(
                target=target,
                images=self._fit[source],
                seed=derive_seed(self._base, "optimised", source, target, number),
                source=source,
            )
            for source, target in self._pairs
            for number in range(self._tries)
        ]
        objective = SquarePatch(side=size)
        found = invert(network, self._images, problems, schedule, objective=objective)
        patches = [(inversion.mask, inversion.pattern) for inversion in found]
        return [patches[k : k + self._tries] for k in range(0, len(patches), self._tries)]

    def point(
        self, size: int, patches: Sequence[Sequence[Patch]], network: FrozenNetwork
    ) -> CurvePoint:
        """The best patch of every pair, measured on images that it was not chosen on."""
        hits = []
        for (source, target), tried in zip(self._pairs, patches, strict=True):
            counts = [
                int(self._hits(network, patch, self._fit[source], target).sum()) for patch in tried
            ]
            best = tried[counts.index(max(counts))]
            hits.append(self._hits(network, best, self._held[source], target))
        total = rate(torch.cat(hits))
        return CurvePoint(
            size=size,
            asr=total.value,
            n=total.n,
            interval=total.interval,
            per_pair=tuple(rate(one).value for one in hits),
        )

    def _hits(self, network: FrozenNetwork, patch: Patch, chosen: Tensor, target: int) -> Tensor:
        """Bool `(M,)`: which of the chosen images a patch takes to the target."""
        mask, pattern = (part.to(self._images.device) for part in patch)
        stamped = torch.lerp(self._images[chosen.to(self._images.device)], pattern, mask)
        return network.logits(stamped).argmax(1) == target
