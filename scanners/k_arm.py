"""K-Arm: suspected triggers share one budget of steps, and the promising ones get more of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moth_eval.choosing import spread
from moth_eval.errors import ScanError
from moth_eval.inversion import presets
from moth_eval.inversion.engine import invert
from moth_eval.inversion.frozen import FrozenNetwork
from moth_eval.inversion.problems import Inversion, Problem
from moth_eval.inverted import trigger_of
from moth_eval.scan import Cost, Evidence, Rule, Scan, Status
from moth_eval.seeds import derive_seed
from moth_eval.subject import Subject

EXPLORATION = 0.0016
"""Weight of a small trigger beside a fast shrinking one. Source: the published code's 10,000 over
the size and 2,500 as its start, divided by 2,500 squared, so that no image size is assumed."""

MOST_SOURCES = 3
"""Source classes per target, as published."""

BOUNDED_IMAGE = 224 * 224
"""Pixels of the images that the published bounds are for."""

LARGEST_UNIVERSAL = 1720
"""Pixels that a trigger for all classes stays below, as published."""

LARGEST_OF_PAIR = 1000
"""Pixels that a trigger for one class stays below, as published."""

WAY_BACK = 10
"""How many times its size the way back exceeds, as published."""


@dataclass(frozen=True)
class Arm:
    """A trigger that may exist: from one class, or from all, to another."""

    source: int | None
    target: int


@dataclass
class _Progress:
    """What an arm came to so far."""

    arm: Arm
    images: Tensor
    visits: int = 0
    improvements: int = 0
    latest: Inversion | None = None
    best: Inversion | None = None
    asr: float = 0.0

    def size(self, pixels: float) -> float:
        """Of the best trigger; without one, the whole image."""
        return pixels if self.best is None else max(self.best.size, 1.0)

    def problem(self, base: int) -> Problem:
        """Where the next visit goes on."""
        seed = derive_seed(base, str(self.arm.source), self.arm.target, self.visits)
        before = self.latest
        return Problem(
            target=self.arm.target,
            source=self.arm.source,
            images=self.images,
            seed=seed,
            start=None if before is None else (before.mask, before.pattern),
            initial_cost=None if before is None else before.cost,
        )

    def note(self, found: Inversion) -> None:
        """Take in what a visit found."""
        self.visits += 1
        self.latest = found
        self.asr = max(self.asr, found.asr)
        if found.valid and (self.best is None or found.size < self.best.size):
            self.best = found
            self.improvements += 1


@dataclass(frozen=True, kw_only=True)
class KArm:
    """Pre-screens classes, then spends a budget of inversion steps where triggers shrink fastest.

    A class that many images hold for their second guess is worth a look: as a target of all
    classes, or of single ones. Each such suspicion is an arm; a visit takes its inversion some
    steps further, and the next arms are chosen by how fast their triggers shrank and how small they
    are. A pair of classes counts only as far as the way back is harder than the way there.

    Source: Shen et al., "Backdoor Scanning for Deep Neural Networks through K-Arm Optimization",
    ICML 2021, and its published code (github.com/PurduePAML/K-ARM_Backdoor_Optimization).

    Differs from the reference:
        * the likeliest classes are arms whatever the pre-screening says (`least_arms`): most misses
          that users report come from it, and where it leaves no arm the published code breaks off;
        * several arms are visited at a time, as rows of one batch;
        * sizes are relative to the image, and so are the bounds, which are published for images of
          224 pixels; for others the cut is ours;
        * a trigger counts only if its success rate holds on all images of its arm;
        * `global_share` is of the images of other classes, not of all;
        * a visit is a short inversion by `presets.SHORT`, whose cost of size moves faster, and a
          pair starts as every other arm does;
        * arms are dropped by success rate alone, and the budget alone ends the scan;
        * there are half as many arms as visits at most, the likeliest, so that some can be visited
          again;
        * the score of a pair is the smaller of two logarithms: of the image over its trigger,
          and of the trigger of the way back over its own.

    Attributes:
        global_share: a class is an arm for all classes if it is among the first guesses of this
            fraction of all images (published: 0.95).
        local_share: likewise for the images of one class (published: 0.9).
        least_arms: so many of the likeliest classes are arms for all classes, whatever share they
            reach; 0 as published.
        rounds: of visits.
        arms_at_once: arms visited in a round.
        visit_steps: inversion steps of a visit.
        random_share: probability that an arm is chosen at random (published: 0.3).
        least_asr: an arm whose best success rate is below this after `patience` visits is dropped
            (published: 0.3).
        patience: visits before an arm may be dropped.
        success_rate: fraction of images that a trigger must flip, in `(0, 1]` (published: 0.99).
        symmetric: whether the way back of the best pairs is inverted as well (published).
        max_images: clean images used at most, spread over the classes.
    """

    global_share: float = 0.95
    local_share: float = 0.9
    least_arms: int = 10
    rounds: int = 24
    arms_at_once: int = 4
    visit_steps: int = 25
    random_share: float = 0.3
    least_asr: float = 0.3
    patience: int = 4
    success_rate: float = 0.99
    symmetric: bool = True
    max_images: int = 200

    def __post_init__(self) -> None:
        counts = {
            name: getattr(self, name)
            for name in ("rounds", "arms_at_once", "visit_steps", "patience", "max_images")
        }
        low = [f"{name}={value}" for name, value in counts.items() if value < 1]
        if low or self.least_arms < 0:
            raise ScanError(
                "expected counts of at least 1 and no negative least_arms, got "
                f"{', '.join(low) or f'least_arms={self.least_arms}'}"
            )
        shares = (self.global_share, self.local_share, self.random_share, self.least_asr)
        if not all(0 <= share <= 1 for share in shares) or not 0 < self.success_rate <= 1:
            raise ScanError("expected shares and rates in [0, 1], and a success_rate above 0")

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject.

        Raises:
            ScanError: there are no example images.
        """
        labels = subject.examples.labels.cpu()
        chosen = spread(labels, self.max_images, generator)
        images = subject.examples.images[chosen.to(subject.examples.images.device)]
        labels = labels[chosen]
        base = int(torch.randint(2**62, (), generator=generator))
        network = FrozenNetwork(subject)
        guesses = network.logits(images).softmax(1).cpu()
        suspicions = self.screened(guesses, labels)
        arms = suspicions[: max(1, self.rounds * self.arms_at_once // 2)]
        pixels = float(subject.image_shape[1] * subject.image_shape[2])
        tried = [_Progress(arm=arm, images=_images_of(arm, labels)) for arm in arms]
        self._explore(network, images, tried, pixels, base)
        back = self._ways_back(network, images, labels, tried, base)
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        return self._judged(tried, back, pixels, cost, left_out=len(suspicions) - len(arms))

    def screened(self, guesses: Tensor, labels: Tensor) -> list[Arm]:
        """The arms that are worth a visit, likeliest first; pairs if no class is one for all.

        The likeliest classes come before pairs.

        Args:
            guesses: probabilities `(N, K)` of clean images.
            labels: int64 `(N,)`, their classes.
        """
        classes = guesses.shape[1]
        # Source: the published code: 2 up to 8 classes, then a quarter of them.
        first = min(classes, 2 if classes <= 8 else round(0.25 * classes))
        among = torch.zeros_like(guesses).scatter(1, guesses.topk(first, dim=1).indices, 1.0)
        everywhere: list[tuple[float, Arm]] = []
        for target in range(classes):
            others = labels != target
            if bool(others.any()):
                share = float(among[others, target].mean())
                everywhere.append((share, Arm(None, target)))
        pairs: list[tuple[float, Arm]] = []
        for source in sorted(set(labels.tolist())):
            shares = among[labels == source].mean(0)
            pairs += [
                (float(shares[target]), Arm(source, target))
                for target in range(classes)
                if target != source
            ]
        everywhere.sort(key=lambda one: -one[0])
        pairs.sort(key=lambda one: -one[0])
        found = [arm for share, arm in everywhere if share >= self.global_share]
        if not found:
            found = _few_per_target([arm for share, arm in pairs if share >= self.local_share])
        likely = [arm for _, arm in everywhere[: self.least_arms]]
        return list(dict.fromkeys(likely + found))

    def _explore(
        self,
        network: FrozenNetwork,
        images: Tensor,
        tried: Sequence[_Progress],
        pixels: float,
        base: int,
    ) -> None:
        chance = torch.Generator().manual_seed(derive_seed(base, "arms"))
        for _ in range(self.rounds):
            alive = [one for one in tried if not self._hopeless(one)]
            if not alive:
                return
            self._visit(network, images, self._chosen(alive, pixels, chance), base)

    def _hopeless(self, one: _Progress) -> bool:
        return one.visits >= self.patience and one.asr < self.least_asr

    def _chosen(
        self, alive: Sequence[_Progress], pixels: float, chance: torch.Generator
    ) -> list[_Progress]:
        """The arms of a round: first those never visited, then by promise or chance."""
        fresh = [one for one in alive if not one.visits]
        left = sorted((one for one in alive if one.visits), key=lambda one: -promise(
            one.size(pixels) / pixels, one.improvements, one.visits
        ))  # fmt: skip
        taken = fresh[: self.arms_at_once]
        while left and len(taken) < self.arms_at_once:
            at_random = float(torch.rand((), generator=chance)) < self.random_share
            place = int(torch.randint(len(left), (), generator=chance)) if at_random else 0
            taken.append(left.pop(place))
        return taken

    def _visit(
        self, network: FrozenNetwork, images: Tensor, arms: Sequence[_Progress], base: int
    ) -> None:
        schedule = replace(
            presets.SHORT,
            steps=self.visit_steps,
            check_every=self.visit_steps,
            success_rate=self.success_rate,
        )
        found = invert(network, images, [one.problem(base) for one in arms], schedule)
        for one, inversion in zip(arms, found, strict=True):
            one.note(inversion)

    def _ways_back(
        self,
        network: FrozenNetwork,
        images: Tensor,
        labels: Tensor,
        tried: Sequence[_Progress],
        base: int,
    ) -> dict[Arm, _Progress]:
        """Pairs whose trigger works -> the way back, given as many visits."""
        pairs = [one for one in tried if one.arm.source is not None and one.best is not None]
        pairs = [one for one in pairs if bool((labels == one.arm.target).any())]
        if not self.symmetric or not pairs:
            return {}
        back = {}
        for one in pairs:
            turned = Arm(one.arm.target, one.arm.source or 0)
            back[one.arm] = _Progress(arm=turned, images=_images_of(turned, labels))
        visits = {one.arm: one.visits for one in pairs}
        for number in range(max(visits.values())):
            open_ones = [back[arm] for arm in back if number < visits[arm]]
            self._visit(network, images, open_ones, derive_seed(base, "back"))
        return back

    def _judged(
        self,
        tried: Sequence[_Progress],
        back: dict[Arm, _Progress],
        pixels: float,
        cost: Cost,
        *,
        left_out: int,
    ) -> Scan:
        scores = {one.arm: _score(one, back.get(one.arm), pixels) for one in tried}
        cuts = {one.arm: _cut(one, back.get(one.arm), pixels) for one in tried}
        # An arm beyond its own bound is suspected before one whose higher score is within its.
        suspect = max(
            tried, key=lambda o: (scores[o.arm] > cuts[o.arm], scores[o.arm]), default=None
        )
        works = suspect is not None and suspect.best is not None
        evidence = tuple(
            Evidence(
                what="size of the way back over that of the way there",
                value=way.size(pixels) / next(o for o in tried if o.arm == arm).size(pixels),
                source=arm.source,
                target=arm.target,
            )
            for arm, way in sorted(back.items(), key=lambda at: -scores[at[0]])
        )
        reasons = [] if works else ["no arm has a trigger that works"]
        if left_out:
            reasons.append(
                f"{left_out} of {len(tried) + left_out} suspicions are beyond half the budget of "
                "visits and were not looked at: raise rounds"
            )
        return Scan(
            status=Status.SCORED,
            score=max(scores.values(), default=0.0),
            reason="; ".join(reasons) if tried else "the pre-screening leaves no arm",
            target=suspect.arm.target if works and suspect else None,
            source=suspect.arm.source if works and suspect else None,
            triggers=tuple(trigger_of(shown) for one in tried if (shown := one.best or one.latest)),
            evidence=evidence,
            rule=_rule([(scores[arm], cut) for arm, cut in cuts.items()], pixels),
            cost=cost,
        )


def _cut(one: _Progress, back: _Progress | None, pixels: float) -> float:
    """The score above which an arm keeps to the published bounds."""
    if one.arm.source is None:
        return math.log(BOUNDED_IMAGE / LARGEST_UNIVERSAL)
    cut = math.log(BOUNDED_IMAGE / LARGEST_OF_PAIR)
    # A trigger that is small enough is held against its way back alone.
    small = math.log(pixels / one.size(pixels)) > cut
    return math.log(WAY_BACK) if back is not None and small else cut


def _rule(arms: Sequence[tuple[float, float]], pixels: float) -> Rule:
    """The cut that the largest score exceeds if and only if some arm exceeds its own.

    Args:
        arms: score and cut of each.
        pixels: of the image.
    """
    above = [cut for score, cut in arms if score > cut]
    universal = math.log(BOUNDED_IMAGE / LARGEST_UNIVERSAL)
    published = pixels == BOUNDED_IMAGE
    return Rule(
        name="log of the image over the trigger",
        threshold=min(above) if above else max((cut for _, cut in arms), default=universal),
        false_alarm_rate=None,
        source=f"{'' if published else 'ours, as shares of the image: '}K-Arm (2021), "
        f"{LARGEST_UNIVERSAL} pixels for all classes; {LARGEST_OF_PAIR} for a pair, and a way back "
        f"of {WAY_BACK} times the size; of 224 x 224 pixels",
        origin="published" if published else "ours",
    )


def promise(share: float, improvements: int, visits: int) -> float:
    """How much a further visit of an arm promises.

    Source: K-Arm, equation 6, as in the published code, in sizes relative to where a trigger
    starts, which is half of the image.

    Args:
        share: size of its best trigger as a fraction of the image.
        improvements: visits at which it shrank.
        visits: all of them.
    """
    relative = min(2 * share, 1.0)
    return (1 - relative) / max(improvements + visits / 2, 0.5) + EXPLORATION / max(relative, 1e-6)


def _score(one: _Progress, back: _Progress | None, pixels: float) -> float:
    score = math.log(pixels / one.size(pixels))
    if back is not None:
        score = min(score, max(0.0, math.log(back.size(pixels) / one.size(pixels))))
    return score


def _images_of(arm: Arm, labels: Tensor) -> Tensor:
    wanted = labels != arm.target if arm.source is None else labels == arm.source
    return wanted.nonzero().flatten()


def _few_per_target(arms: Sequence[Arm]) -> list[Arm]:
    places: dict[int, list[Arm]] = {}
    for arm in arms:
        places.setdefault(arm.target, []).append(arm)
    return [arm for arm in arms if arm in places[arm.target][:MOST_SOURCES]]
