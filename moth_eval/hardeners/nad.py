"""Neural Attention Distillation: a fine-tuned copy teaches the network where to look."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from ..errors import HardeningError
from ..hardening import SILENT, Hardening, HardeningStatus, Journal, Variant, VariantKind
from ..subject import Examples, Subject
from .epochs import pass_over
from .fine_tuning import CLEAN
from .plain_rounds import PlainRounds
from .ranges import require_at_least, require_in
from .stamping import Tally
from .taps import LEAST_TAPS, Taps, find_taps
from .trainer import Recipe

TEACHER = "teacher."

ALIKE = 1e-6
"""Share of the norm of an attention map below which a difference is rounding."""


@dataclass(frozen=True, kw_only=True)
class NAD:
    """Fine-tunes a copy, then the network itself, whose attention has to follow the copy's.

    Source: Li et al., "Neural Attention Distillation", ICLR 2021: weights 500, 1000 and 1000 of the
    three maps, squares of activations, 10 epochs for the teacher, 20 for the student, batches of
    64.

    Differs from the reference: the places where attention is read are found by running the
    network, and a map of one pixel, or of copies of fewer, is refused; learning rate 0.01 for a
    network whose training is unknown (there: 0.1, then 0.01); the last epoch is kept, not one
    chosen by its success rate.

    With `beta=0` schedule and draws are the same, and attention plays no part: what is left is
    fine-tuning of the student alone.

    Attributes:
        teacher_epochs: passes over the images that make the teacher.
        epochs: passes over the images with the student.
        batch: images per optimiser step.
        beta: weight of the attention loss; half of it at the first of three taps.
        power: of the activations.
        taps: names of the modules that are read, joined by `+`; empty: the last of each of the last
            three resolutions.
        recipe: how both are trained.
    """

    teacher_epochs: int = 10
    epochs: int = 20
    batch: int = 64
    beta: float = 1000.0
    power: float = 2.0
    taps: str = ""
    recipe: Recipe = field(default_factory=lambda: CLEAN)

    def __post_init__(self) -> None:
        require_at_least(1, teacher_epochs=self.teacher_epochs, epochs=self.epochs)
        require_at_least(self.recipe.least_images, batch=self.batch)
        require_in("[0, inf)", beta=self.beta)
        require_in("(0, inf)", power=self.power)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network, taught by a fine-tuned one.

        Returns:
            The student; the teacher as a byproduct. Figures: `taps`, and the attention loss without
            its weights, `attention_first` and `attention_last`, a mean over the taps.

        Raises:
            HardeningError: there are no images to train on, a named tap cannot be read, or teacher
                and student do not differ at a tap.
        """
        rounds = PlainRounds(subject, data, self.recipe, generator, journal)
        names = self._taps(subject, data)
        if len(names) < LEAST_TAPS and not self.taps:
            return Hardening(
                status=HardeningStatus.INAPPLICABLE,
                reason=f"attention needs features of more than one pixel at {LEAST_TAPS} "
                f"resolutions, and {len(names)} was found: name taps",
            )
        lesson = _Lesson(self, subject, rounds, names)
        total = self.teacher_epochs + self.epochs

        def one(done: float, tally: Tally) -> None:
            epoch = round(done * total)
            if epoch < self.teacher_epochs:
                self._pass(rounds, tally, len(data), epoch, self.teacher_epochs)
                return
            if epoch == self.teacher_epochs:
                lesson.begin()
            lesson.take(tally, len(data), epoch - self.teacher_epochs)

        hardened = rounds.run(total, one, phase="clean images")
        return replace(hardened, variants=(lesson.variant(),), figures=lesson.figures())

    def weights(self, count: int) -> list[float]:
        """Weight of the attention loss at each of so many taps."""
        return [self.beta / 2 if count > LEAST_TAPS and not n else self.beta for n in range(count)]

    def _taps(self, subject: Subject, data: Examples) -> tuple[str, ...]:
        if self.taps:
            return tuple(self.taps.split("+"))
        return find_taps(subject.module, subject.preprocessing(data.images[:1]))

    def _pass(
        self, rounds: PlainRounds, tally: Tally, images: int, epoch: int, epochs: int
    ) -> None:
        pass_over(
            rounds, tally, self.recipe,
            images=images, batch=self.batch, done=epoch / epochs, share=1 / epochs,
        )  # fmt: skip


