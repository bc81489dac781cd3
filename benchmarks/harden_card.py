"""The card of a hardening for people: a page of Markdown made from its record."""

from __future__ import annotations

import re
from collections.abc import Sequence

from moth_eval.hardening_records import (
    AccuracyRecord,
    DistanceChange,
    HardeningCard,
    HardeningManifest,
    IncreaseRecord,
    IntervalRecord,
    TrainedRecord,
)
from moth_eval.text import markdown, markdown_code, visible

MOST_FAILED = 20
"""Failed pairs that are listed by name; the record holds them all."""


def card_text(card: HardeningCard) -> str:
    """The page."""
    run, training = card.run, card.training
    parts = [
        f"# {markdown(run.name)}, {_outcome(training)} {markdown(run.method)}",
        *_reason(training),
        _table(
            ("what", "value"),
            [
                ("original", f"{markdown_code(run.model)}, SHA-256 `{run.sha256}`"),
                ("result", f"SHA-256 `{training.sha256}`" if training.sha256 else "none"),
                ("network", f"{markdown(run.architecture)}, {run.num_classes} classes"),
                ("method", f"{run.method}, seed {run.seed}"),
                (_use(training), _drawn(run)),
                ("tested on", _tested_on(run, training)),
                ("training", f"{training.rounds} rounds, {training.seconds:.0f} s on {run.device}"),
                (
                    "passes",
                    f"{training.forward_passes:,} images forward, "
                    f"{training.backward_passes:,} backward",
                ),
            ],
        ),
    ]
    if card.accuracy is not None:
        parts += ["## Accuracy", _accuracy(card.accuracy)]
    if card.distance is not None:
        parts += ["## Class distance", *_distance(card.distance, run)]
    if card.notes:
        parts += ["## What speaks against these figures", _list(card.notes)]
    parts += ["## Parameters", _table(("parameter", "value"), list(run.parameters.items()))]
    return "\n\n".join(parts) + "\n"


def summary_lines(card: HardeningCard) -> list[str]:
    """The card in a few lines for a terminal."""
    run, training = card.run, card.training
    if card.accuracy is None:
        return [visible(f"{run.name}: {run.method} {training.status}: {training.reason}")]
    accuracy = card.accuracy
    lines = [
        visible(f"{run.name}: hardened with {run.method} in {training.seconds:.0f} s"),
        f"accuracy {accuracy.before:.2%} -> {accuracy.after:.2%} on {accuracy.n} test images, "
        f"difference {_bounds(accuracy.difference)}, p = {accuracy.p_value:.2g}",
    ]
    if card.distance is not None:
        lines.append(_distance_line(card.distance))
    remarks = [training.reason] if training.reason else []
    return [*lines, *(visible(f"note: {note}") for note in [*remarks, *card.notes])]


def _outcome(training: TrainedRecord) -> str:
    """What became of the model, up to the name of the method."""
    if training.status == "hardened":
        return "hardened with"
    return "not hardened, as it failed:" if training.status == "failed" else "not hardened by"


def _reason(training: TrainedRecord) -> list[str]:
    """Why there is no model, or what the method remarks on the one that it left."""
    if training.status == "hardened":
        return [f"Note: {markdown(training.reason)}"] if training.reason else []
    return [f"**{training.status}**: {markdown(training.reason)}"]


def _use(training: TrainedRecord) -> str:
    """What became of the drawn images; a method that breaks off or looks at none trains on none."""
    trained = training.status == "hardened" and training.images_used
    return "trained on" if trained else "given to the method"


def _drawn(run: HardeningManifest) -> str:
    data = run.data
    rest = "the data" if data.held_out is None else "what was not held out"
    return (
        f"{data.training} of {data.given} images, {data.share:.3g} of each class of {rest}: "
        f"{markdown_code(data.data)}"
    )


def _tested_on(run: HardeningManifest, training: TrainedRecord) -> str:
    data = run.data
    again = f"{data.in_both} of them {_use(training)} as well" if data.in_both else ""
    if data.held_out is None:
        return f"{data.tested} images, {again or 'never trained on'}: {markdown_code(data.test)}"
    share, seen = f"{data.held_out:.3g} of each class", f"; {again}" if again else ""
    return f"{data.tested} images, {share}, held out of the data{seen or ' and never trained on'}"


def _accuracy(accuracy: AccuracyRecord) -> str:
    return (
        f"{accuracy.before:.2%} before, {accuracy.after:.2%} after, on the same {accuracy.n} test "
        f"images: {accuracy.lost} lost, {accuracy.gained} gained. Difference "
        f"{_bounds(accuracy.difference)} ({accuracy.difference.method}, 95 %); "
        f"p = {accuracy.p_value:.2g} (exact McNemar test)."
    )


def _distance(change: DistanceChange, run: HardeningManifest) -> list[str]:
    protocol = run.protocol
    parts = [
        f"{len(change.pairs)} pairs, preset `{protocol.preset}`, at most {protocol.samples} test "
        f"images per source class, inversions per pair: {len(protocol.seeds)}; sum of the mask "
        "over all channels.",
        _table(
            ("", "before", "after"),
            [
                ("mean distance", _number(change.mean_before), _number(change.mean_after)),
                ("pairs without a trigger", len(change.failed_before), len(change.failed_after)),
            ],
        ),
    ]
    return [
        *parts,
        _increase(change.increase),
        *_failed("before", change.failed_before),
        *_failed("after", change.failed_after),
    ]


def _increase(increase: IncreaseRecord | None) -> str:
    if increase is None:
        return "No pair has a distance above 0 before and one after, so there is no increase."
    rows = [
        ("mean of ratios", increase.mean_of_ratios, increase.mean_of_ratios_interval),
        ("ratio of means", increase.ratio_of_means, increase.ratio_of_means_interval),
    ]
    cells = [(name, f"{value:+.1%}", _bounds(bounds)) for name, value, bounds in rows]
    return _table(("increase", f"over {increase.pairs} pairs", "95 % interval"), cells)


def _failed(side: str, pairs: tuple[tuple[int, int], ...]) -> list[str]:
    if not pairs:
        return []
    shown = ", ".join(f"{a} to {b}" for a, b in pairs[:MOST_FAILED])
    more = f" and {len(pairs) - MOST_FAILED} more" if len(pairs) > MOST_FAILED else ""
    return [f"Without a trigger {side}: {shown}{more}."]


def _distance_line(change: DistanceChange) -> str:
    line = (
        f"distance {_number(change.mean_before)} -> {_number(change.mean_after)} over "
        f"{len(change.pairs)} pairs; failed {len(change.failed_before)} before, "
        f"{len(change.failed_after)} after"
    )
    if change.increase is None:
        return f"{line}; no pair has a distance above 0 before and one after"
    bounds = _bounds(change.increase.mean_of_ratios_interval)
    return f"{line}; increase {change.increase.mean_of_ratios:+.1%} {bounds}"


def _bounds(interval: IntervalRecord | None) -> str:
    return "none" if interval is None else f"[{interval.low:+.1%}, {interval.high:+.1%}]"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _list(lines: tuple[str, ...]) -> str:
    return "\n".join(f"* {markdown(line)}" for line in lines)


def _cell(value: object) -> str:
    """Text that stays in its cell of a table, escaped already or not."""
    return re.sub(r"(?<!\\)\|", r"\\|", visible(str(value)))
