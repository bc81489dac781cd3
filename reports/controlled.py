"""Methods held against a control on the same models, with p values that hold for all of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from moth_eval.paired import PairedDifference, corrected_together, paired_difference

from .averages import Average, by_model
from .tables import Cell, with_bounds

Place = tuple[str, int]
"""Model and seed of a cell."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Difference(Generic[K]):
    """How a method differs from the control in one figure.

    Attributes:
        line: the method.
        figure: name of the figure.
        found: the comparison, method minus control.
        p_corrected: p value corrected for all methods compared by this figure; None without one.
    """

    line: K
    figure: str
    found: PairedDifference
    p_corrected: float | None

    @property
    def average(self) -> Average:
        """The mean difference, as other means are given."""
        models = self.found.models
        return Average(
            value=self.found.mean, interval=self.found.interval, cells=models, models=models
        )

    def row(self, method: str, control: str) -> dict[str, Cell]:
        """The line of `differences.csv`, with what the two are called there."""
        return {
            "method": method,
            "control": control,
            "figure": self.figure,
            "models": self.found.models,
            **with_bounds("difference", self.found.mean, self.found.interval),
            "p": self.found.p_value,
            "p_corrected": self.p_corrected,
        }


def against_control(
    figure: str, control: Mapping[Place, float], methods: Mapping[K, Mapping[Place, float]]
) -> list[Difference[K]]:
    """Each method against the control on the cells that both have, as far as there are any.

    A model's figure is the mean of the seeds that both have it for.

    Args:
        figure: its name.
        control: the figure per model and seed.
        methods: the same of every method.
    """
    pairs = {line: _pairs(control, own) for line, own in methods.items()}
    pairs = {line: models for line, models in pairs.items() if models}
    changes = [{m: own - base for m, (base, own) in models.items()} for models in pairs.values()]
    found = [paired_difference(*zip(*models.values(), strict=True)) for models in pairs.values()]
    return [
        Difference(line=line, figure=figure, found=one, p_corrected=_no_lower(p_value, one.p_value))
        for line, one, p_value in zip(pairs, found, corrected_together(changes), strict=True)
    ]


def _no_lower(corrected: float | None, plain: float | None) -> float | None:
    """The corrected p value; from 14 models on both are drawn, and chance must not turn them."""
    return corrected if corrected is None or plain is None else max(corrected, plain)


def _pairs(
    control: Mapping[Place, float], own: Mapping[Place, float]
) -> dict[str, tuple[float, float]]:
    """Model -> mean of the control and of a method over the seeds that both have."""
    shared = [place for place in control if place in own]
    base = by_model((place[0], control[place]) for place in shared)
    mine = by_model((place[0], own[place]) for place in shared)
    return {m: (sum(base[m]) / len(base[m]), sum(mine[m]) / len(mine[m])) for m in base}
