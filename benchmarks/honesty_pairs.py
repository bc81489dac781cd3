"""Which pairs an honesty study checks, and whether there are images for them."""

from __future__ import annotations

from moth_eval.errors import InputError
from moth_eval.honesty import HonestySettings
from moth_eval.patch_curves import Pair
from moth_eval.subject import Examples, Subject

from .harden_data import per_class

FEW_CLASSES = 4
"""Up to so many classes, all ordered pairs are checked unless some are named."""


def default_pairs(examples: Examples, num_classes: int) -> tuple[Pair, ...]:
    """Pairs that are checked if none are named, all of classes that have examples.

    Every ordered pair for up to `FEW_CLASSES` classes; else one per source class, with the next
    class as its target, and the first class after the last.

    Args:
        examples: the images.
        num_classes: K.

    Raises:
        InputError: fewer than two classes have examples.
    """
    present = sorted(set(examples.labels.tolist()))
    if len(present) < 2:
        raise InputError(
            f"expected examples of at least two classes, got those of {present}: give more images, "
            "or name the pairs (--pairs)"
        )
    if num_classes <= FEW_CLASSES:
        return tuple((a, b) for a in present for b in present if a != b)
    return tuple(zip(present, [*present[1:], present[0]], strict=True))


def check_patches(settings: HonestySettings, subject: Subject) -> None:
    """Find out at once what would end a patch curve hours later.

    Args:
        settings: what is checked.
        subject: either network, with the images.

    Raises:
        InputError: no size, a patch that is larger than the images, or a class without enough
            images.
    """
    if not settings.patch_kinds:
        return
    side = min(subject.image_shape[1:])
    wrong = [size for size in settings.patch_sizes if not 1 <= size <= side]
    if wrong or not settings.patch_sizes:
        raise InputError(
            f"--patch-sizes: expected sides from 1 to {side} pixels, which is the image's, got "
            f"{wrong[0] if wrong else 'none'}"
        )
    counts = per_class(subject.examples, subject.num_classes)
    halves = (
        "patches are chosen on one half of the images of a source class and measured on the other"
    )
    if settings.images_per_class < 2:
        raise InputError(
            f"{halves}, and --images-per-class {settings.images_per_class} allows one alone: "
            "expected at least 2, or leave patches out (--patches none)"
        )
    short = [source for source, _ in settings.pairs if counts[source] < 2]
    if short:
        raise InputError(
            f"{halves}, but there is only one of class {short[0]}: give more examples, leave its "
            "pairs out (--pairs), or leave patches out (--patches none)"
        )
    absent = [target for _, target in settings.pairs if not counts[target]]
    if absent and "crop" in settings.patch_kinds:
        raise InputError(
            f"patches of the kind crop are cut out of images of the target class, but there is "
            f"none of class {absent[0]}: give examples of it, or leave crop out of --patches"
        )
