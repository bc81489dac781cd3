"""What a study of removal found, worked out from its manifest and cards alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moth_eval.removal_records import (
    REMOVAL_STATUSES,
    AttackedModel,
    RatesRecord,
    RemovalFolder,
    RemovalManifest,
    RemovalState,
    VariantRecord,
    oracle_of,
)

from .averages import Average, average_of, by_model
from .controlled import Difference, Place, against_control

NONE = "none"
"""What the original models are called in the column `method`."""

ALL = "all"
"""What all attacks together are called in the column `attack`."""

ORACLE = "oracle"
NOT_IMPLANTED = "not-implanted"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One measured network: a cell, and one of its variants; or the original.

    Attributes:
        cell: the cell.
        variant: the network; None for the original.
    """

    cell: RemovalState
    variant: VariantRecord | None

    @property
    def accuracy(self) -> float | None:
        """Accuracy on clean test images."""
        return self._rates.accuracy

    @property
    def asr(self) -> float | None:
        """Attack success rate; None for a clean control."""
        return self._rates.asr

    @property
    def ra(self) -> float | None:
        """Robust accuracy; None for a clean control."""
        return self._rates.ra

    @property
    def der(self) -> float | None:
        """Defence effectiveness rate; None for a clean control, and for the original."""
        return self.variant.der if self.variant else None

    @property
    def fall(self) -> float:
        """Accuracy lost: before minus after."""
        return self._before.accuracy - self._rates.accuracy

    @property
    def asr_fall(self) -> float | None:
        """ASR before minus after; None for a clean control."""
        if self._before.asr is None or self._rates.asr is None:
            return None
        return self._before.asr - self._rates.asr

    @property
    def reactivated(self) -> float | None:
        """ASR after the re-activation check; None without one."""
        again = self.variant.reactivated if self.variant else None
        return again.asr if again else None

    @property
    def seconds(self) -> float | None:
        """Of the repair (s); None for the original."""
        return self.cell.card.seconds if self.cell.card and self.variant else None

    @property
    def _before(self) -> RatesRecord:
        assert self.cell.card is not None  # noqa: S101 - only measured cells have results
        return self.cell.card.before.rates

    @property
    def _rates(self) -> RatesRecord:
        return self.variant.rates if self.variant else self._before


Figure = Callable[[Result], float | None]

FIGURES: dict[str, Figure] = {
    "accuracy": lambda one: one.accuracy,
    "accuracy_fall": lambda one: one.fall,
    "asr": lambda one: one.asr,
    "ra": lambda one: one.ra,
    "der": lambda one: one.der,
    "reactivated_asr": lambda one: one.reactivated,
    "seconds": lambda one: one.seconds,
}
"""Name in tables -> figure of a repaired model."""

COMPARED = ("accuracy", "asr", "ra", "der")
"""Figures that methods are held against the control by."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a comparison: a method, or a by-product of one.

    Attributes:
        method: as it was asked for; `none`: the originals.
        variant: name of the by-product; empty: the method's own result.
        oracle: whether what is shown was chosen or told by the truth.
    """

    method: str
    variant: str = ""
    oracle: bool = False

    @property
    def label(self) -> str:
        """What the row is called; an oracle's always says so."""
        text = f"{self.method} / {self.variant}" if self.variant else self.method
        return f"{text} ({ORACLE})" if self.oracle else text


