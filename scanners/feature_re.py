"""FeatureRE: a transform of the images whose features lie off their class and yet decide for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor

from moth_eval.bounded_masks import BoundedMasks
from moth_eval.choosing import classes_left_out, halves, spread
from moth_eval.errors import ScanError
from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.scan import Cost, Evidence, Rule, Scan, Status
from moth_eval.seeds import derive_seed
from moth_eval.stacked_unet import initial, transformed
from moth_eval.subject import Subject

WINDOW = 10
"""Steps whose mean figures decide which state is kept."""

RULE = Rule(
    name="FeatureRE score",
    threshold=0.75,
    false_alarm_rate=None,
    source="FeatureRE (2022), below -0.75 with the sign turned, there of a longer schedule",
)


@dataclass(frozen=True, kw_only=True)
class FeatureRE:
    """Trains a transform and a mask of features per class and scores how well they fit a trojan.

    A small U-Net changes images of other classes a little, so that a few of their features, put
    among the features of clean images, decide for the class, while they point away from that
    class's own features. The score is the success rate, less the cosine with these features, less
    what the constraints are exceeded by, on images that took no part; the largest of all classes.

    Source: Wang et al., "Rethinking the Reverse-engineering of Trojan Triggers" (FeatureRE),
    NeurIPS 2022, and its published code.

    Differs from the reference:
        * the features are the last maps of more than one pixel, or tokens, that all goes through
          in the deeper half, else the last values; the reference splits five architectures by name;
        * classes are trained side by side, with a smaller U-Net and fewer steps; it starts as the
          map that changes nothing, which makes up for many of them;
        * maps of the U-Net are normalised image by image, so that an image's transform does not
          depend on the others;
        * the bound on the change of images is for `[0, 1]` instead of standardised values, and the
          bound on the spread of features is in their own clean standard deviations;
        * the mask keeps its share by projection; the published penalty shrinks all of it alike;
        * the features that masked ones are put among are of other classes' images, not of all;
        * figures are of held images, not those trained on, and the score's sign is turned.

    Attributes:
        images: clean images at most, half of them for training; two of each class in any case.
        batch_size: images per class and step.
        warm_up: steps without mask and constraints on the features.
        steps: steps after that.
        base: channels of the U-Net's first level.
        blocks: levels of the U-Net above the bottom.
        learning_rate: of the U-Net.
        mask_learning_rate: of the mask of features.
        distance: mean square change of an image that costs nothing, in `[0, 1]` image space.
        mask_share: share of the features that the mask takes at most.
        spread: standard deviation of the masked features that costs nothing, in those of clean
            images.
        success_rate: above which the success rate is not pressed any more.
    """

    images: int = 200
    batch_size: int = 16
    warm_up: int = 20
    steps: int = 80
    base: int = 8
    blocks: int = 2
    learning_rate: float = 0.01
    mask_learning_rate: float = 0.1
    distance: float = 0.01
    mask_share: float = 0.1
    spread: float = 1.0
    success_rate: float = 0.9

    def __post_init__(self) -> None:
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}
        if self.images < 2 or any(n < 1 for name, n in counts.items() if name != "warm_up"):
            raise ScanError(f"expected images of at least 2 and other counts of 1, got {counts}")
        if self.warm_up < 0 or self.steps < WINDOW:
            raise ScanError(
                f"warm_up must be at least 0 and steps at least {WINDOW}, got {self.warm_up} and "
                f"{self.steps}"
            )
        rates = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "float"}
        if not all(math.isfinite(rate) and rate > 0 for rate in rates.values()):
            raise ScanError(f"rates and bounds must be positive, got {rates}")

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        network = OpenNetwork(subject)
        base = int(torch.randint(2**62, (), generator=generator))
        noise = noise_like(network, 2, torch.Generator().manual_seed(derive_seed(base, "noise")))
        layer = _last_features(network, noise)
        if layer is None:
            return _inconclusive("the network has no inner layer that all goes through", network)
        labels = subject.examples.labels.cpu()
        most = max(self.images, 2 * subject.num_classes)
        rows = spread(labels, most, torch.Generator().manual_seed(derive_seed(base, "images")))
        trained, held = halves(labels, rows)
        classes = [
            label
            for label in sorted(set(labels[trained].tolist()))
            if (labels[trained] != label).any() and (labels[held] != label).any()
        ]
        if not classes:
            return _inconclusive("no class has clean images of its own and of others", network)
        pool = _Pool(network, layer, subject, (trained, held))
        at_once = max(1, network.images_per_pass // self.batch_size)
        found: list[_Fit] = []
        for first in range(0, len(classes), at_once):
            group = classes[first : first + at_once]
            found += _Training(self, network, layer, pool, group, base).run()
        reason = classes_left_out(len(classes), subject.num_classes)
        return _judged(found, reason, _cost(network))


class _Pool:
    """The clean images with their features: those trained on, and those held back."""

    def __init__(
        self,
        network: OpenNetwork,
        layer: HiddenLayer,
        subject: Subject,
        rows: tuple[Tensor, Tensor],
    ) -> None:
        self.images, self.held = (subject.examples.images[r.to(network.device)] for r in rows)
        labels = subject.examples.labels.cpu()
        self.labels, self.held_labels = (labels[r] for r in rows)
        self.features = network.features(layer.name, self.images)
        self.deviation = float(self.features.std(0).mean().clamp_min(1e-6))

    def of(self, label: int) -> Tensor:
        """The mean features of a class, flat."""
        members = (self.labels == label).to(self.features.device)
        return self.features[members].mean(0).flatten()


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """How a class's transform does on held images."""

    target: int
    asr: float
    cosine: float
    excess: float
    pictures: Tensor

    @property
    def score(self) -> float:
        return self.asr - self.cosine - self.excess


