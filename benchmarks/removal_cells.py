"""One repair of a study: the method sees a model and clean images; what is left is measured here.

The ground truth is read by this module and never handed to a method.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from attacks.trigger import Threat, Trigger
from moth_eval.errors import InputError, MothError, RunError
from moth_eval.hardening_cells import CellOutcome
from moth_eval.hardening_records import WEIGHTS, HardeningCard, read_record
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import sha256_of
from moth_eval.loading.rounds import RoundModel
from moth_eval.loading.sources import TorchvisionSet
from moth_eval.loading.stacking import Size
from moth_eval.loading.subjects import open_subject
from moth_eval.metrics import IMPLANTED_ASR
from moth_eval.records import canonical, write_whole
from moth_eval.removal_records import (
    REMOVAL,
    SELECTION,
    TARGET,
    VARIANTS,
    BeforeRecord,
    FloorRecord,
    RatesRecord,
    RemovalCard,
    RemovalState,
    VariantRecord,
    read_removal,
)
from moth_eval.subject import Subject

from .cells import Cell, finish, outcome_of_errors, planned
from .harden_plan import HardenPlan, HardenStudy
from .reactivation import Reactivation
from .removal_measure import (
    LARGEST_FALL,
    RemovalTest,
    chosen_by_oracle,
    effectiveness,
    removal_test,
)
from .removal_models import read_trigger
from .sittings import waiting_for
from .supervisor import Place, Tell
from .variants import drop_variants, read_variants


@dataclass(frozen=True, kw_only=True)
class RemovalCell:
    """One model under one method and seed, and what only the study knows of the model.

    Attributes:
        cell: what the method is given.
        artefact: folder of the model's `attack.json`; None for a clean control.
        control: a clean model of the same task; None if there is none.
        reactivation: whether and how a repaired model is fine-tuned on poisoned images.
        oracle: `selection` or `target` if the method is told of the truth, else empty.
        not_implanted: why the model is not scored, as far as its record tells.
    """

    cell: Cell
    artefact: Path | None
    control: RoundModel | None
    reactivation: Reactivation
    oracle: str = ""
    not_implanted: str = ""

    @property
    def study(self) -> HardenStudy:
        """What the method does; its folder is the cell's."""
        return self.cell.study

    @property
    def model(self) -> str:
        """Name of the model in tables."""
        return self.cell.model

    @property
    def method(self) -> str:
        """As it was asked for."""
        return self.cell.method

    @property
    def problem(self) -> str:
        """Why the model cannot be repaired; empty if nothing is known."""
        return self.cell.problem

    @property
    def label(self) -> str:
        """What the cell is called in logs."""
        return self.cell.label

    @property
    def state(self) -> RemovalState:
        """How it stands on disk."""
        return read_removal(
            self.study.run,
            model=self.model,
            sha256=self.cell.sha256,
            method=self.method,
            seed=self.study.seed,
        )


def remove(cell: RemovalCell, place: Place, tell: Tell) -> CellOutcome | None:
    """Carry out a cell here and now; its folder then holds the card, or it is said why not.

    Args:
        cell: what to do.
        place: where.
        tell: told of the progress.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
    """
    started = time.monotonic()
    with outcome_of_errors() as ended:
        plan = planned(cell.study, place)
        _refuse_overlap(plan, cell)
        trigger = None if cell.artefact is None else read_trigger(cell.artefact)
        bench = _Bench(cell=cell, plan=plan, trigger=trigger)
        before = bench.before()
        tell("before", 1.0, _in_words(before.rates))
        status, reason = bench.unscored(before)
        if not status:
            card = finish(plan, cell.cell.originals, tell)
            if card.training.status == "hardened":
                status, reason = bench.measure(card, before, tell)
        if status:
            seconds = time.monotonic() - started
            values = {"status": status, "reason": reason, "seconds": seconds}
            return CellOutcome.model_validate(values)
    return ended.outcome


