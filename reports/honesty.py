"""Tables, figures and data of honesty checks, rebuilt from a run folder alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from moth_eval.hardening_records import AccuracyRecord
from moth_eval.honesty_records import (
    CheckRecord,
    CurveRecord,
    HonestyFolder,
    HonestyManifest,
    RobustnessRecord,
)
from moth_eval.inverter_table import InverterCheck, growth_ratio

from .honesty_pictures import curves_figure, growth_figure, robustness_figure
from .honesty_tables import growth_csv, headline_csv, patches_csv, robustness_csv
from .report_files import write_report


@dataclass(frozen=True, kw_only=True)
class HonestyFindings:
    """All figures of a run; nothing is drawn or written yet.

    Attributes:
        path: the run folder.
        manifest: what the run is.
        records: name -> finished check.
    """

    path: Path
    manifest: HonestyManifest
    records: dict[str, CheckRecord]

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the checks that are not finished."""
        return tuple(name for name in self.manifest.checks if name not in self.records)

    @property
    def accuracy(self) -> AccuracyRecord | None:
        """Clean accuracies; None while pending."""
        found = (record.accuracy for record in self.records.values())
        return next((accuracy for accuracy in found if accuracy), None)

    @cached_property
    def inverters(self) -> tuple[InverterCheck, ...]:
        """The finished ones: mask and pattern, then signed pixels."""
        found = (record.inverter for record in self.records.values())
        return tuple(inverter.check for inverter in found if inverter)

    @property
    def robustness(self) -> tuple[RobustnessRecord, ...]:
        """Of the finished attacks."""
        return tuple(r.robustness for r in self.records.values() if r.robustness)

    @property
    def curves(self) -> tuple[CurveRecord, ...]:
        """Of the finished kinds of patches."""
        return tuple(r.curve for r in self.records.values() if r.curve)

    @property
    def growth_ratio(self) -> float | None:
        """Growth under mask and pattern over that under signed pixels; None if unknown."""
        return growth_ratio(*self.inverters) if len(self.inverters) == 2 else None


def work_out_honesty(path: Path) -> HonestyFindings:
    """The figures of a run folder.

    Raises:
        RunError: there is no manifest, or it or a check is damaged.
    """
    folder = HonestyFolder(path)
    return HonestyFindings(path=path, manifest=folder.manifest(), records=folder.records())


def write_honesty_report(found: HonestyFindings) -> list[Path]:
    """Write every table and figure; the paths written.

    They depend on the manifest and `checks/` only, byte for byte. Files of an earlier report that
    have no place in this one are removed.
    """
    inverters, robustness, curves = found.inverters, found.robustness, found.curves
    headline = headline_csv(found.accuracy, inverters, found.growth_ratio, robustness, curves)
    files = {
        "honesty.csv": headline,
        "growth.csv": growth_csv(inverters),
        "robust-accuracy.csv": robustness_csv(robustness),
        "patches.csv": patches_csv(curves, found.manifest.settings.pairs),
        "honesty.json": (json.dumps(honesty_data(found), indent=2) + "\n").encode(),
        "growth.png": growth_figure(inverters, kind="png"),
        "growth.svg": growth_figure(inverters, kind="svg"),
        "robust-accuracy.png": robustness_figure(robustness, kind="png"),
        "robust-accuracy.svg": robustness_figure(robustness, kind="svg"),
        "patches.png": curves_figure(curves, kind="png"),
        "patches.svg": curves_figure(curves, kind="svg"),
    }
    return write_report(found.path, files)


def honesty_data(found: HonestyFindings) -> dict[str, object]:
    """Everything as data that JSON can hold; figures that do not exist are null."""
    manifest, accuracy = found.manifest, found.accuracy
    records = found.records.values()
    return {
        "complete": not found.pending,
        "pending_checks": list(found.pending),
        "notes": list(manifest.notes),
        "accuracy": accuracy.model_dump(mode="json") if accuracy else None,
        "inverters": [
            record.inverter.model_dump(mode="json") | {"derived": record.inverter.check.derived()}
            for record in records
            if record.inverter
        ],
        "growth_ratio": found.growth_ratio,
        "robustness": [one.model_dump(mode="json") for one in found.robustness],
        "curves": [one.model_dump(mode="json") for one in found.curves],
        "seconds": sum(record.seconds for record in records),
        "forward_passes": sum(record.forward_passes for record in records),
        "backward_passes": sum(record.backward_passes for record in records),
        "settings": manifest.settings.model_dump(mode="json"),
        "provenance": manifest.model_dump(mode="json", exclude={"settings", "checks", "notes"}),
    }