class _Training:
    """Transforms and masks of a group of classes, side by side."""

    def __init__(
        self,
        how: FeatureRE,
        network: OpenNetwork,
        layer: HiddenLayer,
        pool: _Pool,
        group: Sequence[int],
        base: int,
    ) -> None:
        self.how, self.network, self.layer, self.pool, self.group = how, network, layer, pool, group
        seeds = [derive_seed(base, "class", label) for label in group]
        self.streams = [torch.Generator().manual_seed(seed) for seed in seeds]
        weights = initial(network.image_shape[0], how.base, how.blocks, seeds)
        self.weights = [w.to(network.device).requires_grad_() for w in weights]
        most = how.mask_share * torch.Size(layer.shape).numel()
        self.masks = BoundedMasks((len(group), *layer.shape), most, network.device)
        self.adam = torch.optim.Adam(self.weights, lr=how.learning_rate, betas=(0.5, 0.9))
        self.targets = torch.tensor(group, device=network.device)
        self.own = torch.stack([pool.of(label) for label in group])
        # Weights of what was exceeded in the last window: distance, spread, success.
        self.pressed = torch.zeros((3, len(group)), device=network.device)

    def run(self) -> list[_Fit]:
        """Train, and measure the best state of each class on held images."""
        for _ in range(self.how.warm_up):
            self._step(warm=True)
        best = torch.full((len(self.group),), torch.inf, device=self.network.device)
        kept = [part.detach().clone() for part in (*self.weights, self.masks.logits)]
        window: list[Tensor] = []
        for _ in range(self.how.steps):
            window.append(self._step(warm=False))
            if len(window) == WINDOW:
                value = self._settle(torch.stack(window).mean(0))
                better = value < best
                best = torch.where(better, value, best)
                for old, new in zip(kept, (*self.weights, self.masks.logits), strict=True):
                    old[better] = new.detach()[better]
                window = []
        with torch.no_grad():
            for state, part in zip(kept, (*self.weights, self.masks.logits), strict=True):
                part.copy_(state)
            return [self._measured(row) for row in range(len(self.group))]

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Images of other classes `(R, B, C, H, W)`, and features of such to put theirs among."""
        images, others = [], []
        for label, stream in zip(self.group, self.streams, strict=True):
            rows = torch.nonzero(self.pool.labels != label).flatten()
            size = (self.how.batch_size,)
            images.append(rows[torch.randint(len(rows), size, generator=stream)])
            others.append(rows[torch.randint(len(rows), size, generator=stream)])
        device = self.network.device
        return (
            self.pool.images[torch.stack(images).to(device)],
            self.pool.features[torch.stack(others).to(device)],
        )

    def _step(self, *, warm: bool) -> Tensor:
        """One step of transforms and masks; cosine, success, distance, spread: `(4, R)`."""
        images, others = self._draw()
        with torch.enable_grad():
            changed = transformed(self.weights, images)
            with self.network.reading([self.layer.name]) as seen:
                logits = self.network(changed.flatten(0, 1))
            features = _by_row(seen[self.layer.name], images)
            mask = self.masks.values().detach()
            if not warm:
                logits = self._mixed(features, others, mask)
            logits = _by_row(logits, images)
            known = self.own, self.targets, self.pool.deviation
            figures = _figures(known, (images, changed), features, logits, mask)
            loss = self._warm_loss(logits, figures) if warm else self._loss(logits, figures)
            slopes = torch.autograd.grad(loss.sum(), self.weights)
        self.network.backward_passes += images.shape[0] * images.shape[1]
        for weight, slope in zip(self.weights, slopes, strict=True):
            weight.grad = slope
        self.adam.step()
        if not warm:
            self._step_mask(features.detach(), others)
        return figures.detach()

    def _mixed(self, features: Tensor, others: Tensor, mask: Tensor) -> Tensor:
        """Logits of clean features, the masked ones replaced: `(R B, K)`."""
        mixed = torch.lerp(others, features, mask[:, None])
        return self.network.resumed(self.layer.name, mixed.flatten(0, 1))

    def _step_mask(self, features: Tensor, others: Tensor) -> None:
        """The features that help most to decide for the class take the mask's bounded share."""
        with torch.enable_grad():
            logits = _by_row(self._mixed(features, others, self.masks.values()), features)
            loss = self._cross_entropy(logits).sum()
            (slope,) = torch.autograd.grad(loss, self.masks.logits)
        self.masks.step(slope, self.how.mask_learning_rate)

    def _cross_entropy(self, logits: Tensor) -> Tensor:
        wanted = self.targets[:, None].expand(logits.shape[:2])
        losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        return losses.view(logits.shape[:2]).mean(1)

    def _warm_loss(self, logits: Tensor, figures: Tensor) -> Tensor:
        # A hundred times the standardised distance, whose unit is a bound of 0.15.
        standard = figures[2] / self.how.distance * 0.15
        over = (figures[2] > self.how.distance).float()
        return self._cross_entropy(logits) + 100 * standard * over

    def _loss(self, logits: Tensor, figures: Tensor) -> Tensor:
        cosine, success, distance, scatter = figures
        how, more = self.how, 1 + self.pressed
        standard = distance / how.distance * 0.15
        loss: Tensor = (
            5 * cosine.clamp_min(0)
            + 10 * more[0] * standard * (distance > how.distance)
            + 10 * more[1] * scatter * (scatter > how.spread)
            + more[2] * self._cross_entropy(logits) * (success < how.success_rate)
        )
        return loss

    def _settle(self, figures: Tensor) -> Tensor:
        """Press on what was exceeded in a window; the value that is to be low, `(R,)`."""
        how = self.how
        self.pressed = torch.stack(
            [
                (figures[2] / how.distance - 1).clamp_min(0),
                (figures[3] / how.spread - 1).clamp_min(0),
                (1 - figures[1] / how.success_rate).clamp_min(0),
            ]
        )
        return figures[0] - figures[1] + self._excess(figures)

    def _excess(self, figures: Tensor) -> Tensor:
        """What distance and spread exceed their bounds by, relative to them: `(R,)`."""
        bounds = figures.new_tensor([self.how.distance, self.how.spread])
        return (figures[2:] / bounds[:, None] - 1).clamp_min(0).sum(0)

    def _measured(self, row: int) -> _Fit:
        """One class's state on all held images of other classes."""
        pool, label = self.pool, self.group[row]
        images = pool.held[(pool.held_labels != label).to(self.network.device)][None]
        changed = transformed([w[row : row + 1] for w in self.weights], images)
        features = self.network.features(self.layer.name, changed[0])[None]
        others = torch.nonzero(pool.labels != label).flatten()
        order = others[torch.randint(len(others), images.shape[1:2], generator=self.streams[row])]
        mask = self.masks.values()[row : row + 1]
        mixed = torch.lerp(pool.features[order.to(features.device)][None], features, mask[:, None])
        parts = torch.split(mixed[0], self.network.images_per_pass)
        logits = torch.cat([self.network.resumed(self.layer.name, part) for part in parts])
        known = self.own[row : row + 1], self.targets[row : row + 1], pool.deviation
        whole = _figures(known, (images, changed), features, logits[None], mask)
        return _Fit(
            target=label,
            asr=float(whole[1]),
            cosine=float(whole[0]),
            excess=float(self._excess(whole)),
            pictures=torch.stack([images[0, 0], changed[0, 0]]).cpu(),
        )


