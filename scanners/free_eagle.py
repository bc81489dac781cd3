"""FreeEagle: inner values made for one class that lean towards the same other class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.errors import ScanError
from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.own_rules import cut_of, source_of
from moth_eval.scan import Cost, Evidence, Rule, Scan, Status
from moth_eval.seeds import derive_seed
from moth_eval.subject import Subject

Statistic = Literal["probability", "logit"]

LEAST_CLASSES = 4
"""Fewer figures than this have no quartiles to speak of."""

LEAST_SPREAD = 0.01
"""Spread of the middle half that is assumed at least, as a share of the third quartile."""

LEAST_PROBABILITY = 1e-6
"""And at least this: smaller probabilities (or logits) are rounding."""

MOST_PAIRS = 10
"""Pairs of classes that are kept as evidence."""

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FreeEagle:
    """Makes inner values for every class without any data, and looks where they lean.

    The network is split. For every class, values at the split are optimised until what follows is
    sure of that class. A backdoor's target is favoured by values made for other classes. The score
    is how far the most favoured class lies above the third quartile of all classes, in units of
    the distance between the quartiles.

    Source: Fu et al., "FreeEagle: Detecting Complex Neural Trojans in Data-Free Cases", USENIX
    Security 2023, and its published code.

    Differs from the reference:
        * the split is found by trying on any network; the reference knows four architectures;
        * all classes are optimised in one batch, and each from a seed of its own;
        * quartiles are interpolated; the reference takes the nearest figures above;
        * equal quartiles give no infinite score: the spread is at least 1 % of the third one;
        * classes that nothing leans to count; the reference leaves zeros out of the quartiles;
        * one-sided: more is more suspicious. The published verdict takes the distance from 1 or
          1.5 and a cut that was fitted to labelled models, and is not offered; the cut is ours;
        * a source is named where one row stands out in the target's column by the same metric.

    Attributes:
        steps: of Adam for every class.
        learning_rate: of Adam.
        weight_decay: of Adam, which keeps the values small.
        split: where to split, as a share of the layers with weights, in `[0, 1)`.
        statistic: what values made for one class say of another: its `probability`, or its `logit`
            where that is above 0, else 0.
    """

    steps: int = 1000
    learning_rate: float = 0.01
    weight_decay: float = 0.005
    split: float = 0.5
    statistic: Statistic = "probability"

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.split < 1:
            raise ScanError(
                f"steps must be at least 1 and split in [0, 1), got {self.steps} and {self.split}"
            )
        rates = (self.learning_rate, self.weight_decay)
        if not all(map(math.isfinite, rates)) or rates[0] <= 0 or rates[1] < 0:
            raise ScanError(
                "learning_rate must be positive and weight_decay at least 0, got "
                f"{rates[0]} and {rates[1]}"
            )
        if self.statistic not in get_args(Statistic):
            raise ScanError(
                f"statistic must be one of {', '.join(get_args(Statistic))}, got {self.statistic!r}"
            )

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        network = OpenNetwork(subject)
        if subject.num_classes < LEAST_CLASSES:
            return Scan(
                status=Status.INCONCLUSIVE,
                reason=f"{subject.num_classes} classes have no quartiles: expected {LEAST_CLASSES}",
            )
        base = int(torch.randint(2**62, (), generator=generator))
        noise = noise_like(network, 2, torch.Generator().manual_seed(derive_seed(base, "noise")))
        layer = self._split(network, noise)
        if layer is None:
            return Scan(
                status=Status.INCONCLUSIVE,
                reason="the network has no inner layer that all goes through",
                cost=_cost(network),
            )
        values = self._values(network, layer, noise, base)
        with torch.no_grad():
            logits = torch.cat(
                [
                    network.resumed(layer.name, part)
                    for part in torch.split(values, network.images_per_pass)
                ]
            )
        return _judged(leaning_of(logits, self.statistic), self.statistic, layer, _cost(network))

    def _split(self, network: OpenNetwork, noise: Tensor) -> HiddenLayer | None:
        """The layer that all goes through nearest to the split; of equals the last one."""
        layers = network.layers()
        deepest = max((layer.depth for layer in layers), default=0) + 1
        near = sorted(
            enumerate(layers),
            key=lambda at: (abs(at[1].depth - self.split * deepest), -at[0]),
        )
        inner = [layer for _, layer in near if layer.depth]
        return next((layer for layer in inner if network.is_cut(layer, noise)), None)

    def _values(self, network: OpenNetwork, layer: HiddenLayer, noise: Tensor, base: int) -> Tensor:
        """What follows the split is sure of class i by row i: `(K, ...)`."""
        # Behind a rectifier nothing is negative, and nothing may become so.
        floor = 0.0 if float(network.features(layer.name, noise).min()) >= 0 else -math.inf
        starts = []
        for label in range(network.num_classes):
            own = torch.Generator().manual_seed(derive_seed(base, "class", label))
            starts.append(torch.rand(layer.shape, generator=own))
        values = torch.stack(starts).to(network.device)
        adam = torch.optim.Adam([values], lr=self.learning_rate, weight_decay=self.weight_decay)
        targets = torch.arange(network.num_classes, device=network.device)
        for _ in range(self.steps):
            values.grad = torch.cat(
                [
                    _slope(network, layer, part, wanted)
                    for part, wanted in zip(
                        torch.split(values.detach(), network.images_per_pass),
                        torch.split(targets, network.images_per_pass),
                        strict=True,
                    )
                ]
            )
            adam.step()
            values.clamp_(min=floor)
        return values


def _slope(network: OpenNetwork, layer: HiddenLayer, values: Tensor, wanted: Tensor) -> Tensor:
    """Gradient of each row's cross-entropy in the values `(N, ...)` of a layer."""
    leaf = values.clone().requires_grad_()
    with torch.enable_grad():
        logits = network.resumed(layer.name, leaf)
        loss = F.cross_entropy(logits, wanted, reduction="sum")
    network.backward_passes += len(leaf)
    (slope,) = torch.autograd.grad(loss, leaf)
    return slope


