"""Reasons to distrust a verdict on a subject, each a sentence with the figures that show it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .preprocessing import Choice

EXPECTED_ACCURACY = 0.9
"""Models of the TrojAI rounds were accepted at 0.95 to 0.99 on clean images."""
EXPECTED_PER_CLASS = 2
_SUM_TOLERANCE = 1e-3
_REPEAT_TOLERANCE = 1e-4
"""Relative to the largest output; two passes of the same kernels differ by about 1e-7."""
_BATCH_TOLERANCE = 1e-2
"""Relative to the largest output; kernels for other batches differ by up to 1e-3 (in TF32)."""


def doubts_of_choice(choice: Choice) -> Iterator[str]:
    """Doubts about the normalisation, from the clean examples that it was chosen by."""
    accuracy, n = choice.tried[choice.name], len(choice.logits)
    if choice.better:
        yield (
            f"the side-car states the normalisation {choice.name}, under which clean accuracy is "
            f"{accuracy:.3f} on {n} examples; under {choice.better} it is "
            f"{choice.tried[choice.better]:.3f}, better by more than chance: either the side-car "
            f"or the examples are not this model's; --normalisation {choice.better} reads it so"
        )
    if accuracy < EXPECTED_ACCURACY:
        origin = {
            "found": f"the best of {len(choice.tried)} normalisations tried",
            "stated": "the normalisation that the side-car states",
            "given": "the normalisation that was given",
        }[choice.origin]
        yield (
            f"clean accuracy is {accuracy:.3f} on {n} examples under {choice.name}, {origin}, "
            f"below {EXPECTED_ACCURACY:g}: the examples, their labels or the normalisation may "
            "not be those of this model"
        )


def doubts_of_labels(labels: Tensor, num_classes: int) -> Iterator[str]:
    """Doubts about the number of clean examples per class; labels are `(N,)`."""
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    few = torch.nonzero(counts < EXPECTED_PER_CLASS).flatten().tolist()
    if few:
        none = int((counts == 0).sum())
        yield (
            f"{len(few)} of {num_classes} classes have fewer than {EXPECTED_PER_CLASS} clean "
            f"examples, {none} of them none (classes {_listed(few)}): triggers from and in these "
            "classes are poorly measured"
        )


def doubts_of_outputs(outputs: Tensor) -> Iterator[str]:
    """Doubts about outputs `(N, K)` that are no logits."""
    sums = outputs.sum(dim=1)
    if outputs.min() >= 0 and bool(((sums - 1).abs() < _SUM_TOLERANCE).all()):
        yield (
            f"outputs are probabilities, not logits: all {len(outputs)} rows lie in [0, 1] and sum "
            f"to 1 within {_SUM_TOLERANCE:g}; a softmax at the end flattens the gradients that "
            "scanners follow"
        )
    log_sums = outputs.logsumexp(dim=1)
    if outputs.max() <= 0 and bool((log_sums.abs() < _SUM_TOLERANCE).all()):
        yield (
            f"outputs are log-probabilities, not logits: the exponentials of all {len(outputs)} "
            f"rows sum to 1 within {_SUM_TOLERANCE:g}"
        )


def doubts_of_repetition(first: Tensor, second: Tensor) -> Iterator[str]:
    """Doubts about outputs `(N, K)` of two passes over the same images."""
    difference = float((first - second).abs().max())
    if difference > _REPEAT_TOLERANCE * max(float(first.abs().max()), 1e-6):
        yield (
            f"two passes over the same {len(first)} images differ by up to {difference:.3g}: the "
            "network is random in eval mode"
        )


def doubts_of_batches(batch: Tensor, singly: Tensor | None) -> Iterator[str]:
    """Doubts about outputs `(N, K)` of images together and one by one; None: that failed."""
    if singly is None or singly.shape != batch.shape:
        yield (
            "the network gives no logits (1, K) for a single image: verdicts depend on how images "
            "are put into batches"
        )
        return
    difference = float((batch - singly).abs().max())
    if not difference <= _BATCH_TOLERANCE * max(float(batch.abs().max()), 1e-6):
        yield (
            f"outputs for {len(batch)} images together and one by one differ by up to "
            f"{difference:.3g}: what the network says of an image depends on the others in its "
            "batch"
        )


def doubts_of_input(given: Tensor, afterwards: Tensor) -> Iterator[str]:
    """Doubts about a network input `(N, C, H, W)` that the network may have written to."""
    if not torch.equal(given, afterwards):
        yield (
            "the network overwrites its input (a layer works in place): programs that do not hand "
            "it a copy see other images afterwards"
        )


def doubts_of_classes(stated: int | None, found: int) -> Iterator[str]:
    """Doubts about a number of classes that the metadata and the network do not agree on."""
    if stated is not None and stated != found:
        yield f"the metadata state {stated} classes, the network has {found} outputs"


def _listed(classes: list[int]) -> str:
    shown = ", ".join(str(c) for c in classes[:8])
    return f"{shown}, ..." if len(classes) > 8 else shown
