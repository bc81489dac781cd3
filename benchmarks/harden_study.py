"""One model, one hardener: train, measure before and after, leave the new model and its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moth_eval.hardening import Hardening, LogEntry
from moth_eval.hardening_records import (
    CARD,
    CARD_TEXT,
    LOG,
    MEASURED,
    TRAINED,
    WEIGHTS,
    HardeningCard,
    TrainedRecord,
    read_record,
)
from moth_eval.loading.files import sha256_of
from moth_eval.records import MANIFEST, Record, write_whole
from moth_eval.runner import run_hardening
from moth_eval.subject import Subject

from .harden_card import card_text
from .harden_journal import DiskJournal, write_log
from .harden_measure import Measurements, accuracy_record, distance_change
from .harden_plan import HardenPlan
from .variants import save_variants

Tell = Callable[[str, float | None, str], None]
"""Told of progress: what is going on, which share of it is done (None: unknown), a line on it."""


def carry_out(plan: HardenPlan, *, tell: Tell) -> HardeningCard:
    """Do what is left of a plan; the card.

    A `KeyboardInterrupt` passes through; the folder then holds what was done, and the same study
    continues from there.

    Args:
        plan: from `plan`.
        tell: told of the progress.
    """
    if plan.finished is not None:
        _clear(plan.folder)
        return plan.finished
    _write(plan.folder / MANIFEST, plan.manifest)
    measured = Measurements(plan.folder / MEASURED, plan.data.test, plan.protocol)
    _measure(plan, measured, plan.subject, tell, "before")
    trained = _trained(plan, tell)
    card = HardeningCard(
        finished=datetime.now(UTC).replace(microsecond=0), run=plan.manifest, training=trained
    )
    if trained.status == "hardened":
        after = plan.reopening.subject(plan.run / WEIGHTS, plan.subject, trained.sha256)
        _measure(plan, measured, after, tell, "after")
        card = _compared(plan, measured, after, card)
    write_whole(plan.run / CARD_TEXT, card_text(card).encode())
    _write(plan.run / CARD, card)
    if trained.status == "hardened":
        _clear(plan.folder)
    return card


def rounds_of(parameters: Mapping[str, Any]) -> int | None:
    """Rounds that a method with these parameters does at most; None if it does not say."""
    counts = [parameters.get(name, 0) for name in ("warm_up_rounds", "rounds")]
    return sum(n for n in counts if isinstance(n, int)) or None


def _measure(
    plan: HardenPlan, measured: Measurements, subject: Subject, tell: Tell, side: str
) -> None:
    """Measure what is not measured yet of a model; `_compared` then finds it kept."""
    accuracy = float(measured.right(subject).float().mean())
    tell(f"accuracy {side}", 1.0, f"{accuracy:.2%} on {len(plan.data.test)} test images")
    if plan.manifest.pairs:
        pairs = f"{len(plan.manifest.pairs)} pairs"
        measured.distances(
            subject,
            plan.manifest.pairs,
            on_share=lambda share: tell(f"distances {side}", share, pairs),
        )


def _compared(
    plan: HardenPlan, measured: Measurements, after: Subject, card: HardeningCard
) -> HardeningCard:
    accuracy = accuracy_record(measured.right(plan.subject), measured.right(after))
    distance = None
    if plan.manifest.pairs:
        sides = [
            measured.distances(one, plan.manifest.pairs, on_share=lambda share: None)
            for one in (plan.subject, after)
        ]
        distance = distance_change(*sides, seed=plan.manifest.seed)
    update = {"accuracy": accuracy, "distance": distance, "notes": tuple(_notes(plan))}
    return card.model_copy(update=update)


def _trained(plan: HardenPlan, tell: Tell) -> TrainedRecord:
    """How the training ended, now or in an earlier sitting; its model is then on disk."""
    path, weights = plan.folder / TRAINED, plan.run / WEIGHTS
    if path.is_file():
        kept = read_record(path, TrainedRecord)
        if weights.is_file() and sha256_of(weights) == kept.sha256:
            return kept
    journal = DiskJournal(plan.folder, on_entry=lambda entry: _tell_round(plan, tell, entry))
    if journal.entries:
        _tell_round(plan, tell, journal.entries[-1], said="continuing after ")
    done = run_hardening(
        plan.hardener,
        plan.subject,
        plan.data.training,
        name=plan.manifest.method,
        seed=plan.manifest.seed,
        journal=journal,
    )
    log = done.log or tuple(journal.entries)
    write_log(plan.run / LOG, log)
    record = _record_of(plan, done, rounds=len(log))
    if record.status == "hardened":
        _write(path, record)
    return record


def _record_of(plan: HardenPlan, done: Hardening, *, rounds: int) -> TrainedRecord:
    """What is kept of a hardening, after its model was written."""
    record = TrainedRecord(
        status=done.status.value,
        reason=done.reason,
        sha256="",
        rounds=rounds,
        images_used=done.images_used,
        pair_counts=_sparse(done),
        forward_passes=done.cost.forward_passes,
        backward_passes=done.cost.backward_passes,
        seconds=done.cost.seconds,
        peak_memory_bytes=done.cost.peak_memory_bytes,
    )
    if done.module is None:
        return record
    plan.reopening.save(plan.run / WEIGHTS, done.module)
    if plan.variants:
        save_variants(plan.run, plan.reopening, done)
    return record.model_copy(update={"sha256": sha256_of(plan.run / WEIGHTS)})


def _sparse(done: Hardening) -> tuple[tuple[int, int, int], ...]:
    if done.pair_counts is None:
        return ()
    rows = done.pair_counts.nonzero().tolist()
    return tuple((a, b, int(done.pair_counts[a, b])) for a, b in rows)


def _tell_round(plan: HardenPlan, tell: Tell, entry: LogEntry, *, said: str = "") -> None:
    parameters = plan.manifest.parameters
    rounds, limit = rounds_of(parameters), parameters.get("seconds")
    shares = [entry.round / rounds] if rounds else []
    shares += [entry.seconds / limit] if limit else []
    distance = "" if entry.distance is None else f", distance {entry.distance:.1f}"
    line = f"{said}{entry.phase}, round {entry.round}: loss {entry.loss:.3f}{distance}"
    tell("training", min(1.0, max(shares)) if shares else None, line)


def _notes(plan: HardenPlan) -> list[str]:
    """What speaks against the figures."""
    data, notes = plan.manifest.data, list(plan.subject.doubts)
    if data.in_both:
        notes.append(f"{data.in_both} of {data.tested} test images are training images as well")
    absent = [k for k, count in enumerate(data.training_per_class) if not count]
    if absent:
        notes.append(f"classes without training images: {', '.join(map(str, absent))}")
    asked = plan.protocol.samples
    sources = {source for source, _ in plan.manifest.pairs}
    short = [k for k in sources if data.test_per_class[k] < asked]
    if short:
        notes.append(
            f"{len(short)} of {len(sources)} source classes have fewer than {asked} test images: "
            "their distances rest on fewer and tend to be smaller for it, before and after"
        )
    return notes


def _write(path: Path, record: Record) -> None:
    write_whole(path, record.model_dump_json(indent=2).encode() + b"\n")


def _clear(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
