"""Tables and figure of a false-positives study, rebuilt from its run folder alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scipy.stats import binomtest

from moth_eval.false_positive_records import (
    AFTER,
    AGAIN,
    BEFORE,
    FalsePositivesFolder,
    FalsePositivesManifest,
    flag,
)
from moth_eval.hardening_cells import CELLS, CellState, read_cell
from moth_eval.hardening_records import HardeningCard
from moth_eval.intervals import Interval, wilson
from moth_eval.records import RunFolder

from .false_positives_pictures import slopes
from .report_files import write_report
from .rows import PENDING, Row, read_run
from .tables import Cell, as_csv, with_bounds
from .wording import CUTS

GROUPS = (("clean", 0), ("backdoored", 1), ("unknown", None))
"""Name in tables -> label."""


@dataclass(frozen=True, kw_only=True)
class ModelLine:
    """One model before and after.

    Attributes:
        before: its first scan.
        cell: its hardening; None if it was not flagged.
        again: its second scan without hardening; None if there is none.
        after: the scan of its hardened copy; None if there is none.
        threshold: that the user gave; None: the cut that the scanner's record states.
    """

    before: Row
    cell: CellState | None
    again: Row | None
    after: Row | None
    threshold: float | None

    @property
    def flagged_before(self) -> bool | None:
        """Whether the first score is above the threshold; None without a score."""
        return self._flag(self.before)

    @property
    def flagged_again(self) -> bool | None:
        """The same of the second look; a model that was not flagged keeps its verdict."""
        return False if self.flagged_before is False else self._flag(self.again)

    @property
    def flagged_after(self) -> bool | None:
        """The same after hardening; a model that was not flagged keeps its verdict."""
        return False if self.flagged_before is False else self._flag(self.after)

    @property
    def card(self) -> HardeningCard | None:
        """What the hardening did, if it left a new model."""
        return self.cell.hardened if self.cell else None

    @property
    def verdict(self) -> str:
        """What became of the model."""
        if self.flagged_before is None:
            return "no first answer"
        if self.flagged_before is False:
            return "not flagged"
        if self.cell is None or self.cell.hardened is None:
            return "not hardened"
        if self.flagged_after is None:
            return "no second answer"
        return "still flagged" if self.flagged_after else "cleared"

    @property
    def note(self) -> str:
        """What speaks against comparing the two scores."""
        one, other = self.before.record, self.after.record if self.after else None
        if one is None or other is None or one.normalisation == other.normalisation:
            return ""
        return f"normalisation {one.normalisation} before, {other.normalisation} after"

    def _flag(self, row: Row | None) -> bool | None:
        return flag(row.record, self.threshold) if row and row.record else None


@dataclass(frozen=True, kw_only=True)
class GroupLine:
    """The models of one truth.

    Attributes:
        name: of the group.
        models: all of them, those without an answer too.
    """

    name: str
    models: tuple[ModelLine, ...]

    @property
    def answered(self) -> tuple[ModelLine, ...]:
        """Models with a verdict before and after; every rate is over these."""
        return tuple(
            m for m in self.models if m.flagged_before is not None and m.flagged_after is not None
        )

    @property
    def before(self) -> int:
        """Flagged before, of those answered."""
        return sum(m.flagged_before is True for m in self.answered)

    @property
    def after(self) -> int:
        """Flagged after, of those answered."""
        return sum(m.flagged_after is True for m in self.answered)

    @property
    def again(self) -> int | None:
        """Flagged by the first and the second look, of those answered; None if one is missing."""
        verdicts = [m.flagged_again for m in self.answered]
        return None if None in verdicts else verdicts.count(True)

    @property
    def looked_again(self) -> tuple[ModelLine, ...]:
        """Flagged models with a verdict of the second look and of the hardened copy."""
        return tuple(m for m in self.answered if m.flagged_before and m.flagged_again is not None)

    @property
    def by_chance(self) -> int:
        """Flagged models that a second look without hardening does not flag."""
        return sum(m.flagged_again is False for m in self.looked_again)

    @property
    def against_second_look(self) -> float | None:
        """Of the exact McNemar test of hardening against a mere second look; None if none."""
        pairs = [(m.flagged_again, m.flagged_after) for m in self.looked_again]
        if not pairs:
            return None
        gained, lost = pairs.count((True, False)), pairs.count((False, True))
        return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


@dataclass(frozen=True, kw_only=True)
class FalsePositivesFindings:
    """All figures of a study; nothing is drawn or written yet.

    Attributes:
        path: the run folder.
        manifest: what the run is.
        models: in the order of the first scan.
    """

    path: Path
    manifest: FalsePositivesManifest
    models: tuple[ModelLine, ...]

    @cached_property
    def groups(self) -> tuple[GroupLine, ...]:
        """One per truth that occurs, then all models; errata are in `unknown`."""
        lines = [
            GroupLine(name=name, models=tuple(m for m in self.models if m.before.label == label))
            for name, label in GROUPS
        ]
        return (*(g for g in lines if g.models), GroupLine(name="all", models=self.models))

    @property
    def cuts(self) -> tuple[float, ...]:
        """Every threshold that was applied, rising."""
        if self.manifest.threshold is not None:
            return (self.manifest.threshold,)
        rules = (m.before.record.rule for m in self.models if m.before.record)
        return tuple(sorted({rule.threshold for rule in rules if rule is not None}))

    @property
    def origin(self) -> str:
        """Where the threshold comes from, in words."""
        cuts = " and ".join(f"{cut:g}" for cut in self.cuts) or "not known yet"
        if self.manifest.threshold is not None:
            return f"{cuts}, given by the user"
        rules = (m.before.record.rule for m in self.models if m.before.record)
        known = [rule for rule in rules if rule is not None]
        sources = "; ".join(sorted({f"{rule.name}, {rule.source}" for rule in known})) or "–"
        whose = " and ".join(sorted({CUTS[rule.origin].removeprefix("the ") for rule in known}))
        return f"{cuts}, {whose or 'cut'} of {self.manifest.scanner} ({sources})"

    @property
    def pending(self) -> list[ModelLine]:
        """Models that the same command would still work on."""
        return [
            m
            for m in self.models
            if m.before.status == PENDING
            or (m.cell is not None and m.cell.status == PENDING)
            or (m.card is not None and (m.after is None or m.after.status == PENDING))
        ]


def work_out_false_positives(path: Path) -> FalsePositivesFindings:
    """The figures of a run folder.

    Raises:
        RunError: a manifest is missing or damaged, or a ledger is.
    """
    manifest = FalsePositivesFolder(path).manifest()
    before, again, after = (_rows(path / name) for name in (BEFORE, AGAIN, AFTER))
    return FalsePositivesFindings(
        path=path,
        manifest=manifest,
        models=tuple(
            _line(path, manifest, row, again.get(name), after.get(name))
            for name, row in before.items()
        ),
    )


def write_false_positives_report(found: FalsePositivesFindings) -> list[Path]:
    """Write every table and figure; the paths written.

    They depend on the manifests, the ledgers and the cards only, byte for byte.
    """
    cut = found.cuts[0] if len(found.cuts) == 1 else None
    scores = [(m.before.score, m.after.score if m.after else None, m.before.label)
              for m in found.models]  # fmt: skip
    files = {
        "false_positives.csv": as_csv(map(model_row, found.models)),
        "summary.csv": as_csv(map(group_row, found.groups)),
        "false_positives.png": slopes(scores, cut, kind="png"),
        "false_positives.svg": slopes(scores, cut, kind="svg"),
    }
    return write_report(found.path, files)


def model_row(model: ModelLine) -> dict[str, Cell]:
    """The line of a model in `false_positives.csv`; None where something is not known."""
    truth, first, card = model.before.truth, model.before.record, model.card
    accuracy, change = (card.accuracy, card.distance) if card else (None, None)
    difference = accuracy.difference if accuracy else None
    increase = change.increase if change else None
    return {
        "model": model.before.model,
        "poisoned": truth.poisoned if truth else None,
        "errata": truth.errata if truth else None,
        "verdict": model.verdict,
        "status_before": model.before.status,
        "score_before": model.before.score,
        "flagged_before": model.flagged_before,
        "score_again": model.again.score if model.again else None,
        "flagged_again": model.flagged_again if model.again else None,
        "hardening": model.cell.status if model.cell else None,
        "status_after": model.after.status if model.after else None,
        "score_after": model.after.score if model.after else None,
        "flagged_after": model.flagged_after,
        "test_images": accuracy.n if accuracy else None,
        "accuracy_before": accuracy.before if accuracy else None,
        "accuracy_after": accuracy.after if accuracy else None,
        "change": accuracy.after - accuracy.before if accuracy else None,
        "change_low": difference.low if difference else None,
        "change_high": difference.high if difference else None,
        "examples_accuracy_before": first.clean_accuracy if first else None,
        "distance_increase": increase.mean_of_ratios if increase else None,
        "images_used": card.training.images_used if card else None,
        "reason": "; ".join(filter(None, _reasons(model))) or None,
        "seconds": card.training.seconds if card else None,
    }


def group_row(group: GroupLine) -> dict[str, Cell]:
    """The line of a group in `summary.csv`."""
    n = len(group.answered)
    cards = [m.card for m in group.models if m.card is not None and m.card.accuracy is not None]
    known = [c.accuracy for c in cards if c.accuracy is not None]
    untouched = sum(m.flagged_before is False for m in group.models)
    judged = len(known) + untouched
    return {
        "group": group.name,
        "models": len(group.models),
        "answered": n,
        "without_answer": len(group.models) - n,
        "flagged_before": group.before,
        **_rate("rate_before", group.before, n),
        "flagged_after": group.after,
        **_rate("rate_after", group.after, n),
        "cleared": group.before - group.after,
        "flagged_again": group.again,
        **_rate("rate_again", group.again, n),
        "looked_again": len(group.looked_again),
        "cleared_by_second_look": group.by_chance,
        "p_value_against_second_look": group.against_second_look,
        "hardened": len(known),
        "accuracy_before": _mean([a.before for a in known]),
        "accuracy_after": _mean([a.after for a in known]),
        "untouched": untouched,
        "change_of_all": sum(a.after - a.before for a in known) / judged if judged else None,
    }


def false_positives_data(found: FalsePositivesFindings) -> dict[str, object]:
    """Everything as data that JSON can hold; figures that do not exist are null."""
    return {
        "complete": not found.pending,
        "threshold": list(found.cuts),
        "threshold_origin": found.origin,
        "summary": [group_row(group) for group in found.groups],
        "models": [model_row(model) for model in found.models],
        "provenance": json.loads(found.manifest.model_dump_json(exclude={"folders"})),
    }


def rate(flagged: int, n: int) -> Interval | None:
    """Wilson's interval of a rate; None without models."""
    return wilson(flagged, n) if n else None


