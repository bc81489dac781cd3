"""MM-BD: the class whose logit can be driven unusually far above all others, without any image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import gamma
from torch import Tensor

from moth_eval.anomaly import upward_indices
from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork
from moth_eval.own_rules import index_rule
from moth_eval.scan import Cost, Evidence, Rule, Scan, Status
from moth_eval.seeds import derive_seed
from moth_eval.subject import Subject

Statistic = Literal["p-value", "index"]

LEAST_CLASSES = 4
"""The largest margin is held against a distribution of three figures, fitted to the others."""

CUT = 0.05
"""Published level of the p value."""

FIT_DIGITS = 3
"""Decimals of the margins that are fitted, in units of their range."""

DRAWS = 100
"""Simulated clean models behind the rate of false alarms: two seconds of work."""

HIGHEST = 300.0
"""Scores end here: a probability of 10 to the minus 300 is no smaller in any useful sense."""

CHECK_EVERY = 10
"""Steps between looks at which rows still climb."""

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MaximumMargin:
    """Climbs, for every class, to the largest margin of its logit over all others.

    A backdoor lets its target class win by far, whatever the trigger looks like, so the margin of
    that class stands out. The score is minus the decimal logarithm of the probability that the
    largest margin of a clean model's classes is as large, by a gamma distribution fitted to the
    others.

    Source: Wang et al., "MM-BD: Post-Training Detection of Backdoor Attacks with Arbitrary
    Backdoor Pattern Types Using a Maximum Margin Statistic", IEEE S&P 2024, and its published code
    (github.com/wanghangpsu/MM-BD).

    Differs from the reference:
        * all classes and restarts climb together, each from a seed of its own;
        * images are kept in `[0, 1]` by projection: a value at the border can come back, where a
          clamp inside the objective holds it there for ever;
        * margins are fitted in units of their range, to a thousandth of it, so that neither the
          unit of the logits nor rounding decides where the fit ends;
        * the momentum works; the reference makes its optimiser anew at every step;
        * images are what the subject's preprocessing expects, of any size, for any number of
          classes;
        * a row that no longer climbs leaves the batch;
        * fewer restarts by default (published: 30).

    Attributes:
        restarts: random images that every class starts from.
        steps: at most (published: 300).
        learning_rate: of gradient ascent on the margin (published: 0.01).
        momentum: of it (published: 0.2, without effect there).
        tolerance: a row has arrived when its margin changes by less than this share (published:
            1e-5).
        statistic: what is scored. `p-value` is the published one. `index` (ours) is how many robust
            deviations the largest margin lies above the median of all.
        cut: published level of the p value.
    """

    restarts: int = 10
    steps: int = 300
    learning_rate: float = 0.01
    momentum: float = 0.2
    tolerance: float = 1e-5
    statistic: Statistic = "p-value"
    cut: float = CUT

    def __post_init__(self) -> None:
        if min(self.restarts, self.steps) < 1:
            raise ScanError(
                f"restarts and steps must be at least 1, got {self.restarts} and {self.steps}"
            )
        if not (self.learning_rate > 0 and 0 <= self.momentum < 1 and self.tolerance >= 0):
            raise ScanError(
                "learning_rate must be positive, momentum in [0, 1) and tolerance at least 0, got "
                f"{self.learning_rate}, {self.momentum} and {self.tolerance}"
            )
        if self.statistic not in get_args(Statistic):
            raise ScanError(
                f"statistic must be one of {', '.join(get_args(Statistic))}, got {self.statistic!r}"
            )
        if not 0 < self.cut < 1:
            raise ScanError(f"cut must be in (0, 1), got {self.cut}")

    def without_rule(self) -> str:
        """Nothing: there is a cut."""
        return ""

    def scan(self, subject: Subject, *, generator: torch.Generator) -> Scan:
        """The scan of one subject; its images are not looked at."""
        if subject.num_classes < LEAST_CLASSES:
            return Scan(
                status=Status.INCONCLUSIVE,
                reason=f"{subject.num_classes} classes leave nothing to fit a distribution to: "
                f"expected {LEAST_CLASSES}",
            )
        network = OpenNetwork(subject)
        margins = self._margins(network, int(torch.randint(2**62, (), generator=generator)))
        cost = Cost(forward_passes=network.forward_passes, backward_passes=network.backward_passes)
        return self._judged(margins, cost)

    def _margins(self, network: OpenNetwork, base: int) -> Figures:
        """The largest margin that every class can be given, `(K,)`."""
        images, targets = [], []
        for label in range(network.num_classes):
            own = torch.Generator().manual_seed(derive_seed(base, "class", label))
            images.append(torch.rand((self.restarts, *network.image_shape), generator=own))
            targets += [label] * self.restarts
        best = [
            self._climbed(network, part, wanted)
            for part, wanted in zip(
                torch.split(torch.cat(images), network.images_per_pass),
                torch.split(torch.tensor(targets), network.images_per_pass),
                strict=True,
            )
        ]
        rows = torch.cat(best).view(network.num_classes, self.restarts)
        return rows.amax(1).double().numpy()

    def _climbed(self, network: OpenNetwork, images: Tensor, targets: Tensor) -> Tensor:
        """The margin that every row `(N, C, H, W)` ends at, `(N,)` on the CPU."""
        images, targets = images.to(network.device), targets.to(network.device)
        speed = torch.zeros_like(images)
        found = torch.full((len(images),), -math.inf, device=network.device)
        climbing = torch.arange(len(images), device=network.device)
        before = found.clone()
        for step in range(self.steps):
            margins, slope = _slope(network, images, targets)
            found[climbing] = torch.maximum(found[climbing], margins)
            speed = self.momentum * speed + slope
            images = (images + self.learning_rate * speed).clamp(0, 1)
            if step % CHECK_EVERY == CHECK_EVERY - 1:
                # Over ten steps, hence ten times the change of one.
                change = (margins - before[climbing]).abs()
                alive = ~(change < CHECK_EVERY * self.tolerance * margins.abs())
                before[climbing] = margins
                if not bool(alive.any()):
                    break
                images, targets = images[alive], targets[alive]
                speed, climbing = speed[alive], climbing[alive]
        return found.cpu()

    def _judged(self, margins: Figures, cost: Cost) -> Scan:
        target = int(margins.argmax())
        by_p = self.statistic == "p-value"
        order = np.argsort(-margins)
        return Scan(
            status=Status.SCORED,
            score=surprise(margins) if by_p else float(upward_indices(margins).max()),
            target=target,
            evidence=tuple(
                Evidence(what="largest margin (logits)", value=float(margins[c]), target=int(c))
                for c in order
            ),
            rule=self._rule(len(margins)),
            cost=cost,
        )

    def _rule(self, classes: int) -> Rule:
        if self.statistic == "index":
            return index_rule(classes, "margins", upward=True)
        return Rule(
            name="-log10 p",
            threshold=-math.log10(self.cut),
            false_alarm_rate=false_alarm_rate(classes, self.cut),
            source=f"MM-BD (2024), p < {self.cut:g}; false alarms of {DRAWS} simulated models with "
            f"{classes} independent normal margins",
            origin="published" if self.cut == CUT else "given",
        )


def _slope(network: OpenNetwork, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Margins `(N,)` of the target classes, and their gradients in the images."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = network(leaf)
        own = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
        margins = own - others
    network.backward_passes += len(leaf)
    (slope,) = torch.autograd.grad(margins.sum(), leaf)
    return margins.detach(), slope


def surprise(margins: Figures) -> float:
    """Minus the decimal logarithm of the chance that the largest margin is as large by chance.

    A gamma distribution of three parameters is fitted to all margins but the largest, by maximum
    likelihood; the chance is that of the largest of as many draws.

    Source: MM-BD, section 4.2, and its published code. The fit does not know that the largest value
    was taken away, so the chance is too small: see `false_alarm_rate`. Ours: margins are fitted in
    units of the range of all but the largest, to a thousandth of it.

    Args:
        margins: finite, `(K,)`.
    """
    largest = int(margins.argmax())
    others = np.delete(margins, largest)
    low, spread = float(others.min()), float(np.ptp(others))
    if spread <= 1e-9 * max(1.0, float(np.abs(others).max())):
        return HIGHEST if margins[largest] > others.max() + 1e-9 else 0.0
    # The likelihood of a few figures has many peaks, and where the search ends hangs on their last
    # digits and their unit: without these it ends where it did.
    with np.errstate(all="ignore"):
        shape, place, scale = gamma.fit(np.round((others - low) / spread, FIT_DIGITS))
        beyond = float(gamma.logsf((margins[largest] - low) / spread, shape, place, scale))
    if math.isnan(beyond):
        raise ScanError(f"no gamma distribution fits the margins {np.round(others, 3).tolist()}")
    return min(HIGHEST, max(0.0, -_log10_of_largest(beyond, len(margins))))


def _log10_of_largest(log_beyond: float, count: int) -> float:
    """Decimal logarithm of 1 - (1 - exp(log_beyond)) ** count, also where that is tiny."""
    if log_beyond < -30:
        return (log_beyond + math.log(count)) / math.log(10)
    within = math.log1p(-min(math.exp(log_beyond), 1 - 1e-16))
    return math.log10(max(-math.expm1(count * within), 1e-320))


@lru_cache(maxsize=64)
def false_alarm_rate(classes: int, level: float) -> float:
    """Fraction of clean models whose p value is below `level`, in `[0, 1]`.

    By simulation of the statistic alone, with independent normal margins whose spread is a tenth of
    their mean. With 100 draws its standard error is up to 5 points: for 5
    classes they give 0.52, where 1,500 draws of another seed give 0.44.
    """
    random = np.random.default_rng(20240520)
    draws = random.normal(1.0, 0.1, (DRAWS, classes))
    return float(np.mean([surprise(one) > -math.log10(level) for one in draws]))
