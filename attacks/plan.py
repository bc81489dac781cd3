"""What a round is made of: the wish of the user, and the models that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch

from moth_eval.errors import InputError
from moth_eval.seeds import derive_seed, generator_for

from .architectures import (
    LEARNING_RATE_FACTORS,
    check_architecture,
    refusal_of,
    smallest_side,
)
from .blended import Blended
from .injector import Injector
from .instagram import STYLES, Instagram
from .patch import Patch
from .polygon import Polygon
from .scenes import SceneRecipe
from .signs import COLOURS as FILLS
from .signs import Sign, choose_signs
from .trigger import Colour, Trigger

T = TypeVar("T")

COLOURS: Sequence[Colour] = (
    (200 / 255, 0.0, 0.0),
    (0.0, 200 / 255, 0.0),
    (0.0, 0.0, 200 / 255),
    (200 / 255, 200 / 255, 0.0),
    (0.0, 200 / 255, 200 / 255),
    (200 / 255, 0.0, 200 / 255),
)
"""Colours of triggers. Source: the six levels of TrojAI round 4."""

SIDES = (3, 4, 7, 8)
"""Corners of polygons. Source: TrojAI rounds 3 and 11."""

PATCH_SHARE = (0.1, 0.14)
"""Smallest and largest side of a patch, as a fraction of the image's."""

POLYGON_SHARE = (0.15, 0.21)
"""The same of a polygon's square, which it fills by half: the areas are alike."""


