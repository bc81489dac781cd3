"""Tables, figures and a summary of class distances, rebuilt from a run folder alone."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from moth_eval.distance_records import DistanceFolder, DistanceManifest, kept_records
from moth_eval.distance_stability import Stability, stability_of
from moth_eval.distance_table import ClassDistances, Pair, Summary, as_matrix, summarise
from moth_eval.errors import RunError
from moth_eval.metrics import FloatArray
from moth_eval.text import visible

from .distance_pictures import Trigger, heat_map, read_trigger, trigger_sheet
from .report_files import write_report
from .wording import count, few, number

SHEET = "triggers.png"
SEED_FIELDS = ("seed", "distance", "asr", "valid", "steps")
"""What `distance.json` says of every inversion."""


@dataclass(frozen=True, kw_only=True)
class DistanceFindings:
    """All figures of a distance run; nothing is drawn or written yet.

    Attributes:
        path: the run folder.
        manifest: what the run is.
        distances: of the pairs that are finished under all their seeds.
        triggers: of the smallest pairs.
        unreadable: why some of their files are not drawn.
    """

    path: Path
    manifest: DistanceManifest
    distances: ClassDistances
    triggers: tuple[Trigger, ...]
    unreadable: tuple[str, ...]

    @property
    def pending(self) -> tuple[Pair, ...]:
        """Pairs that are not finished under all their seeds."""
        return tuple(p for p in self.manifest.pairs if p not in self.distances.by_pair)

    @cached_property
    def stability(self) -> Stability | None:
        """Mean and spread of a stability study; None for minima over seeds."""
        if self.manifest.stability_sets is None or not self.distances.rows:
            return None
        return stability_of(self.distances)

    @property
    def values(self) -> dict[Pair, float]:
        """Pair -> its distance, or its mean over the sets of a stability study."""
        if self.stability is not None:
            return {p: v for p, v in self.stability.means.items() if not math.isnan(v)}
        return {pair: self.distances.distance(*pair) for pair in self.distances.best}

    @property
    def summary(self) -> Summary:
        """The figures of the pairs that have a distance."""
        return summarise(self.values, pairs=len(self.manifest.pairs))

    @property
    def matrix(self) -> FloatArray:
        """`(K, K)`, rows are sources; NaN where there is no distance."""
        return as_matrix(self.values, self.manifest.num_classes)


def work_out_distance(path: Path) -> DistanceFindings:
    """The figures of a run folder.

    Raises:
        RunError: there is no manifest, or it or the ledger is damaged.
    """
    folder = DistanceFolder(path)
    triggers, unreadable = [], []
    for record in kept_records(folder.records()):
        try:
            triggers.append(read_trigger(path, record))
        except RunError as error:
            unreadable.append(str(error))
    return DistanceFindings(
        path=path,
        manifest=folder.manifest(),
        distances=folder.distances(),
        triggers=tuple(triggers),
        unreadable=tuple(unreadable),
    )


def write_distance_report(found: DistanceFindings) -> list[Path]:
    """Write every table and figure; the paths written.

    They depend on the manifest, the ledger and `triggers/` only, byte for byte.
    """
    deviations = found.stability.deviation_matrix() if found.stability else None
    files = {
        "distance.csv": matrix_csv(found.matrix),
        "distance-std.csv": b"" if deviations is None else matrix_csv(deviations),
        "distance.json": (json.dumps(distance_data(found), indent=2) + "\n").encode(),
        "distance.png": heat_map(found.matrix, found.distances.failed, _title(found), kind="png"),
        "distance.svg": heat_map(found.matrix, found.distances.failed, _title(found), kind="svg"),
        SHEET: trigger_sheet(found.triggers) if found.triggers else b"",
    }
    return write_report(found.path, files)


def matrix_csv(matrix: FloatArray) -> bytes:
    """A matrix `(K, K)` with a header of classes; NaN is an empty cell."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["source", *range(len(matrix))])
    for source, row in enumerate(matrix):
        writer.writerow([source, *("" if math.isnan(v) else f"{v:.6g}" for v in row)])
    return buffer.getvalue().encode()


