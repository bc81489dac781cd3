"""What a false-positives study found, in a few plain lines for a terminal."""

from __future__ import annotations

from moth_eval.text import visible

from .false_positives import FalsePositivesFindings, GroupLine, ModelLine, group_row, rate
from .wording import count, few, number

_MEANING = {"clean": "false positives", "backdoored": "true positives"}
_ANSWERS = ("no first answer", "not hardened", "no second answer")


def false_positives_lines(found: FalsePositivesFindings) -> list[str]:
    """The summary, one string per line, without colour or control characters."""
    manifest = found.manifest
    data = "each model's own clean examples" if not manifest.data else manifest.data
    return [
        visible(
            f"{count(len(found.models), 'model')} under {manifest.scanner}, flagged ones hardened "
            f"with {manifest.method}"
        ),
        visible(f"threshold {found.origin}, fixed before the scan"),
        visible(f"images: {data}; {manifest.share:.3g} of each class of what is not held out"),
        "new models are scanned on the same examples as before"
        + ("" if manifest.data else ", those that they were trained on among them"),
        "",
        *(line for group in found.groups for line in _group(group)),
        *_unanswered(found.models),
        *_remarks(found),
    ]


def _group(group: GroupLine) -> list[str]:
    n, row = len(group.answered), group_row(group)
    what = _MEANING.get(group.name, "flagged")
    name = f"{group.name}, {what}"
    if not n:
        return [f"{name}: no model with an answer before and after"]
    lines = [f"{name}: {_rate(group.before, n)} before, {_rate(group.after, n)} after hardening"]
    if group.looked_again:
        left = "" if group.again is None else f" and leaves {_rate(group.again, n)}"
        lines.append(
            f"  a second look under another seed, without hardening, clears {group.by_chance} of "
            f"{len(group.looked_again)}{left}; hardening against that: "
            f"p = {number(group.against_second_look, 2)} (exact McNemar)"
        )
    if row["hardened"]:
        lines.append(
            f"  accuracy of {count(int(row['hardened']), 'hardened model')} on held-out images: "
            f"{_percent(row['accuracy_before'])} before, {_percent(row['accuracy_after'])} after; "
            f"change over these and {row['untouched']} untouched: "
            f"{_percent(row['change_of_all'], sign=True)}"
        )
    return lines


def _rate(flagged: int, n: int) -> str:
    bounds = rate(flagged, n)
    assert bounds is not None  # noqa: S101 - n is above 0
    return f"{flagged}/{n} ({bounds.low:.0%} to {bounds.high:.0%})"


def _percent(value: object, *, sign: bool = False) -> str:
    if not isinstance(value, float):
        return "–"
    return f"{value:+.2%}" if sign else f"{value:.2%}"


def _unanswered(models: tuple[ModelLine, ...]) -> list[str]:
    lines = []
    for verdict in _ANSWERS:
        named = [visible(m.before.model) for m in models if m.verdict == verdict]
        if named:
            lines.append(f"{verdict}, in no rate: {few(named)}")
    return lines


def _remarks(found: FalsePositivesFindings) -> list[str]:
    lines = [f"note: {visible(m.before.model)}: {m.note}" for m in found.models if m.note]
    if not any(m.before.truth for m in found.models):
        lines.append("note: no ground truth, so flagged models are counted without a judgement")
    if len(found.cuts) > 1:
        lines.append("note: the scanner states different cuts for different models")
    if found.pending:
        lines.append(f"pending: {count(len(found.pending), 'model')}; the same command goes on")
    return lines
