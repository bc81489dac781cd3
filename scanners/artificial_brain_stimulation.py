"""Artificial Brain Stimulation: a neuron that decides for one class betrays the trigger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from moth_eval.choosing import spread
from moth_eval.errors import ScanError
from moth_eval.feature_differencing import natural_share
from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.neuron_inversion import (
    FilterTrigger,
    NeuronTrigger,
    PatchTrigger,
    invert_neurons,
)
from moth_eval.scan import Cost, Evidence, Rule, Scan, Status, Trigger
from moth_eval.seeds import derive_seed
from moth_eval.similarity import ssim
from moth_eval.stimulation import Neuron, suspicious
from moth_eval.subject import Subject

TIE = 0.01
"""What the faintest trigger scores above the strongest of the same success rate; less than one
image of those it is measured on."""


BOUND = 0.88
"""Source: the authors' script for TrojAI round 1, `max_reasr >= 0.88`."""


@dataclass(frozen=True, kw_only=True)
class ArtificialBrainStimulation:
    """Stimulates every channel, inverts triggers for the suspicious ones and measures them.

    A channel is suspicious if large values of it alone raise one class above all others on every
    image. For the most suspicious ones a patch and a linear filter are inverted that drive them.
    The score is the highest success rate (REASR) of these triggers on images that took no part in
    the inversion and are not of the target class; a hundredth at most is added for a trigger that
    changes images little, so that equal rates are told apart.

    Source: Liu et al., "ABS: Scanning Neural Networks for Back-doors by Artificial Brain
    Stimulation", CCS 2019; its published code and the authors' TrojAI versions of it
    (github.com/naiyeleo/ABS); for `ex_ray`, Liu et al., "Complex Backdoor Detection by Symmetric
    Feature Differencing" (EX-RAY), CVPR 2022.

    Differs from the reference:
        * every convolution and linear layer but the last is stimulated behind its BatchNorm, on
          any network; the reference leaves out layers of as many channels as there are classes
          and rounds their number down to a multiple of eight;
        * the strongest candidates are kept over all layers (a public port keeps the weakest);
        * the original drives the neuron alone; as in the TrojAI versions, the target's logit counts
          too (`logit_weight`);
        * a mask starts even over the image and its area is kept by projection; the reference
          starts in a corner, under a penalty that is either off or overwhelming;
        * a patch lives in `[0, 1]` image space, and neurons are driven in units of their layer;
        * success is measured on images of other classes that the inversion has not seen;
        * triggers of all candidates are inverted in one batch.

    Attributes:
        stimulated_images: clean images on which channels are stimulated, spread over the classes.
        levels: values that a channel is set to, the first of them 0.
        reach: in units of the layer's largest clean value, what the values are fractions of.
        candidates: neurons that triggers are inverted for.
        inversion_images: images of other classes per candidate that a trigger is inverted on.
        held_images: further images of other classes that its success is measured on, at most.
        steps: of each inversion, on all of these images.
        area: largest area of a patch, as a share of the image, in `(0, 1)`.
        learning_rate: of patches.
        filters: whether linear filters are inverted as well.
        filter_learning_rate: of filters.
        least_similarity: mean structural similarity below which a filter does not count.
        logit_weight: of the target's logit above the others, beside the neuron.
        bound: success rate from which on a trigger counts as one that works, and a model as
            suspicious.
        ex_ray: whether to drop triggers that work through the natural features of their target.
        ex_ray_share: overlap with these features from which on a trigger is dropped, in `[0, 1]`.
        ex_ray_steps: of the search for these features.
    """

    stimulated_images: int = 12
    levels: int = 5
    reach: float = 8.0
    candidates: int = 10
    inversion_images: int = 8
    held_images: int = 64
    steps: int = 60
    area: float = 0.024
    learning_rate: float = 0.1
    filters: bool = True
    filter_learning_rate: float = 0.01
    least_similarity: float = 0.5
    logit_weight: float = 101.0
    bound: float = BOUND
    ex_ray: bool = False
    ex_ray_share: float = 0.95
    ex_ray_steps: int = 100

    def __post_init__(self) -> None:
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "int"}
        low = [name for name, value in counts.items() if value < 1]
        if low or self.levels < 2 or self.held_images > 99:
            raise ScanError(
                "expected whole numbers of at least 1, levels of at least 2 and held_images of at "
                f"most 99, got {counts}"
            )
        rates = (self.reach, self.learning_rate, self.filter_learning_rate)
        if not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise ScanError(f"reach and learning rates must be positive, got {rates}")
        shares = (self.area, self.bound, self.least_similarity, self.ex_ray_share)
        if not all(0 < share <= 1 for share in shares) or self.area == 1:
            raise ScanError(
                "area must be in (0, 1), and bound, least_similarity and ex_ray_share in (0, 1], "
                f"got {shares}"
            )
        if not (math.isfinite(self.logit_weight) and self.logit_weight >= 0):
            raise ScanError(f"logit_weight must be finite and at least 0, got {self.logit_weight}")

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject."""
        network = OpenNetwork(subject)
        base = int(torch.randint(2**62, (), generator=generator))
        noise = noise_like(network, 2, _generator(base, "noise"))
        layers = network.stimulable()
        if not layers:
            reason = "the network has no hidden convolution or linear layer to stimulate"
            return Scan(status=Status.INCONCLUSIVE, reason=reason, cost=_cost(network))
        suspects = self._suspicious(network, layers, subject, base, noise)
        neurons = [n for n in suspects if len(_of_others(subject, n.target)) > 1]
        if suspects and not neurons:
            reason = (
                f"channels raise the class {suspects[0].target}, and there are fewer than two "
                "images of other classes to invert a trigger on"
            )
            return Scan(status=Status.INCONCLUSIVE, reason=reason, cost=_cost(network))
        if not neurons:
            # The method's own answer: where nothing is suspicious, nothing is inverted.
            reason = "no channel raises one class on all images"
            rule = _rule(None, self.bound)
            return Scan(
                status=Status.SCORED, score=0.0, reason=reason, rule=rule, cost=_cost(network)
            )
        found = self._inverted(network, neurons, subject, base)
        reason = ""
        if self.ex_ray:
            found, reason = self._unnatural(network, found, subject, noise)
        return replace(_judged(found, neurons, self.bound, reason), cost=_cost(network))

    def _suspicious(
        self,
        network: OpenNetwork,
        layers: Sequence[HiddenLayer],
        subject: Subject,
        base: int,
        noise: Tensor,
    ) -> list[Neuron]:
        """The candidates of all layers, the strongest first."""
        labels = subject.examples.labels.cpu()
        rows = spread(labels, self.stimulated_images, _generator(base, "stimulated"))
        images = subject.examples.images[rows.to(network.device)]
        return suspicious(
            network, layers, images, labels[rows], levels=self.levels, reach=self.reach,
            most=self.candidates, noise=noise,
        )  # fmt: skip

    def _inverted(
        self, network: OpenNetwork, neurons: Sequence[Neuron], subject: Subject, base: int
    ) -> list[_Found]:
        """Triggers of all candidates, measured on images that they were not made on."""
        seeds = [derive_seed(base, n.layer.name, n.channel, n.target) for n in neurons]
        sets = [self._images_for(n, subject, s) for n, s in zip(neurons, seeds, strict=True)]
        pool = subject.examples.images
        made_on = pool[torch.stack([rows for rows, _ in sets]).to(pool.device)]
        patch = PatchTrigger(
            area=self.area * subject.image_shape[1] * subject.image_shape[2],
            learning_rate=self.learning_rate,
        )
        linear = FilterTrigger(
            learning_rate=self.filter_learning_rate, least_similarity=self.least_similarity
        )
        kinds: list[NeuronTrigger] = [patch, linear] if self.filters else [patch]
        found = []
        for kind in kinds:
            parameters = invert_neurons(
                network, neurons, made_on, kind, seeds=seeds, steps=self.steps,
                logit_weight=self.logit_weight,
            )  # fmt: skip
            for number, (neuron, (_, held)) in enumerate(zip(neurons, sets, strict=True)):
                one = [p[number : number + 1] for p in parameters]
                images = pool[held.to(pool.device)]
                least = self.least_similarity if kind is linear else -1.0
                rendered = patch.rendered(one) if kind is patch else None
                found.append(_measured(network, neuron, kind, one, images, least, rendered))
        return found

    def _images_for(self, neuron: Neuron, subject: Subject, seed: int) -> tuple[Tensor, Tensor]:
        """Images of other classes to invert on, always as many, and to measure on."""
        rows = _of_others(subject, neuron.target)
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
        # With few images, half of them are for measuring, and the other half is repeated.
        made = min(self.inversion_images, len(rows) // 2)
        repeated = rows[torch.arange(self.inversion_images) % made]
        return repeated, rows[made : made + self.held_images]

    def _unnatural(
        self, network: OpenNetwork, found: Sequence[_Found], subject: Subject, noise: Tensor
    ) -> tuple[list[_Found], str]:
        """The triggers that do not work through natural features of their target."""
        cuts = [layer for layer in reversed(network.layers()) if layer.channels > 1]
        layer = next((cut for cut in cuts if network.is_cut(cut, noise)), None)
        if layer is None:
            return list(found), "ex_ray found no layer that all goes through"
        kept = [one for one in found if not self._natural(network, layer, one, subject)]
        gone = len(found) - len(kept)
        return kept, f"ex_ray dropped {gone} of {len(found)} triggers" if gone else ""

    def _natural(
        self, network: OpenNetwork, layer: HiddenLayer, found: _Found, subject: Subject
    ) -> bool:
        examples = subject.examples
        natural = examples.images[examples.labels == found.neuron.target]
        if not len(natural) or not found.reasr:
            return False
        share = natural_share(
            network, layer, found.images, found.stamped, natural, found.neuron.target,
            steps=self.ex_ray_steps, learning_rate=0.05,
        )  # fmt: skip
        return share >= self.ex_ray_share


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A trigger of a candidate: `reasr` in `[0, 1]` and mean `change` of pixels in `[0, 1]`."""

    neuron: Neuron
    reasr: float
    change: float
    images: Tensor
    stamped: Tensor
    patch: tuple[Tensor, Tensor] | None

    @property
    def score(self) -> float:
        return self.reasr + TIE * (1 - self.change) if self.reasr else 0.0