@dataclass(frozen=True, kw_only=True)
class RemovalFindings:
    """All figures of a study; nothing is drawn or written yet.

    Attributes:
        path: the run folder.
        manifest: what the run is.
        cells: by model, then method, then seed.
    """

    path: Path
    manifest: RemovalManifest
    cells: tuple[RemovalState, ...]

    @cached_property
    def entries(self) -> dict[str, AttackedModel]:
        """Name -> model."""
        return {entry.name: entry for entry in self.manifest.entries}

    @cached_property
    def unimplanted(self) -> dict[str, str]:
        """Models whose attack did not take, which nothing is scored of -> why."""
        found = {e.name: e.not_implanted for e in self.manifest.entries if e.not_implanted}
        for cell in self.cells:
            if cell.status == NOT_IMPLANTED:
                found.setdefault(cell.model, cell.reason)
        return found

    @cached_property
    def scored(self) -> tuple[RemovalState, ...]:
        """Cells of attacked models whose attack took."""
        left_out = {e.name for e in self.manifest.entries if e.clean} | self.unimplanted.keys()
        return tuple(cell for cell in self.cells if cell.model not in left_out)

    @cached_property
    def controls(self) -> tuple[RemovalState, ...]:
        """Cells of clean controls."""
        return tuple(cell for cell in self.cells if self.entries[cell.model].clean)

    @cached_property
    def missing(self) -> tuple[RemovalState, ...]:
        """Cells without figures, other than those of models that are not scored."""
        return tuple(
            cell
            for cell in (*self.scored, *self.controls)
            if cell.card is None and not self._beyond(cell)
        )

    @property
    def complete(self) -> bool:
        """Whether every cell has an answer."""
        return all(cell.answered for cell in self.cells)

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every method, each followed by its by-products, in the order of the manifest."""
        found: dict[Line, None] = {}
        for method in self.manifest.methods:
            own = [c for c in self.cells if c.method == method and c.card]
            rows = [row for cell in own for row in (cell.card.variants if cell.card else ())]
            told = oracle_of(method, self.manifest.methods[method])
            main = any(row.oracle for row in rows if not row.name) or bool(told)
            found[Line(method=method, oracle=main)] = None
            for row in rows:
                if row.name:
                    line = Line(method=method, variant=row.name, oracle=bool(row.oracle))
                    found[line] = None
        return tuple(found)

    def results(self, line: Line, cells: Iterable[RemovalState]) -> list[Result]:
        """What a line measured in these cells; the originals for the method `none`."""
        if line.method == NONE:
            first = {(c.model, c.seed): c for c in reversed(list(cells)) if c.card}
            return [Result(cell=cell, variant=None) for cell in reversed(first.values())]
        return [
            Result(cell=cell, variant=row)
            for cell in cells
            if cell.method == line.method and cell.card is not None
            for row in cell.card.variants
            if row.name == line.variant
        ]

    def compared(self, cells: Sequence[RemovalState]) -> tuple[RemovalState, ...]:
        """Those of the cells whose model and seed every method has a result for.

        Methods without any result are not asked: they are in no comparison. Nor are oracles: they
        have none where there is nothing to look at, and no method should lose a model for that.
        """
        oracles = {line.method for line in self.lines if line.oracle and not line.variant}
        methods = {cell.method for cell in cells if cell.card} - oracles
        done: dict[tuple[str, int], set[str]] = {}
        for cell in cells:
            if cell.card:
                done.setdefault((cell.model, cell.seed), set()).add(cell.method)
        return tuple(c for c in cells if c.card and methods <= done[c.model, c.seed])

    def average(self, results: Sequence[Result], figure: Figure) -> Average:
        """The mean of a figure over models, each the mean of its seeds."""
        return average_of(figures(results, figure))

    @cached_property
    def differences(self) -> tuple[Difference[Line], ...]:
        """Every method against the control on the models that both have, figure by figure.

        Oracles and by-products are left out: the first know the answer, the second are no methods.
        """
        control = Line(method=self.manifest.control)
        others = [line for line in self.lines if not (line.variant or line.oracle)]
        others = [line for line in others if line != control]
        return tuple(
            one
            for name in COMPARED
            for one in against_control(
                name,
                self._by_place(control, name),
                {line: self._by_place(line, name) for line in others},
            )
        )

    def _by_place(self, line: Line, name: str) -> dict[Place, float]:
        """Model and seed -> a figure of a line, as far as it is known."""
        found = ((r.cell, FIGURES[name](r)) for r in self.results(line, self.scored))
        return {(cell.model, cell.seed): value for cell, value in found if value is not None}

    @property
    def attacks(self) -> tuple[tuple[str, str], ...]:
        """Attack and threat of the scored models, in the order of the manifest."""
        names = {cell.model for cell in self.scored}
        own = [(e.attack, e.threat) for e in self.manifest.entries if e.name in names]
        return tuple(dict.fromkeys(own))

    def of_attack(self, attack: str, threat: str) -> tuple[RemovalState, ...]:
        """Scored cells of the models of one attack."""
        return tuple(
            cell
            for cell in self.scored
            if (self.entries[cell.model].attack, self.entries[cell.model].threat)
            == (attack, threat)
        )

    def _beyond(self, cell: RemovalState) -> bool:
        """Whether a clean control cannot have a result, as an oracle has nothing to look at."""
        return self.entries[cell.model].clean and cell.status == "inapplicable"


def work_out_removal(path: Path) -> RemovalFindings:
    """The figures of a run folder.

    Raises:
        RunError: there is no manifest, or it is damaged.
    """
    folder = RemovalFolder(path)
    return RemovalFindings(path=path, manifest=folder.manifest(), cells=tuple(folder.cells()))


def figures(results: Iterable[Result], figure: Figure) -> dict[str, list[float]]:
    """Model -> the figure of each of its seeds, as far as it is known."""
    return by_model((one.cell.model, figure(one)) for one in results)


def counts(cells: Iterable[RemovalState], method: str) -> dict[str, int]:
    """Status -> cells of a method."""
    own = [cell.status for cell in cells if cell.method == method]
    return {status: own.count(status) for status in REMOVAL_STATUSES}
