"""What is left of a backdoor: accuracy and stamped images, before and after a repair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.trigger import Trigger, victims, wanted
from moth_eval.errors import InputError
from moth_eval.metrics import defense_effectiveness, stamped_rates
from moth_eval.removal_records import RatesRecord, VariantRecord
from moth_eval.subject import Examples, Subject

LARGEST_FALL = 0.1
"""Of accuracy, relative to the original's, that an oracle may accept. Source: `acc_ratio` of
BackdoorBench, which chooses thresholds of ANP and RNP by test ASR under it."""

STAMPED_CHANNELS = 3

_BATCH = 256
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class RemovalTest:
    """Test images and the trigger; of a clean control the images alone.

    Attributes:
        test: clean test images, all classes.
        stamped: those of the trigger's victims, stamped; None for a clean control.
        wanted: int64 `(N,)`, what the attacker wants these to be taken for.
    """

    test: Examples
    stamped: Examples | None = None
    wanted: Tensor | None = None

    @property
    def victims(self) -> int:
        """Stamped images."""
        return 0 if self.stamped is None else len(self.stamped)

    def rates(self, subject: Subject) -> RatesRecord:
        """What a model does on these images."""
        accuracy = float((_answers(subject, self.test) == self.test.labels).double().mean())
        if self.stamped is None or self.wanted is None:
            return RatesRecord(accuracy=accuracy)
        found = stamped_rates(
            _answers(subject, self.stamped).cpu().numpy(),
            self.stamped.labels.cpu().numpy(),
            self.wanted.cpu().numpy(),
        )
        return RatesRecord(accuracy=accuracy, asr=found.asr, ra=found.ra)


def removal_test(test: Examples, trigger: Trigger | None, num_classes: int) -> RemovalTest:
    """The test images of the trigger's victims, stamped beside the clean ones.

    Images of the target class are never among them.

    Args:
        test: clean test images.
        trigger: of the attack; None for a clean control.
        num_classes: K.

    Raises:
        InputError: the trigger has no victim among them, or names a class that does not exist, or
            the images have other channels than attacks stamp.
    """
    if trigger is None:
        return RemovalTest(test=test)
    if max((trigger.target, *trigger.sources)) >= num_classes:
        raise InputError(
            f"the attack names class {max((trigger.target, *trigger.sources))}, the model has the "
            f"classes 0 to {num_classes - 1}: correct its attack.json"
        )
    if test.images.shape[1] != STAMPED_CHANNELS:
        raise InputError(
            f"attacks stamp images of {STAMPED_CHANNELS} channels, those of the model have "
            f"{test.images.shape[1]}: its attack.json cannot be measured"
        )
    rows = victims(trigger, test.labels).nonzero().flatten()
    if not len(rows):
        raise InputError(
            "the test images hold none of the classes that the attack moves: give others (--test)"
        )
    parts = [trigger.stamp(part) for part in torch.split(test.images[rows], _BATCH)]
    labels = test.labels[rows]
    return RemovalTest(
        test=test,
        stamped=Examples(images=torch.cat(parts), labels=labels),
        wanted=wanted(trigger, labels, num_classes),
    )


def effectiveness(before: RatesRecord, after: RatesRecord) -> float | None:
    """The DER of a repair; None for a clean control."""
    if before.asr is None or after.asr is None:
        return None
    return defense_effectiveness(
        accuracy_before=before.accuracy,
        accuracy_after=after.accuracy,
        asr_before=before.asr,
        asr_after=after.asr,
    )


def chosen_by_oracle(
    candidates: Sequence[VariantRecord], before: RatesRecord
) -> VariantRecord | None:
    """The candidate with the lowest ASR on the test images that still classifies; None if none.

    This looks at the answer: what it chooses is a bound on what any selection can reach, and is
    labelled so.

    Args:
        candidates: measured; of equal ones the first is chosen.
        before: the original, whose accuracy may fall by `LARGEST_FALL` of itself.
    """
    most = LARGEST_FALL * before.accuracy + _ROUNDING
    kept = [one for one in candidates if before.accuracy - one.rates.accuracy <= most]
    return min(kept, key=lambda one: one.rates.asr or 0.0, default=None)


def _answers(subject: Subject, examples: Examples) -> Tensor:
    return subject.logits(examples.images).argmax(dim=1)