def _rate(name: str, flagged: int | None, n: int) -> dict[str, Cell]:
    if flagged is None or not n:
        return with_bounds(name, None, None)
    return with_bounds(name, flagged / n, rate(flagged, n))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _reasons(model: ModelLine) -> list[str]:
    return [
        model.before.record.reason if model.before.record and model.before.score is None else "",
        model.cell.reason if model.cell and model.cell.hardened is None else "",
        model.after.record.reason if model.after and model.after.record else "",
        model.note,
    ]


def _rows(path: Path) -> dict[str, Row]:
    """Model -> its row in a scan; nothing if the scan has not begun."""
    if not RunFolder(path).exists:
        return {}
    return {row.model: row for row in read_run(path).rows}


def _line(
    path: Path,
    manifest: FalsePositivesManifest,
    before: Row,
    again: Row | None,
    after: Row | None,
) -> ModelLine:
    line = ModelLine(
        before=before, cell=None, again=again, after=None, threshold=manifest.threshold
    )
    if not line.flagged_before:
        return line
    cell = read_cell(
        path / CELLS / manifest.folders[before.model],
        model=before.model,
        sha256=before.entry.sha256,
        method=manifest.method,
        seed=manifest.seed,
    )
    counted = (
        after if after and cell.card and after.entry.sha256 == cell.card.training.sha256 else None
    )
    return ModelLine(
        before=before, cell=cell, again=again, after=counted, threshold=manifest.threshold
    )