def _figures(
    known: tuple[Tensor, Tensor, float],
    pair: tuple[Tensor, Tensor],
    features: Tensor,
    logits: Tensor,
    mask: Tensor,
) -> Tensor:
    """Cosine, success rate, distance and spread of each row: `(4, R)`.

    Args:
        known: mean features of each target `(R, F)`, the targets `(R,)`, and the deviation of clean
            features.
        pair: images before and after, `(R, B, C, H, W)`.
        features: of the latter, `(R, B, ...)`.
        logits: `(R, B, K)`.
        mask: `(R, ...)`.
    """
    own, targets, deviation = known
    cosine = torch.cosine_similarity(own, features.mean(1).flatten(1), dim=1)
    success = (logits.argmax(2) == targets[:, None]).float().mean(1)
    distance = (pair[1] - pair[0]).square().mean((1, 2, 3, 4))
    size = mask.flatten(1).sum(1)
    scatter = (features * mask[:, None]).std(1, correction=0).flatten(1).sum(1)
    return torch.stack([cosine, success, distance, scatter / size.clamp_min(1e-6) / deviation])


def _by_row(values: Tensor, like: Tensor) -> Tensor:
    """Values `(R B, ...)` as `(R, B, ...)`."""
    return values.view(*like.shape[:2], *values.shape[1:])


