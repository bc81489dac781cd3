"""A wanted precision is that of every pass in training, and of nothing that comes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from moth_eval.errors import HardeningError
from moth_eval.hardeners.adversarial_neuron_pruning import AdversarialNeuronPruning
from moth_eval.hardeners.adversarial_training import AdversarialTraining
from moth_eval.hardeners.fine_tuning import FineTuning
from moth_eval.hardeners.ft_sam import FTSAM
from moth_eval.hardeners.i_bau import IBAU
from moth_eval.hardeners.moth import Moth
from moth_eval.hardeners.nad import NAD
from moth_eval.hardeners.reconstructive_neuron_pruning import ReconstructiveNeuronPruning
from moth_eval.hardening import Hardener
from moth_eval.inversion.frozen import Precision
from moth_eval.runner import run_hardening
from moth_eval.subject import Examples, Subject


class Watched(nn.Conv2d):
    """A convolution that notes what it puts out while gradients are wanted."""

    def __init__(self, seen: set[torch.dtype]) -> None:
        super().__init__(3, 4, 3, padding=1)
        self.__dict__["seen"] = seen

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        copy = Watched(self.__dict__["seen"])
        copy.load_state_dict(self.state_dict())
        return copy

    def forward(self, images: Tensor) -> Tensor:
        found = super().forward(images)
        if torch.is_grad_enabled() and not isinstance(found, fx.Proxy):  # traced to be folded
            self.__dict__["seen"].add(found.dtype)
        return found


def subject_of(seen: set[torch.dtype]) -> Subject:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(
            Watched(seen), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3),
            nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
    images = torch.rand((24, 3, 8, 8), generator=generator)
    return Subject(
        name="drawn", module=module.eval(), num_classes=3, image_shape=(3, 8, 8),
        examples=Examples(images=images, labels=torch.arange(24) % 3),
    )  # fmt: skip


def with_recipe(method: Any, precision: Precision) -> Any:
    return replace(method, recipe=replace(method.recipe, precision=precision))


def settings(precision: Precision) -> dict[str, Hardener]:
    return {
        "fine-tuning": with_recipe(FineTuning(epochs=1), precision),
        "ft-sam": with_recipe(FTSAM(epochs=1), precision),
        "nad": with_recipe(NAD(teacher_epochs=1, epochs=1), precision),
        "i-bau": with_recipe(IBAU(rounds=1, batch=12), precision),
        "adversarial": with_recipe(AdversarialTraining(rounds=2, images=12), precision),
        "moth, attacked": with_recipe(
            Moth(
                rounds=1,
                warm_up_rounds=0,
                pairs_per_round=1,
                first_steps=2,
                fresh_steps=2,
                next_steps=2,
                clean=6,
                stamped=1,
                inversion_images=4,
                inversion_batch=2,
                adversarial=True,
                precision=precision,
            ),
            precision,
        ),
        "anp": AdversarialNeuronPruning(rounds=2, images=12, precision=precision),
        "rnp": ReconstructiveNeuronPruning(epochs=1, images=12, precision=precision),
    }


@pytest.mark.parametrize("name", settings("float32"))
@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)]
)
def test_every_pass_that_trains_has_the_precision(
    name: str, precision: Precision, wanted: torch.dtype
) -> None:
    seen = set[torch.dtype]()
    subject = subject_of(seen)
    done = run_hardening(settings(precision)[name], subject, subject.examples, name=name, seed=0)
    assert done.module is not None, done.reason
    assert seen == {wanted}
    assert {v.dtype for v in done.module.state_dict().values() if v.is_floating_point()} == {
        torch.float32
    }


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(HardeningError, match="precision must be one of float32, bfloat16, got"):
        with_recipe(FineTuning(), "int8")  # type: ignore[arg-type]
    with pytest.raises(HardeningError, match="precision must be one of float32, bfloat16"):
        run = AdversarialNeuronPruning(precision="int8")  # type: ignore[arg-type]
        run.harden(subject_of(set()), subject_of(set()).examples, generator=torch.Generator())