class _Lesson:
    """The second half: a student under a teacher that no longer changes."""

    def __init__(
        self, settings: NAD, subject: Subject, rounds: PlainRounds, names: Sequence[str]
    ) -> None:
        self._settings = settings
        self._subject = subject
        self._rounds = rounds
        self._names = names

    def begin(self) -> None:
        """The network as it is now becomes the teacher; a new copy of the original learns."""
        state = self._rounds.trainer.finished().state_dict()
        kept = {TEACHER + name: value.detach().clone() for name, value in state.items()}
        self._rounds.extra = {**kept, "attention": torch.zeros(2)}
        self._rounds.begin_again()

    def teacher(self) -> nn.Module:
        extra = self._rounds.extra
        module = deepcopy(self._subject.module)
        state = {n.removeprefix(TEACHER): v for n, v in extra.items() if n.startswith(TEACHER)}
        module.load_state_dict(state)
        return module.eval()

    def take(self, tally: Tally, images: int, epoch: int) -> None:
        """One pass of the student."""
        settings, teacher, student = self._settings, Taps(), Taps()
        weights, losses = settings.weights(len(self._names)), list[float]()

        def apart() -> Tensor:
            with torch.no_grad(), self._rounds.trainer.passes(student.inputs.device):
                module(student.inputs)
            self._rounds.passes[0] += len(student.inputs)
            parts = [
                F.mse_loss(ours, theirs)
                for ours, theirs in zip(student.maps, teacher.maps, strict=True)
            ]
            losses.append(float(sum(parts).detach()) / len(parts))  # type: ignore[union-attr]
            if not epoch and len(losses) == 1:
                self._check_apart(student, teacher)
            return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum()

        module = self.teacher()
        with (
            teacher.on(module, self._names, settings.power),
            student.on(self._rounds.trainer.network, self._names, settings.power),
        ):
            pass_over(
                self._rounds, tally, settings.recipe,
                images=images, batch=settings.batch, done=epoch / settings.epochs,
                share=1 / settings.epochs, added=apart,
            )  # fmt: skip
        self._note(losses, first=not epoch)

    def _check_apart(self, student: Taps, teacher: Taps) -> None:
        """Make sure that there is something to learn at every tap.

        A map that is the same at all places differs by its level at most, which says nothing.
        """
        alike = []
        for name, ours, theirs in zip(self._names, student.maps, teacher.maps, strict=True):
            apart = (ours - theirs).detach().flatten(1)
            if float((apart - apart.mean(1, keepdim=True)).norm(dim=1).max()) <= ALIKE:
                alike.append(name)
        if alike:
            raise HardeningError(
                f"{self._subject.name}: teacher and student look alike at {', '.join(alike)}: "
                "attention cannot teach there; choose other taps"
            )

    def _note(self, losses: Sequence[float], *, first: bool) -> None:
        before = self._rounds.extra["attention"]
        start = losses[0] if first else float(before[0])
        self._rounds.extra["attention"] = torch.tensor([start, losses[-1]])

    def variant(self) -> Variant:
        """The teacher, to be looked at: one that keeps the backdoor teaches it again."""
        return Variant(kind=VariantKind.BYPRODUCT, name="teacher", module=self.teacher())

    def figures(self) -> dict[str, float]:
        first, last = self._rounds.extra["attention"].tolist()
        return {
            "taps": float(len(self._names)), "attention_first": first, "attention_last": last,
        }  # fmt: skip