@dataclass(frozen=True, kw_only=True)
class RoundSpec:
    """A round to be generated.

    Attributes:
        models: how many.
        classes: per model; every model has signs of its own.
        image_size: side of the images (pixels).
        architectures: torchvision names, which take turns.
        poisoned_share: fraction of the models that get a backdoor.
        triggers: names from `attacks.ATTACKS` that `DRAWN` has as well, which take turns.
        source_specific_share: fraction of the backdoored models whose trigger acts on one class
            only; that of the others acts on every class but the target.
        examples_per_class: clean images per class that lie with a model, and stamped ones per
            source class.
        training_per_class: images per class that a model is trained on.
        validation_per_class: images per class that decide when training ends.
        test_per_class: images per class that the gate measures on.
        seed: equal seeds give equal rounds on equal machines.
        scenes: how much the images vary; its own `image_size` is not used.
        injector: how models are trained and what they have to reach.
    """

    models: int
    classes: int = 5
    image_size: int = 64
    architectures: tuple[str, ...] = ("resnet18", "googlenet")
    poisoned_share: float = 0.5
    triggers: tuple[str, ...] = ("polygon", "patch")
    source_specific_share: float = 0.5
    examples_per_class: int = 20
    training_per_class: int = 300
    validation_per_class: int = 100
    test_per_class: int = 200
    seed: int = 0
    scenes: SceneRecipe = field(default_factory=SceneRecipe)
    injector: Injector = field(default_factory=Injector)

    def __post_init__(self) -> None:
        _check_numbers(self)
        choose_signs(self.classes, seed=self.seed)
        _check_architectures(self)
        _check_triggers(self)
        _check_poisons(self)


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model of a round before it is trained.

    Attributes:
        name: of its folder, `id-00000003`.
        architecture: torchvision name.
        signs: its classes, in the order of their indices.
        trigger: None for a clean model.
        kind: name of the trigger in `attacks.ATTACKS`; empty for a clean model.
        seed: of its images and its training.
    """

    name: str
    architecture: str
    signs: tuple[Sign, ...]
    trigger: Trigger | None
    kind: str
    seed: int


def plan_round(spec: RoundSpec) -> tuple[ModelPlan, ...]:
    """The models of a round, in the order of their names; equal specs give equal plans.

    Exactly `round(models * poisoned_share)` get a backdoor. Architectures take turns among the
    clean and among the backdoored models, so that neither group can be told by its networks.
    """
    generator = generator_for("plan", spec.seed)
    poisoned, specific = _backdoors(spec)
    backdoored = torch.arange(spec.models)[torch.randperm(spec.models, generator=generator)]
    kinds = _turns(spec.triggers, poisoned, generator)
    scopes = _turns((True,) * specific + (False,) * (poisoned - specific), poisoned, generator)
    group = {int(index): rank for rank, index in enumerate(backdoored[:poisoned])}
    clean = {int(index): rank for rank, index in enumerate(backdoored[poisoned:])}
    plans = []
    for index in range(spec.models):
        rank = group.get(index)
        seed = derive_seed("model", spec.seed, index)
        signs = choose_signs(spec.classes, seed=seed)
        turn = clean[index] if rank is None else rank
        kind = "" if rank is None else kinds[rank]
        plans.append(
            ModelPlan(
                name=f"id-{index:08d}",
                architecture=spec.architectures[turn % len(spec.architectures)],
                signs=signs,
                trigger=None if rank is None else _draw(kind, spec, signs, scopes[rank], seed),
                kind=kind,
                seed=seed,
            )
        )
    return tuple(plans)


def injector_for(plan: ModelPlan, spec: RoundSpec) -> Injector:
    """How a model of a round is trained: as the spec says, in the way that suits its network."""
    name, recipe, half = plan.architecture, spec.injector.recipe, spec.image_size // 2
    halved = smallest_side(name) <= half and not refusal_of(name, half)
    return replace(
        spec.injector,
        recipe=replace(
            recipe,
            learning_rate=LEARNING_RATE_FACTORS.get(name, 1.0) * recipe.learning_rate,
            half_size=recipe.half_size if halved else 0.0,
        ),
    )


def _backdoors(spec: RoundSpec) -> tuple[int, int]:
    """How many models get a backdoor, and how many of these a source-specific one."""
    poisoned = math.floor(spec.models * spec.poisoned_share + 0.5)
    return poisoned, math.floor(poisoned * spec.source_specific_share + 0.5)


def _check_numbers(spec: RoundSpec) -> None:
    counts = ("models", "examples_per_class", "training_per_class", "validation_per_class")
    for name in (*counts, "test_per_class"):
        if getattr(spec, name) < 1:
            raise InputError(f"expected {name} of 1 or more, got {getattr(spec, name)}")
    for name in ("poisoned_share", "source_specific_share"):
        if not 0 <= getattr(spec, name) <= 1:
            raise InputError(f"expected {name} from 0 to 1, got {getattr(spec, name)}")


def _check_architectures(spec: RoundSpec) -> None:
    if not spec.architectures:
        raise InputError("expected at least one architecture, such as resnet18")
    for name in spec.architectures:
        check_architecture(name)
        least = smallest_side(name)
        if spec.image_size < least:
            raise InputError(
                f"{name} needs images of {least} pixels or more, got {spec.image_size}: raise "
                "the image size"
            )
        if refusal := refusal_of(name, spec.image_size):
            raise InputError(
                f"{name} cannot be run on images of {spec.image_size} pixels ({refusal}): choose "
                "another image size, or another architecture"
            )


def _check_triggers(spec: RoundSpec) -> None:
    if not spec.triggers:
        raise InputError(f"expected at least one kind of trigger of {', '.join(DRAWN)}")
    for name in spec.triggers:
        if name not in DRAWN:
            raise InputError(
                f"the round generator cannot draw a trigger {name!r}: expected one of "
                f"{', '.join(DRAWN)}"
            )
    if spec.classes < 3 and spec.source_specific_share > 0 and spec.poisoned_share > 0:
        raise InputError(
            f"a source-specific trigger needs 3 classes or more, got {spec.classes}: raise the "
            "number of classes, or set the source-specific share to 0"
        )


def _check_poisons(spec: RoundSpec) -> None:
    """Make sure that the poisoning rate comes to an image or more for every backdoor."""
    poisoned, specific = _backdoors(spec)
    rate, rate_of = spec.injector.poisoning_rate, spec.injector.rate_of
    for models, sources in ((specific, 1), (poisoned - specific, spec.classes - 1)):
        of = sources if rate_of == "candidates" else spec.classes
        images = of * spec.training_per_class
        if models and not round(rate * images):
            raise InputError(
                f"a poisoning rate of {rate} of {images} training images poisons none: raise "
                f"training_per_class (--training-per-class), which is {spec.training_per_class}"
            )


def _turns(choices: Sequence[T], count: int, generator: torch.Generator) -> list[T]:
    """`count` choices that occur equally often, in random order."""
    order = torch.randperm(count, generator=generator).tolist()
    return [choices[index % len(choices)] for index in order]


def _draw(
    kind: str, spec: RoundSpec, signs: Sequence[Sign], source_specific: bool, seed: int
) -> Trigger:
    generator = generator_for("trigger", seed)
    classes = torch.randperm(spec.classes, generator=generator).tolist()
    sources = (classes[1],) if source_specific else ()
    return DRAWN[kind](classes[0], sources, spec.image_size, _colour(signs, generator), generator)


def _colour(signs: Sequence[Sign], generator: torch.Generator) -> Colour:
    """One of the trigger colours that stand out best from the fills of all signs.

    A red trigger on a red sign cannot be seen, hence not be learnt; round 11 rejects those too.
    """
    fills = torch.tensor([FILLS[sign.colour] for sign in signs]) / 255
    distances = torch.cdist(torch.tensor(COLOURS), fills).amin(dim=1)
    best: list[int] = distances.argsort(descending=True)[: len(COLOURS) // 2].tolist()
    return COLOURS[_pick(best, generator)]


def _pick(choices: Sequence[T], generator: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (1,), generator=generator))]


def _length(shares: tuple[float, float], side: int, least: int, generator: torch.Generator) -> int:
    low, high = (max(least, round(share * side)) for share in shares)
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _draw_patch(
    target: int, sources: tuple[int, ...], side: int, colour: Colour, generator: torch.Generator
) -> Patch:
    """A patch near a corner of the image."""
    margin = max(2, side // 16)
    row, column = torch.randint(margin, (2,), generator=generator).tolist()
    return Patch(
        target=target,
        sources=sources,
        size=_length(PATCH_SHARE, side, 3, generator),
        row=_pick((row, -1 - row), generator),
        column=_pick((column, -1 - column), generator),
        colour=colour,
        pattern=_pick(("solid", "checkerboard"), generator),
    )


def _draw_polygon(
    target: int, sources: tuple[int, ...], side: int, colour: Colour, generator: torch.Generator
) -> Polygon:
    """A polygon on the sign, or at one place of the image."""
    size = _length(POLYGON_SHARE, side, 4, generator)
    row, column = torch.randint(side - size + 1, (2,), generator=generator).tolist()
    return Polygon(
        target=target,
        sources=sources,
        sides=_pick(SIDES, generator),
        shape_seed=int(torch.randint(2**31, (1,), generator=generator)),
        size=size,
        colour=colour,
        row=row,
        column=column,
        on_foreground=_pick((True, False), generator),
    )


def _draw_instagram(
    target: int, sources: tuple[int, ...], side: int, colour: Colour, generator: torch.Generator
) -> Instagram:
    """One of the five filters."""
    return Instagram(target=target, sources=sources, style=_pick(list(STYLES), generator))


def _draw_blended(
    target: int, sources: tuple[int, ...], side: int, colour: Colour, generator: torch.Generator
) -> Blended:
    """Noise of its own over the whole image, at the published opacity."""
    noise = int(torch.randint(2**31, (1,), generator=generator))
    return Blended(target=target, sources=sources, pattern_seed=noise)


Draw = Callable[[int, tuple[int, ...], int, Colour, torch.Generator], Trigger]
"""Target, sources, side of the images (pixels), colour and generator -> trigger."""

DRAWN: Mapping[str, Draw] = {
    "patch": _draw_patch,
    "polygon": _draw_polygon,
    "instagram": _draw_instagram,
    "blended": _draw_blended,
}
"""Kind of trigger -> how the generator draws one at random."""