def _last_features(network: OpenNetwork, noise: Tensor) -> HiddenLayer | None:
    """The last maps or tokens that all goes through, unless early on; else the last values."""
    layers = [layer for layer in reversed(network.layers()) if layer.depth]
    half = max((layer.depth for layer in layers), default=0) / 2
    ordered = sorted(layers, key=lambda layer: not (layer.maps and layer.depth >= half))
    return next((layer for layer in ordered if network.is_cut(layer, noise)), None)


def _judged(found: Sequence[_Fit], reason: str, cost: Cost) -> Scan:
    ordered = sorted(found, key=lambda fit: -fit.score)
    evidence = []
    for fit in ordered:
        figures = {
            "success rate of the transform (fraction)": fit.asr,
            "cosine with the features of the class": fit.cosine,
            "excess over the constraints (relative)": fit.excess,
        }
        evidence += [
            Evidence(
                what=what, value=value, target=fit.target, pictures=None if at else fit.pictures
            )
            for at, (what, value) in enumerate(figures.items())
        ]
    return Scan(
        status=Status.SCORED,
        score=ordered[0].score,
        reason=reason,
        target=ordered[0].target,
        evidence=tuple(evidence),
        rule=RULE,
        cost=cost,
    )


def _inconclusive(reason: str, network: OpenNetwork) -> Scan:
    return Scan(status=Status.INCONCLUSIVE, reason=reason, cost=_cost(network))


def _cost(network: OpenNetwork) -> Cost:
    return Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