def _refuse_overlap(plan: HardenPlan, cell: RemovalCell) -> None:
    data = plan.manifest.data
    if data.in_both and not isinstance(cell.study.data, TorchvisionSet):
        raise InputError(
            f"{data.in_both} of {data.tested} test images are, pixel by pixel, among the clean "
            "images that the method is given: take them out of --data or --test"
        )


class _Bench:
    """Everything that measuring one cell needs."""

    def __init__(self, *, cell: RemovalCell, plan: HardenPlan, trigger: Trigger | None) -> None:
        self._cell, self._plan, self._trigger = cell, plan, trigger
        self._test: RemovalTest = removal_test(plan.data.test, trigger, plan.subject.num_classes)

    def before(self) -> BeforeRecord:
        """The original on the test images; measured unless another cell did so."""
        plan, cell = self._plan, self._cell
        attack = "" if cell.artefact is None else sha256_of(cell.artefact / "attack.json")
        again = cell.reactivation if cell.reactivation.images else None
        what = {
            "model": plan.manifest.sha256,
            "training": plan.manifest.data.training_sha256 if again else "",
            "seed": plan.manifest.seed if again else None,
            "test": plan.manifest.data.test_sha256,
            "attack": attack,
            "control": "" if cell.control is None else str(cell.control.file),
            "reactivation": None if again is None else asdict(again),
            "normalisation": plan.manifest.normalisation,
            "device": plan.manifest.device,
            "versions": plan.manifest.versions,
        }
        name = hashlib.sha256(canonical(what).encode()).hexdigest()[:32]
        path = cell.cell.originals / f"{name}.json"
        with waiting_for(path.with_suffix(".lock")):  # of a cell that measures the same
            if path.is_file():
                return read_record(path, BeforeRecord)
            record = self._measured_before()
            write_whole(path, record.model_dump_json(indent=2).encode() + b"\n")
        return record

    def unscored(self, before: BeforeRecord) -> tuple[str, str]:
        """Status and reason of a cell that is not worth carrying out; two empty texts if it is."""
        asr = before.rates.asr
        if asr is not None and asr < IMPLANTED_ASR:
            reason = (
                f"ASR of the original is {asr:.1%} on {before.victims} stamped test images: below "
                f"{IMPLANTED_ASR:.0%} there is nothing to remove"
            )
            return "not-implanted", reason
        if self._cell.oracle and self._trigger is None:
            return "inapplicable", "a clean control has no truth that an oracle could look at"
        everywhere = self._trigger is not None and self._trigger.threat is Threat.ALL_TO_ALL
        if self._cell.oracle == TARGET and everywhere:
            return "inapplicable", "an all-to-all attack has no single target to be told of"
        return "", ""

    def measure(self, card: HardeningCard, before: BeforeRecord, tell: Tell) -> tuple[str, str]:
        """Measure every network that a method left, and write the card; status if there is none."""
        run, listed = self._plan.run, read_variants(self._plan.run)
        files = [(one, f"{VARIANTS}/{one.file}") for one in listed.variants]
        if self._cell.oracle == SELECTION:
            candidates = [
                self._variant(one.name, file, one.sha256, before, SELECTION)
                for one, file in files
                if one.kind == "candidate"
            ]
            chosen = chosen_by_oracle(candidates, before.rates)
            if chosen is None:
                share = f"{100 * (1 - LARGEST_FALL):.0f} %"
                return "failed", (
                    f"none of {len(candidates)} candidates keeps {share} of the accuracy of the "
                    "original, so the oracle has none to choose"
                )
            rows = [chosen.model_copy(update={"name": ""})]
        else:
            own = card.training.sha256
            rows = [self._variant("", WEIGHTS, own, before, self._cell.oracle)]
        rows += [
            self._variant(one.name, file, one.sha256, before, self._by_target())
            for one, file in files
            if one.kind == "byproduct"
        ]
        tell("after", 1.0, _in_words(rows[0].rates))
        made = self._card(card, before, [self._reactivated(row) for row in rows], listed.figures)
        write_whole(run / REMOVAL, made.model_dump_json(indent=2).encode() + b"\n")
        drop_variants(run, {row.sha256 for row in rows})
        return "", ""

    def _by_target(self) -> str:
        return TARGET if self._cell.oracle == TARGET else ""

    def _card(
        self,
        card: HardeningCard,
        before: BeforeRecord,
        rows: list[VariantRecord],
        figures: dict[str, float],
    ) -> RemovalCard:
        data = card.run.data
        notes = [card.training.reason, *card.notes, *before.notes, self._too_few()]
        return RemovalCard(
            finished=datetime.now(UTC).replace(microsecond=0),
            sha256=card.run.sha256,
            seed=card.run.seed,
            images_used=card.training.images_used,
            training_sha256=data.training_sha256,
            test_sha256=data.test_sha256,
            seconds=card.training.seconds,
            before=before,
            variants=tuple(rows),
            figures=figures,
            notes=tuple(dict.fromkeys(filter(None, notes))),
        )

    def _variant(
        self, name: str, file: str, sha256: str, before: BeforeRecord, oracle: str
    ) -> VariantRecord:
        rates = self._test.rates(self._opened(file, sha256))
        return VariantRecord(
            name=name,
            file=file,
            sha256=sha256,
            rates=rates,
            der=effectiveness(before.rates, rates),
            oracle=oracle,
        )

    def _reactivated(self, row: VariantRecord) -> VariantRecord:
        again = self._after_reactivation(self._opened(row.file, row.sha256))
        return row.model_copy(update={"reactivated": again})

    def _after_reactivation(self, subject: Subject) -> RatesRecord | None:
        reactivation = self._cell.reactivation
        if self._trigger is None or not reactivation.images or self._too_few():
            return None
        clean, seed = self._plan.data.training, self._plan.manifest.seed
        return self._test.rates(reactivation.attempt(subject, clean, self._trigger, seed=seed))

    def _too_few(self) -> str:
        """Why a re-activation that was asked for cannot be tried; empty if it can."""
        if self._trigger is None:
            return ""
        return self._cell.reactivation.shortage(self._plan.data.training, self._trigger)

    def _opened(self, file: str, sha256: str) -> Subject:
        """The network in a file that was written, which is the one that others will use."""
        path = self._plan.run / file
        if not path.is_file() or sha256_of(path) != sha256:
            raise RunError(f"{path} is missing or was altered since it was written")
        return self._plan.reopening.subject(path, self._plan.subject, sha256)

    def _measured_before(self) -> BeforeRecord:
        floor, notes = None, list(self._few_classes())
        if self._trigger is not None and self._cell.control is not None:
            try:
                floor = self._floor(self._cell.control)
            except MothError as error:
                notes.append(f"no floor: the clean model cannot be measured ({error})")
        return BeforeRecord(
            sha256=self._plan.manifest.sha256,
            rates=self._test.rates(self._plan.subject),
            tested=len(self._plan.data.test),
            victims=self._test.victims,
            floor=floor,
            notes=tuple(notes),
        )

    def _few_classes(self) -> Iterator[str]:
        trigger, counts = self._trigger, self._plan.manifest.data.test_per_class
        absent = [k for k in trigger.sources if not counts[k]] if trigger else []
        if absent:
            yield f"no test images of the source classes {', '.join(map(str, absent))}"

    def _floor(self, control: RoundModel) -> FloorRecord:
        study, subject = self._cell.study, self._plan.subject
        opened = open_subject(
            control,
            architecture=ArchitectureSource.optional(study.architecture, forbidden=control.file),
            device=subject.examples.images.device,
            require_sandbox=study.require_sandbox,
            size=Size.of(subject),
            select=lambda pictures: pictures.first(1),
        ).subject
        if (opened.num_classes, opened.image_shape) != (subject.num_classes, subject.image_shape):
            raise InputError(f"{control.name} has other classes or images than {subject.name}")
        return FloorRecord(
            model=control.name,
            sha256=opened.sha256,
            rates=self._test.rates(opened),
            reactivated=self._after_reactivation(opened),
        )


def _in_words(rates: RatesRecord) -> str:
    text = f"accuracy {rates.accuracy:.2%}"
    return text if rates.asr is None else f"{text}, ASR {rates.asr:.2%}, RA {rates.ra:.2%}"