def _measured(
    network: OpenNetwork,
    neuron: Neuron,
    kind: NeuronTrigger,
    parameters: list[Tensor],
    images: Tensor,
    least_similarity: float,
    patch: tuple[Tensor, Tensor] | None,
) -> _Found:
    """A trigger on images that it was not made on, with colours of 8 bits as in a file."""
    with torch.no_grad():
        stamped = kind.stamp(parameters, images[None])[0]
    stamped = (255 * stamped).round() / 255
    hits = (network.logits(stamped).argmax(1) == neuron.target).float().mean()
    alike = float(ssim(stamped, images).mean()) >= least_similarity
    return _Found(
        neuron=neuron,
        reasr=float(hits) if alike else 0.0,
        change=float((stamped - images).abs().mean()),
        images=images,
        stamped=stamped,
        patch=patch,
    )


def _judged(found: Sequence[_Found], neurons: Sequence[Neuron], bound: float, reason: str) -> Scan:
    best = max(found, key=lambda one: one.score, default=None)
    ordered = sorted(found, key=lambda one: -one.score)
    filters = [_filter_evidence(one) for one in ordered if one.patch is None]
    leads = [
        Evidence(
            what=f"lead of channel {n.channel} of {n.layer.name} (logits)",
            value=n.lead,
            target=n.target,
        )
        for n in neurons
    ]
    return Scan(
        status=Status.SCORED,
        score=best.score if best else 0.0,
        reason=reason,
        target=best.neuron.target if best and best.score else None,
        triggers=tuple(_trigger(one, one.patch, bound) for one in ordered if one.patch),
        evidence=(*filters, *leads),
        rule=_rule(best, bound),
    )