def leaning_of(logits: Tensor, statistic: Statistic) -> Figures:
    """What values made for one class say of another, from logits `(K, K)`; never below 0."""
    found = logits.softmax(1) if statistic == "probability" else logits.clamp_min(0)
    return found.cpu().double().numpy()


def favour(leaning: Figures) -> Figures:
    """How much values made for the other classes lean to each class, `(K,)`.

    Args:
        leaning: `(K, K)`; row: the class that values were made for, column: what they say of it.
    """
    off = ~np.eye(len(leaning), dtype=bool)
    means: Figures = (leaning * off).sum(0) / (len(leaning) - 1)
    return means


def outlier(figures: Figures) -> Figures:
    """How far the largest figure lies above the third quartile, in distances of the quartiles.

    Args:
        figures: finite; the last axis is what is compared.
    """
    first, third = np.quantile(figures, [0.25, 0.75], axis=-1)
    spread = np.maximum(third - first, np.maximum(LEAST_SPREAD * np.abs(third), LEAST_PROBABILITY))
    far: Figures = (figures.max(axis=-1) - third) / spread
    return far


def dominant(leaning: Figures, target: int) -> int | None:
    """The source whose values lean to the target far more than those of the others, if one does.

    By the metric of the score, above what one in twenty simulated columns exceeds.

    Args:
        leaning: `(K, K)`; row: the class that values were made for, column: what they say of it.
        target: the column.
    """
    column = np.delete(leaning[:, target], target)
    if len(column) < LEAST_CLASSES or outlier(column) <= cut_of(len(column), outlier)[0]:
        return None
    place = int(column.argmax())
    return place + (place >= target)


def _judged(leaning: Figures, statistic: str, layer: HiddenLayer, cost: Cost) -> Scan:
    favours = favour(leaning)
    target = int(favours.argmax())
    off = np.where(np.eye(len(leaning), dtype=bool), -np.inf, leaning)
    pairs = np.argsort(-off, axis=None)[:MOST_PAIRS]
    sources, targets = np.unravel_index(pairs, off.shape)
    what = f"{statistic} of the target by values made for the source at {layer.name}"
    evidence = [
        Evidence(what=what, value=float(off[s, t]), source=int(s), target=int(t))
        for s, t in zip(sources, targets, strict=True)
    ]
    return Scan(
        status=Status.SCORED,
        score=float(outlier(favours)),
        target=target,
        source=dominant(leaning, target),
        evidence=(
            Evidence(what=f"mean {statistic} by other classes", value=float(favours[target]),
                     target=target),
            *evidence,
        ),
        rule=_rule(len(favours)),
        cost=cost,
    )  # fmt: skip


def _rule(classes: int) -> Rule:
    threshold, rate = cut_of(classes, outlier)
    return Rule(
        name="index above the third quartile",
        threshold=threshold,
        false_alarm_rate=rate,
        source=source_of(f"{classes} independent normal means"),
        origin="ours",
    )


def _cost(network: OpenNetwork) -> Cost:
    return Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
