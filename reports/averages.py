"""Means over models, each the mean of its seeds: the figures of every study's report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from moth_eval.grouped_mean import grouped_mean
from moth_eval.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Average:
    """A mean over the models, each the mean of its seeds.

    Attributes:
        value: the mean; None without any figure.
        interval: of 95 %; None for too few models, or with one model too few seeds.
        cells: cells behind it.
        models: models behind it.
    """

    value: float | None
    interval: Interval | None
    cells: int
    models: int


def by_model(figures: Iterable[tuple[str, float | None]]) -> dict[str, list[float]]:
    """Model -> the figure of each of its seeds, as far as it is known.

    Args:
        figures: model and figure of every cell.
    """
    groups: dict[str, list[float]] = {}
    for model, value in figures:
        if value is not None:
            groups.setdefault(model, []).append(value)
    return groups


def average_of(groups: Mapping[str, list[float]]) -> Average:
    """The mean of the models' means.

    Args:
        groups: as `by_model` makes them.
    """
    if not groups:
        return Average(value=None, interval=None, cells=0, models=0)
    value, interval = grouped_mean(list(groups.values()))
    cells = sum(map(len, groups.values()))
    return Average(value=value, interval=interval, cells=cells, models=len(groups))
