"""What speaks against the figures of a run; shown before any figure is."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moth_eval.scan_doubts import LOW_ACCURACY

from .evaluation import AtCut, Evaluation, is_whole
from .rows import PENDING, Row, Run
from .wording import STATUS_WORDS, count, percent, span

WIDE_INTERVAL = 0.2
"""A ROC area known no better than this cannot tell most scanners apart."""

HIGH_FALSE_ALARM_RATE = 0.055
"""A cut that flags 5 % by simulation is found to flag a little more or less."""


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """One reason to read the figures with care.

    Attributes:
        serious: whether the figures themselves are at stake, or it is only worth knowing.
        title: a few words.
        detail: what it means, in a sentence or two.
        models: the models concerned, if it is about some of them.
    """

    serious: bool
    title: str
    detail: str
    models: tuple[str, ...] = ()


def find_doubts(run: Run, lines: Sequence[Evaluation]) -> list[Doubt]:
    """Every doubt about a run, the serious ones first.

    Args:
        run: the run.
        lines: its metrics.
    """
    whole = [line for line in lines if is_whole(line)]
    found = [
        *_incomplete(run),
        *_unanswered(run),
        *_figures(whole),
        *_accuracy(run),
        *_of_records(run),
        *_copies(run),
        *_errata(run),
    ]
    return sorted(found, key=lambda doubt: not doubt.serious)


def picture_doubts(unreadable: dict[tuple[str, str], str]) -> list[Doubt]:
    """The doubt about triggers that cannot be drawn, if there are any.

    Args:
        unreadable: model and scanner -> why not.
    """
    if not unreadable:
        return []
    doubt = Doubt(
        serious=False,
        title=f"Triggers of {count(len(unreadable), 'scan')} cannot be drawn",
        detail=_sentence(next(iter(unreadable.values()))),
        models=tuple(dict.fromkeys(model for model, _ in unreadable)),
    )
    return [doubt]


def _incomplete(run: Run) -> Iterator[Doubt]:
    pending = [r for r in run.rows if r.status == PENDING]
    if pending:
        yield Doubt(
            serious=True,
            title=f"The run is not complete: {len(pending)} of {count(len(run.rows), 'scan')} "
            "are missing",
            detail="Every figure below is about the finished scans only and may change. Run the "
            "same command again to finish the rest.",
            models=_names(pending),
        )


def _unanswered(run: Run) -> Iterator[Doubt]:
    for scanner in run.scanners:
        rows = [r for r in run.of(scanner) if r.record and r.score is None]
        counts = Counter(r.status for r in rows)
        if rows:
            parts = (f"{n} {STATUS_WORDS[s]}" for s, n in sorted(counts.items(), key=_often_first))
            yield Doubt(
                serious=True,
                title=f"{scanner} gave no score for {count(len(rows), 'model')}: "
                + ", ".join(parts),
                detail="They are not behind the ROC, and count as a coin toss in the "
                f"cross-entropy. {_common_reason(rows)}",
                models=_names(rows),
            )


def _common_reason(rows: Sequence[Row]) -> str:
    reasons = Counter(r.record.reason for r in rows if r.record)
    common, times = min(reasons.items(), key=_often_first)
    if len(reasons) == 1:
        return f"Reason: {common}"
    which = "One of the reasons" if times == 1 else f"Most common reason ({times} of {len(rows)})"
    return f"{which}: {common}"


def _often_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _figures(lines: Sequence[Evaluation]) -> Iterator[Doubt]:
    for line in lines:
        found = line.discrimination
        if found is None:
            yield Doubt(
                serious=True,
                title=f"How well {line.scanner} tells clean from backdoored models is not known",
                detail=_sentence(line.note),
            )
        elif found.interval.width > WIDE_INTERVAL:
            yield Doubt(
                serious=True,
                title=f"The ROC area of {line.scanner} rests on {line.scored_clean} clean and "
                f"{line.scored_poisoned} backdoored models",
                detail=f"Its 95 % interval, {span(found.interval)}, is {found.interval.width:.2f} "
                "wide: a scanner whose area lies inside it cannot be told from this one.",
            )
        if line.cut is not None:
            yield from _of_cut(line.scanner, line.cut)


def _of_cut(scanner: str, cut: AtCut) -> Iterator[Doubt]:
    rate, advice = cut.false_alarm_rate, "Take a score above it as a reason to look, not a verdict."
    if rate is None:
        yield Doubt(
            serious=True,
            title=f"How many clean models the cut of {scanner} flags is not known",
            detail=f"{_sentence(cut.source)}. {advice}",
        )
    elif rate > HIGH_FALSE_ALARM_RATE:
        yield Doubt(
            serious=True,
            title=f"The cut of {scanner} flags about {percent(rate)} of clean models",
            detail=f"By simulation: {cut.source}. {advice}",
        )


def _accuracy(run: Run) -> Iterator[Doubt]:
    low = [
        r
        for r in run.rows
        if r.record
        and r.record.clean_accuracy is not None
        and r.record.clean_accuracy < LOW_ACCURACY
    ]
    if low:
        yield Doubt(
            serious=True,
            title=f"{count(len(set(_names(low))), 'model')} classified fewer than "
            f"{percent(LOW_ACCURACY)} of the clean examples rightly",
            detail="The preprocessing may be wrong, or the examples not the ones the model was "
            "made for; scores of such a model mean little.",
            models=_names(low),
        )


def _of_records(run: Run) -> Iterator[Doubt]:
    """Doubts of single scans, those that differ in numbers only taken together."""
    rows: dict[str, list[Row]] = defaultdict(list)
    first: dict[str, str] = {}
    for row in run.rows:
        for text in row.doubts:
            kind = re.sub(r"\d+(\.\d+)?", "0", text)
            rows[kind].append(row)
            first.setdefault(kind, text)
    for kind, concerned in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0])):
        names = tuple(dict.fromkeys(_names(concerned)))
        more = "" if len(names) == 1 else f", here in the words of {names[0]}"
        yield Doubt(
            serious=True,
            title=_sentence(first[kind]),
            detail=f"Remarked on {count(len(names), 'model')}{more}.",
            models=names,
        )


def _copies(run: Run) -> Iterator[Doubt]:
    names: dict[str, list[str]] = defaultdict(list)
    for entry in run.manifest.entries:
        if entry.sha256:  # a file that cannot be read has none
            names[entry.sha256].append(entry.name)
    copies = [name for group in names.values() if len(group) > 1 for name in group]
    if copies:
        yield Doubt(
            serious=True,
            title=f"{count(len(copies), 'model')} are copies of one another",
            detail="Files with equal hashes count as several models; intervals that take them "
            "for independent are too narrow.",
            models=tuple(copies),
        )


def _errata(run: Run) -> Iterator[Doubt]:
    excluded = [e for e in run.manifest.entries if e.truth and e.truth.errata]
    if excluded:
        yield Doubt(
            serious=False,
            title=f"{count(len(excluded), 'model')} left out of all figures by an erratum",
            detail="They are scanned and listed, but their truth is disputed: "
            + "; ".join(sorted({e.truth.errata for e in excluded if e.truth})),
            models=tuple(e.name for e in excluded),
        )


def _names(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.model for r in rows))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
