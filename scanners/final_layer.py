"""Weight statistics: the class whose row of the last layer is unlike all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moth_eval.anomaly import LEAST_CLASSES, upward_indices
from moth_eval.errors import ScanError
from moth_eval.hardeners.flow import CONVOLUTIONS, flow_of
from moth_eval.own_rules import index_rule
from moth_eval.scan import Cost, Evidence, Scan, Status
from moth_eval.subject import Subject

Statistic = Literal["largest", "mean", "norm", "bias", "skew"]

TOLERANCE = 1e-3
"""Share of what the logits gain that may be rounding."""

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FinalLayer:
    """Compares the rows of the last layer with weights, one per class. It needs no images.

    A backdoor has to make its target win against every class, and leaves the target's row with
    larger weights or a larger bias. The score is the largest anomaly index, in robust standard
    deviations above the median row, of the mean, the norm, the bias and the skewness of a row.

    Source: Fields et al., "Trojan Signatures in DNN Weights", ICCV Workshops 2021 (the mean of a
    row); norm, bias and skewness as indicators, and the largest of them as the score, as in
    DFBScanner, arXiv 2605.18907, of which only the abstract was at hand.

    Differs from the reference:
        * the last layer is found by what the logits gain when its output is changed, whatever it is
          called and in whatever order layers are run;
        * one index for all figures, that of Neural Cleanse turned upwards; the papers' outlier
          tests differ from each other;
        * the cut is ours. The score depends on how networks are trained (weight decay, classes of
          unequal size, a new last layer) at least as much as on backdoors.

    Attributes:
        statistic: which figure of a row counts: its `mean`, `norm`, `bias` or `skew`, or the one
            that stands out most (`largest`).
    """

    statistic: Statistic = "largest"

    def __post_init__(self) -> None:
        if self.statistic not in get_args(Statistic):
            raise ScanError(
                f"statistic must be one of {', '.join(get_args(Statistic))}, got {self.statistic!r}"
            )

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject; its images are not looked at, and nothing is drawn."""
        if subject.num_classes < LEAST_CLASSES:
            return Scan(
                status=Status.INCONCLUSIVE,
                reason=f"{subject.num_classes} rows leave none to compare with: expected "
                f"{LEAST_CLASSES}",
            )
        layer, passes = _last_layer(subject)
        cost = Cost(forward_passes=passes)
        if layer is None:
            return Scan(
                status=Status.INCONCLUSIVE,
                reason="no layer with a row of weights per class makes the logits",
                cost=cost,
            )
        name, weight, bias = layer
        figures = row_figures(weight, bias)
        if self.statistic != "largest":
            if self.statistic not in figures:
                return Scan(
                    status=Status.INCONCLUSIVE, reason=f"{name} has no {self.statistic}", cost=cost
                )
            figures = {self.statistic: figures[self.statistic]}
        return _judged(figures, name, cost)


def _last_layer(subject: Subject) -> tuple[tuple[str, Tensor, Tensor | None] | None, int]:
    """The layer that makes the logits, and how many images went forward to find it.

    The layer is its name, weights `(K, D)` and biases, on the CPU; None if there is no such layer.
    """
    layers = [
        layer
        for layer in reversed(flow_of(subject).layers)
        if isinstance(layer.module, (*CONVOLUTIONS, nn.Linear))
    ]
    passes = 1
    for layer in layers:
        held = dict(layer.module.named_parameters(recurse=False))
        weight, bias = held.get("weight"), held.get("bias")
        if weight is None or len(weight) != subject.num_classes:
            continue
        passes += 3
        if _makes_logits(layer.module, subject):
            rows = weight.detach().float().cpu().flatten(1)
            return (layer.name, rows, None if bias is None else bias.detach().float().cpu()), passes
    return None, passes


@torch.no_grad()
def _makes_logits(module: nn.Module, subject: Subject) -> bool:
    """Whether what is added to this layer's output is what the logits gain, class by class.

    Added is once a number for all classes alike, large enough to lift the output above what a
    rectifier behind it would cut, and once that and more for some classes than for others.

    A common factor, and a number that all logits gain alike, do not count: the first is a
    temperature, the second the normalisation of logarithms of probabilities.
    """
    grey = torch.full((1, *subject.image_shape), 0.5, device=subject.examples.images.device)
    plain = subject.logits(grey)[0].double()
    added = torch.arange(1, subject.num_classes + 1, device=plain.device).double().cos()
    added = added * plain.abs().max().clamp_min(1.0)
    axis = -1 if isinstance(module, nn.Linear) else 1

    def lifted(more: Tensor) -> Tensor:
        def shift(_: nn.Module, __: object, output: Tensor) -> Tensor:
            lift = output.abs().max() + added.abs().max()
            return (output.movedim(axis, -1) + (lift + more).to(output.dtype)).movedim(-1, axis)

        handle = module.register_forward_hook(shift)
        try:
            return subject.logits(grey)[0].double()
        finally:
            handle.remove()

    gained = lifted(added) - lifted(torch.zeros_like(added))
    gained, added = gained - gained.mean(), added - added.mean()
    factor = (gained @ added) / (added @ added)
    return bool(factor > 0 and (gained - factor * added).norm() <= TOLERANCE * gained.norm())


def row_figures(weight: Tensor, bias: Tensor | None) -> dict[str, Figures]:
    """What is measured of every row: name -> `(K,)`; larger is more suspicious.

    Rows are taken relative to their mean row first: a number that is added to all logits changes no
    answer, and no figure.

    Args:
        weight: `(K, D)`.
        bias: `(K,)`, or None.
    """
    rows = (weight - weight.mean(0)).double().numpy()
    spread = rows.std(1) + 1e-12
    centred = rows - rows.mean(1, keepdims=True)
    figures: dict[str, Figures] = {
        "mean": rows.mean(1),
        "norm": np.sqrt((rows**2).sum(1)),
        "skew": (centred**3).mean(1) / spread**3,
    }
    if bias is not None:
        figures["bias"] = (bias - bias.mean()).double().numpy()
    return figures


def _judged(figures: dict[str, Figures], layer: str, cost: Cost) -> Scan:
    indices = {name: upward_indices(values) for name, values in figures.items()}
    best = max(indices, key=lambda name: float(indices[name].max()))
    target = int(indices[best].argmax())
    evidence = sorted(
        (
            Evidence(
                what=f"index of the {name} of a row of {layer}",
                value=float(values.max()),
                target=int(values.argmax()),
            )
            for name, values in indices.items()
        ),
        key=lambda one: -one.value,
    )
    return Scan(
        status=Status.SCORED,
        score=float(indices[best].max()),
        target=target,
        evidence=tuple(evidence),
        rule=index_rule(
            len(indices[best]),
            f"rows for each of {len(indices)} figures",
            upward=True,
            figures=len(indices),
        ),
        cost=cost,
    )