def distance_data(found: DistanceFindings) -> dict[str, object]:
    """Everything as data that JSON can hold; figures that do not exist are null."""
    manifest = found.manifest
    return {
        "unit": "sum of the mask over all channels",
        "complete": not found.pending,
        "summary": _finite(asdict(found.summary)),
        "failed_pairs": [list(pair) for pair in found.distances.failed],
        "unreadable_triggers": list(found.unreadable),
        "pending_pairs": [list(pair) for pair in found.pending],
        "stability": _stability_data(found.stability),
        "seconds": found.distances.seconds,
        "protocol": manifest.protocol.model_dump(mode="json"),
        "provenance": manifest.model_dump(mode="json", exclude={"protocol", "pairs"}),
        "pairs": [_pair_data(found, pair) for pair in found.distances.by_pair],
    }


def _pair_data(found: DistanceFindings, pair: Pair) -> dict[str, object]:
    rows = found.distances.by_pair[pair]
    return {
        "source": pair[0],
        "target": pair[1],
        "distance": found.values.get(pair),
        "samples": rows[0].samples,
        "seeds": [{name: getattr(row, name) for name in SEED_FIELDS} for row in rows],
    }


def _stability_data(stability: Stability | None) -> dict[str, object] | None:
    if stability is None:
        return None
    figures = {
        name: getattr(stability, name)
        for name in ("sets", "mean", "mean_deviation", "deviation_of_mean", "invalid")
    }
    deviations = [
        {"source": source, "target": target, "mean": mean, "deviation": deviation}
        for (source, target), mean in stability.means.items()
        for deviation in [stability.deviations[source, target]]
    ]
    return {**_finite(figures), "pairs": [_finite(entry) for entry in deviations]}


def _finite(values: Mapping[str, object]) -> dict[str, object]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _title(found: DistanceFindings) -> str:
    what = "Mean class distance" if found.stability is not None else "Class distance"
    return f"{what} of {visible(found.manifest.name)}"


def summary_lines(found: DistanceFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    manifest, summary, protocol = found.manifest, found.summary, found.manifest.protocol
    seeds = f"{len(protocol.seeds)} seeds"
    if manifest.stability_sets is not None:
        seeds = f"{manifest.stability_sets} sets of images"
    lines = [
        f"class distances of {visible(manifest.name)}: preset {protocol.preset}, {seeds}, "
        f"{count(protocol.samples, 'image')} per source class",
        f"{summary.measured} of {count(summary.pairs, 'pair')} have a distance, "
        f"{len(found.distances.failed)} failed, {len(found.pending)} pending",
    ]
    if summary.smallest_pair and summary.largest_pair:
        lines += [
            f"mean {summary.mean:.2f}, median {summary.median:.2f}, smallest "
            f"{summary.smallest:.2f} ({_named(summary.smallest_pair)}), largest "
            f"{summary.largest:.2f} ({_named(summary.largest_pair)}); sum of the mask over "
            "all channels"
        ]
    return [*lines, *_stability_lines(found.stability), *_remarks(found)]


def _stability_lines(stability: Stability | None) -> list[str]:
    if stability is None:
        return []
    return [
        f"over {stability.sets} sets: one pair moves by {number(stability.mean_deviation)} "
        f"(standard deviation, mean of all pairs), the mean of the model by "
        f"{number(stability.deviation_of_mean)}"
    ]


def _remarks(found: DistanceFindings) -> list[str]:
    lines, failed = [], found.distances.failed
    if failed:
        lines.append(
            f"failed: {_listed(failed)}; no seed found a trigger with an ASR of "
            f"{found.manifest.protocol.success_rate:.0%}, and no figure counts them"
        )
    if found.pending:
        lines.append(
            f"pending: {_listed(found.pending)}; to measure them, name them with --pairs, or leave "
            "--pairs out"
        )
    short = found.distances.short_classes(found.manifest.protocol.samples)
    if short:
        named = ", ".join(f"{c} ({n})" for c, n in sorted(short.items()))
        lines.append(f"fewer images than asked for, all were used: class {named}")
    lines += [f"not drawn: {visible(reason)}" for reason in found.unreadable]
    return lines + [f"doubt: {visible(doubt)}" for doubt in found.manifest.doubts]


def _listed(pairs: Sequence[Pair]) -> str:
    return few([*map(_named, pairs)])


def _named(pair: Pair) -> str:
    return f"{pair[0]} -> {pair[1]}"