def _rule(best: _Found | None, bound: float) -> Rule:
    """The bound on the success rate as a cut on the score, which adds a hundredth at most to it."""
    cut = bound
    if best is not None:
        images = len(best.images)
        cut = (math.ceil(bound * images - 1e-6) - 1) / images + TIE
    return Rule(
        name="REASR",
        threshold=cut,
        false_alarm_rate=None,
        source=f"the ABS authors' script for TrojAI round 1, a REASR of at least {bound:g}, as the "
        "highest score that a lower one can have",
        origin="published" if bound == BOUND else "given",
    )


def _trigger(found: _Found, patch: tuple[Tensor, Tensor], bound: float) -> Trigger:
    mask, pattern = (part[0].cpu() for part in patch)
    return Trigger(
        target=found.neuron.target,
        mask=mask,
        pattern=pattern,
        size=float(mask.sum()),
        asr=found.reasr,
        valid=found.reasr >= bound,
    )


def _filter_evidence(found: _Found) -> Evidence:
    return Evidence(
        what="REASR of a filter (fraction)",
        value=found.reasr,
        target=found.neuron.target,
        pictures=torch.stack([found.images[0], found.stamped[0]]).cpu(),
    )


def _of_others(subject: Subject, target: int) -> Tensor:
    return torch.nonzero(subject.examples.labels.cpu() != target).flatten()


def _generator(base: int, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(base, what))


def _cost(network: OpenNetwork) -> Cost:
    return Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
