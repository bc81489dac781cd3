"""Tables, figures and a summary of a hardening study, rebuilt from its manifest and cards alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moth_eval.hardening_cells import PENDING, STATUSES, CellState
from moth_eval.hardening_records import DistanceChange, HardeningCard
from moth_eval.hardening_study_records import HardeningStudyFolder, HardeningStudyManifest

from .averages import Average, average_of, by_model
from .controlled import Difference, Place, against_control
from .tables import Cell, bounds, with_bounds

ORIGINAL = "none"
"""What the original models are called in the column `method`."""

NOT_MEASURED = "not measured"


Figure = Callable[[HardeningCard], float | None]


@dataclass(frozen=True, kw_only=True)
class MethodLine:
    """What is known of one method.

    Attributes:
        method: as it was asked for.
        cells: all of its cells, missing ones among them.
    """

    method: str
    cells: tuple[CellState, ...]

    @property
    def cards(self) -> list[HardeningCard]:
        """The cards of cells with a new model."""
        return [card for cell in self.cells if (card := cell.hardened) is not None]

    @property
    def missing(self) -> list[CellState]:
        """Cells without a new model; no mean counts them."""
        return [cell for cell in self.cells if cell.hardened is None]

    def counts(self) -> dict[str, int]:
        """Status -> cells."""
        return {status: sum(c.status == status for c in self.cells) for status in STATUSES}

    def average(self, figure: Figure) -> Average:
        """The mean of a figure over the cells that have it."""
        return average_of(self.by_model(figure))

    def by_model(self, figure: Figure) -> dict[str, list[float]]:
        """Model -> a figure of each of its seeds, as far as it is known."""
        return by_model((model, value) for (model, _), value in self.by_place(figure).items())

    def by_place(self, figure: Figure) -> dict[Place, float]:
        """Model and seed -> a figure, as far as it is known."""
        cells = [((cell.model, cell.seed), cell.hardened) for cell in self.cells]
        found = [(place, figure(card)) for place, card in cells if card]
        return {place: value for place, value in found if value is not None}


@dataclass(frozen=True, kw_only=True)
class HardeningFindings:
    """All figures of a study; nothing is drawn or written yet.

    Attributes:
        path: the run folder.
        manifest: what the run is.
        cells: by model, then method, then seed.
    """

    path: Path
    manifest: HardeningStudyManifest
    cells: tuple[CellState, ...]

    @cached_property
    def lines(self) -> tuple[MethodLine, ...]:
        """One per method, in the order of the manifest."""
        return tuple(
            MethodLine(method=m, cells=tuple(c for c in self.cells if c.method == m))
            for m in self.manifest.methods
        )

    @property
    def missing(self) -> list[CellState]:
        """Cells without a new model."""
        return [cell for cell in self.cells if cell.hardened is None]

    @property
    def control(self) -> MethodLine:
        """The method that the others are held against: the first."""
        return self.lines[0]

    @cached_property
    def differences(self) -> tuple[Difference[str], ...]:
        """Every other method against the first on the models that both have, figure by figure."""
        return tuple(
            one
            for name, figure in COMPARED.items()
            for one in against_control(
                name,
                self.control.by_place(figure),
                {line.method: line.by_place(figure) for line in self.lines[1:]},
            )
        )


def work_out_hardening(path: Path) -> HardeningFindings:
    """The figures of a run folder.

    Raises:
        RunError: there is no manifest, or it is damaged.
    """
    folder = HardeningStudyFolder(path)
    return HardeningFindings(path=path, manifest=folder.manifest(), cells=tuple(folder.cells()))


def rows(found: HardeningFindings) -> list[dict[str, Cell]]:
    """The lines of `hardening.csv`: per model and seed the original, then every method."""
    lines: list[dict[str, Cell]] = []
    for entry in found.manifest.entries:
        own = [cell for cell in found.cells if cell.model == entry.name]
        lines += [
            _original([cell for cell in own if cell.seed == seed], entry.name, seed)
            for seed in found.manifest.seeds
        ]
        lines += [_row(cell) for cell in own]
    return lines


def summary_row(line: MethodLine) -> dict[str, Cell]:
    """The line of a method in `summary.csv`; None where a figure does not exist."""
    degradation, ratios = line.average(degradation_of), line.average(increase_of)
    seconds = line.average(seconds_of)
    return {
        "method": line.method,
        "cells": len(line.cells),
        **{status.replace("-", "_"): n for status, n in line.counts().items()},
        "models": degradation.models,
        "accuracy_before": line.average(accuracy_before_of).value,
        "accuracy_after": line.average(accuracy_after_of).value,
        **_average("degradation", degradation),
        "increase_cells": ratios.cells,
        **_average("mean_of_ratios", ratios),
        **_average("ratio_of_means", line.average(ratio_of_means_of)),
        "failed_pairs_before": sum(_failed(card)[0] for card in line.cards),
        "failed_pairs_after": sum(_failed(card)[1] for card in line.cards),
        **_average("seconds", seconds),
        "increase_per_second": increase_per_second(line),
        "interval": _method_of(degradation),
    }


def difference_rows(found: HardeningFindings) -> list[dict[str, Cell]]:
    """The lines of `differences.csv`."""
    return [one.row(one.line, found.control.method) for one in found.differences]


def hardening_data(found: HardeningFindings) -> dict[str, object]:
    """Everything as data that JSON can hold; figures that do not exist are null."""
    return {
        "complete": not any(cell.status == PENDING for cell in found.cells),
        "missing": len(found.missing),
        "summary": [summary_row(line) for line in found.lines],
        "differences": difference_rows(found),
        "cells": rows(found),
        "provenance": json.loads(found.manifest.model_dump_json(exclude={"entries"})),
    }


def degradation_of(card: HardeningCard) -> float | None:
    """Accuracy lost: before minus after."""
    return None if card.accuracy is None else card.accuracy.before - card.accuracy.after


def increase_of(card: HardeningCard) -> float | None:
    """Mean over pairs of the relative increase of distance."""
    increase = None if card.distance is None else card.distance.increase
    return None if increase is None else increase.mean_of_ratios


def increase_per_second(line: MethodLine) -> float | None:
    """Summed increase over summed time of training, of the cells that have an increase (1/s)."""
    known = [
        (value, c.training.seconds) for c in line.cards if (value := increase_of(c)) is not None
    ]
    seconds = sum(time for _, time in known)
    return sum(value for value, _ in known) / seconds if seconds > 0 else None


def seconds_of(card: HardeningCard) -> float:
    """Time of training (s)."""
    return card.training.seconds


def accuracy_before_of(card: HardeningCard) -> float | None:
    """Accuracy of the original."""
    return None if card.accuracy is None else card.accuracy.before


def accuracy_after_of(card: HardeningCard) -> float | None:
    """Accuracy of the new model."""
    return None if card.accuracy is None else card.accuracy.after


def ratio_of_means_of(card: HardeningCard) -> float | None:
    """Increase of the mean distance."""
    increase = None if card.distance is None else card.distance.increase
    return None if increase is None else increase.ratio_of_means


COMPARED: dict[str, Figure] = {
    "degradation": degradation_of,
    "mean_of_ratios": increase_of,
    "ratio_of_means": ratio_of_means_of,
    "seconds": seconds_of,
}
"""Name in tables -> figure that methods are compared by."""


def _failed(card: HardeningCard) -> tuple[int, int]:
    change = card.distance
    return (0, 0) if change is None else (len(change.failed_before), len(change.failed_after))


def _original(cells: Sequence[CellState], model: str, seed: int) -> dict[str, Cell]:
    """The original of a model, as the first card with its figures tells it."""
    cards = [card for cell in cells if (card := cell.hardened) is not None]
    card = next(iter(cards), None)
    known = _figures(None)
    if card is not None and card.accuracy is not None:
        known |= {"accuracy_before": card.accuracy.before, "test_images": card.accuracy.n}
    if card is not None and card.distance is not None:
        known |= {
            "pairs": len(card.distance.pairs),
            "distance_before": _mean_before(card.distance),
            "failed_pairs_before": len(card.distance.failed_before),
        }
    status = "original" if card is not None else NOT_MEASURED
    return {"model": model, "method": ORIGINAL, "seed": seed, "status": status, **known}


def _mean_before(change: DistanceChange) -> float | None:
    """Over all pairs that have a distance before, whatever became of them."""
    known = [pair.before for pair in change.pairs if pair.before is not None]
    return sum(known) / len(known) if known else None


def _row(cell: CellState) -> dict[str, Cell]:
    figures = _figures(cell.card)
    if cell.hardened is None:
        figures["reason"] = cell.reason or None
    return {
        "model": cell.model,
        "method": cell.method,
        "seed": cell.seed,
        "status": cell.status,
        **figures,
    }


def _figures(card: HardeningCard | None) -> dict[str, Cell]:
    """The columns that a card fills; all of them None without one."""
    accuracy = card.accuracy if card else None
    training = card.training if card else None
    difference = accuracy.difference if accuracy else None
    return {
        "reason": None,
        "accuracy_before": accuracy.before if accuracy else None,
        "accuracy_after": accuracy.after if accuracy else None,
        "degradation": degradation_of(card) if card else None,
        "degradation_low": -difference.high if difference else None,
        "degradation_high": -difference.low if difference else None,
        "accuracy_p": accuracy.p_value if accuracy else None,
        "test_images": accuracy.n if accuracy else None,
        **_distances(card),
        "images_used": training.images_used if training else None,
        "rounds": training.rounds if training else None,
        "forward_passes": training.forward_passes if training else None,
        "backward_passes": training.backward_passes if training else None,
        "seconds": training.seconds if training else None,
        "peak_memory_mb": training.peak_memory_bytes / 1e6 if training else None,
        "notes": "; ".join(card.notes) if card and card.notes else None,
    }


def _distances(card: HardeningCard | None) -> dict[str, Cell]:
    change = card.distance if card else None
    increase = change.increase if change else None
    return {
        "distance_before": change.mean_before if change else None,
        "distance_after": change.mean_after if change else None,
        "mean_of_ratios": increase.mean_of_ratios if increase else None,
        **bounds("mean_of_ratios", increase.mean_of_ratios_interval if increase else None),
        "ratio_of_means": increase.ratio_of_means if increase else None,
        **bounds("ratio_of_means", increase.ratio_of_means_interval if increase else None),
        "pairs": len(change.pairs) if change else None,
        "pairs_used": increase.pairs if increase else None,
        "failed_pairs_before": len(change.failed_before) if change else None,
        "failed_pairs_after": len(change.failed_after) if change else None,
    }


def _average(name: str, average: Average) -> dict[str, Cell]:
    return with_bounds(name, average.value, average.interval)


def _method_of(average: Average) -> str | None:
    return None if average.interval is None else average.interval.method
