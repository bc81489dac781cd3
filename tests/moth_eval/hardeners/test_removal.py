"""What single removal methods promise, and the mistakes of public code that they must not make."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import HardeningError
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardeners.batches import Batches
from moth_eval.hardeners.epochs import batch_sizes
from moth_eval.hardeners.fine_tuning import CLEAN, FineTuning
from moth_eval.hardeners.ft_sam import FTSAM
from moth_eval.hardeners.i_bau import IBAU, perturbed
from moth_eval.hardeners.nad import NAD
from moth_eval.hardeners.nc_unlearning import NCUnlearning
from moth_eval.hardeners.taps import Taps, attention, find_taps
from moth_eval.hardeners.trainer import Recipe, Trainer
from moth_eval.hardeners.validation import held_back
from moth_eval.hardening import Hardener, Hardening, HardeningStatus
from moth_eval.inversion.engine import invert
from moth_eval.inversion.problems import Inversion
from moth_eval.plugins import resolve
from moth_eval.runner import run_hardening
from moth_eval.subject import Examples, Subject
from tests.support.counted import Counted
from tests.support.subjects import PATCH, prototype_subject


@pytest.fixture(scope="module")
def backdoored() -> Subject:
    return prototype_subject(target=2, per_class=24)


def asr(subject: Subject, module: nn.Module | None, target: int = 2) -> float:
    assert module is not None
    others = subject.examples.labels != target
    images = subject.examples.images[others].clone()
    images[..., PATCH, PATCH] = 1
    found = replace(subject, module=module).logits(images).argmax(1)
    return float((found == target).float().mean())


def accuracy(subject: Subject, module: nn.Module | None) -> float:
    assert module is not None
    return replace(subject, module=module).accuracy()


def run(hardener: Hardener, subject: Subject, data: Examples | None = None) -> Hardening:
    return run_hardening(hardener, subject, data or subject.examples, name="x", seed=0)


def convolutional(*, pooled: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1)] if pooled else [nn.MaxPool2d(2), nn.Conv2d(4, 4, 3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def subject_of(module: nn.Module, *, count: int = 24) -> Subject:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((count, 3, 8, 8), generator=generator)
    module(images[:1])
    labels = torch.arange(count) % 3
    return Subject(
        name="drawn", module=module.eval(), num_classes=3, image_shape=(3, 8, 8),
        examples=Examples(images=images, labels=labels),
    )  # fmt: skip


@pytest.fixture
def drawn() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return subject_of(convolutional())


def test_unlearning_a_flagged_trigger_takes_the_success_rate_away(backdoored: Subject) -> None:
    recipe = replace(CLEAN, learning_rate=0.05, shift=0, batch_norm="eval")
    done = run(NCUnlearning(epochs=20, batch=40, recipe=recipe), backdoored)
    assert asr(backdoored, backdoored.module) == 1
    assert done.figures["suspect"] == 2
    assert done.figures["anomaly_index"] > 2
    assert asr(backdoored, done.module) < 0.1
    assert accuracy(backdoored, done.module) > 0.95


def test_without_a_flag_unlearning_returns_the_network_as_it_was_and_says_so() -> None:
    clean = prototype_subject(per_class=24)
    done = run(NCUnlearning(cut=50), clean)
    assert done.status is HardeningStatus.HARDENED
    assert done.reason == "no class was flagged at 50: left as it was"
    assert done.figures["flagged"] == 0
    assert done.log == ()
    assert done.module is not None
    before, after = clean.module.state_dict(), done.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_majority_of_valid_triggers_no_class_is_flagged(
    backdoored: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invalid ones count as the whole image, so all the valid ones would be outliers."""

    def some(network: Any, images: Any, problems: Any, schedule: Any) -> list[Inversion]:
        found = invert(network, images, problems, schedule)
        return [replace(one, valid=one.problem.target < 2) for one in found]

    monkeypatch.setattr("moth_eval.hardeners.nc_unlearning.invert", some)
    done = run(NCUnlearning(), backdoored)
    assert done.figures == {"flagged": 0, "invalid": 3}
    assert done.reason == (
        "3 of 5 triggers are not valid, so there is no median of sizes to compare with: left as it "
        "was"
    )


@pytest.mark.parametrize(
    ("images", "batch", "sizes"),
    [
        (387, 128, [96, 97, 97, 97]),
        (130, 128, [65, 65]),
        (5, 8, [5]),
        (6, 2, [2, 2, 2]),
        (5, 2, [2, 3]),
        (1, 2, [1]),
    ],
)
def test_a_pass_takes_as_many_images_as_there_are(
    images: int, batch: int, sizes: list[int]
) -> None:
    assert batch_sizes(images, batch) == sizes
    assert sum(sizes) == images


@pytest.mark.parametrize(
    "method",
    [
        FineTuning(epochs=2, batch=32), FTSAM(epochs=2, batch=32), NCUnlearning(epochs=2, target=2),
        IBAU(rounds=2, batch=32),
    ],
)  # fmt: skip
def test_epochs_see_every_image_once(
    backdoored: Subject, monkeypatch: pytest.MonkeyPatch, method: Hardener
) -> None:
    drawn: list[int] = []
    balanced = Batches.balanced

    def recorded(self: Batches, count: int) -> torch.Tensor:
        drawn.append(count)
        return balanced(self, count)

    monkeypatch.setattr(Batches, "balanced", recorded)
    run(method, backdoored)
    searched = method.inversion_images if isinstance(method, NCUnlearning) else 0
    stamped = 2 * 24 if isinstance(method, NCUnlearning) else 0  # a fifth of 120 a pass
    assert sum(drawn) + stamped == searched + 2 * len(backdoored.examples)


def test_a_given_target_is_unlearned_without_a_search(backdoored: Subject) -> None:
    done = run(NCUnlearning(epochs=1, batch=40, target=2), backdoored)
    assert done.figures == {"flagged": 1, "invalid": 0}
    assert done.log[0].pairs == ((-1, 2),)


def test_a_target_that_is_no_class_is_refused(backdoored: Subject) -> None:
    done = run(NCUnlearning(target=5), backdoored)
    assert done.status is HardeningStatus.FAILED
    assert "target 5 is no class of prototypes-0-2: expected 0 to 4" in done.reason


def test_attention_is_read_at_the_last_features_of_each_resolution(drawn: Subject) -> None:
    assert find_taps(drawn.module, drawn.examples.images[:1]) == ("2", "3", "4")


def test_features_of_one_pixel_are_no_place_for_attention() -> None:
    pooled = subject_of(convolutional(pooled=True))
    assert find_taps(pooled.module, pooled.examples.images[:1]) == ("2",)
    done = run(NAD(), pooled)
    assert done.status is HardeningStatus.INAPPLICABLE
    assert "at 2 resolutions, and 1 was found" in done.reason
    named = run(NAD(taps="2+3", teacher_epochs=1, epochs=1), pooled)
    assert named.status is HardeningStatus.FAILED
    assert "'3' puts out no features of more than one pixel" in named.reason


def test_attention_maps_have_norm_one_and_do_not_depend_on_scale() -> None:
    features = torch.rand((2, 5, 4, 6), generator=torch.Generator().manual_seed(0))
    maps = attention(features, 2)
    assert maps.shape == (2, 4, 6)
    assert torch.allclose(maps.flatten(1).norm(dim=1), torch.ones(2), atol=1e-4)
    assert torch.allclose(maps, attention(3 * features, 2), atol=1e-4)


def test_a_tap_that_is_not_there_is_named(drawn: Subject) -> None:
    done = run(NAD(taps="9", teacher_epochs=1), drawn)
    assert "the network has no part '9' to read attention from" in done.reason


def test_attention_acts_on_the_student(drawn: Subject) -> None:
    few = {"teacher_epochs": 6, "epochs": 6, "batch": 8}
    with_it, without = (run(NAD(**few, beta=beta), drawn) for beta in (10.0, 0.0))
    for done in (with_it, without):
        assert done.figures["taps"] == 3
        assert done.figures["attention_first"] > 0
        [teacher] = done.variants
        assert (teacher.kind, teacher.name) == ("byproduct", "teacher")
    assert with_it.figures["attention_first"] == without.figures["attention_first"]
    assert with_it.figures["attention_last"] < without.figures["attention_last"]


def test_the_ablation_without_attention_takes_the_same_steps_on_the_same_images(
    drawn: Subject,
) -> None:
    few = {"teacher_epochs": 1, "epochs": 1, "batch": 8}
    with_it, without = (run(NAD(**few, beta=beta), drawn) for beta in (1.0, 0.0))
    assert [e.steps for e in with_it.log] == [e.steps for e in without.log] == [3, 6]
    assert with_it.log[0].loss == without.log[0].loss
    assert with_it.log[1].loss > without.log[1].loss


def test_teacher_and_student_that_look_alike_are_an_error(drawn: Subject) -> None:
    still = replace(CLEAN, learning_rate=1e-30, weight_decay=0.0, batch_norm="eval", shift=0)
    done = run(NAD(teacher_epochs=1, epochs=1, recipe=still), drawn)
    assert done.status is HardeningStatus.FAILED
    assert "teacher and student look alike at 2, 3, 4" in done.reason


def test_reading_attention_leaves_no_hook_behind(drawn: Subject) -> None:
    done = run(NAD(teacher_epochs=1, epochs=1, batch=8), drawn)
    assert done.module is not None
    for module in (drawn.module, done.module):
        assert all(
            not part._forward_hooks and not part._forward_pre_hooks for part in module.modules()
        )


@pytest.mark.parametrize("count", [1, 7, 50, 99])
def test_a_small_batch_has_a_perturbed_image_all_the_same(count: int) -> None:
    """The published code of I-BAU perturbs `int(0.01 * batch)` images: none under 100."""
    assert perturbed(count, 0.01) == 1


def test_i_bau_counts_each_image_as_often_as_it_goes_through(backdoored: Subject) -> None:
    counted = Counted(backdoored.module)
    subject = replace(backdoored, module=counted)
    done = run(IBAU(rounds=2, batch=16, fixed_point_steps=3), subject)
    assert done.cost.forward_passes == int(counted.seen)
    drawn = done.images_used * 2
    # Perturbation, both losses, two products on the way, and one through the weights.
    assert done.cost.backward_passes == drawn * (1 + 2 + 2 + 1)


def test_i_bau_takes_the_success_rate_of_a_planted_patch_down(backdoored: Subject) -> None:
    unsure = replace(backdoored, module=deepcopy(backdoored.module))
    with torch.no_grad():  # answers that are quite certain have no gradient to find harm by
        for weight in unsure.module.fc.parameters():  # type: ignore[union-attr, operator]
            weight *= 0.05
    recipe = replace(IBAU().recipe, learning_rate=0.01)
    done = run(IBAU(rounds=10, batch=30, perturbed_share=0.3, recipe=recipe), unsure)
    assert asr(unsure, unsure.module) == 1
    assert asr(unsure, done.module) < 0.3
    assert accuracy(unsure, done.module) > 0.9
    assert done.log[0].stamped_accuracy is not None


def test_the_implicit_gradient_is_that_of_the_answer_that_follows() -> None:
    """On a quadratic inner problem the answer to the weights is known in closed form."""
    settings = IBAU(fixed_point_steps=400, fixed_point_rate=0.1)
    weight = torch.tensor(1.5, requires_grad=True)
    delta = (3 * weight.detach()).clone().requires_grad_()  # minimum of (delta - 3 weight)^2
    [inner] = torch.autograd.grad((delta - 3 * weight).square(), [delta], create_graph=True)
    [gradient] = settings._implicit(delta * weight, delta - 0.1 * inner, delta, [weight])
    assert float(gradient) == pytest.approx(2 * 3 * 1.5, rel=1e-3)  # d/dw of 3 w^2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_norm": "train"}, "train and none"),
        ({"flip": True}, "eval and flip"),
        ({"shift": 2, "label_smoothing": 0.1}, "eval and label_smoothing, shift"),
        ({"sharpness": 1.0, "distillation": 0.5}, "eval and sharpness, distillation"),
    ],
)
def test_i_bau_refuses_a_recipe_that_it_would_not_follow(change: Any, said: str) -> None:
    with pytest.raises(HardeningError, match=f"i-bau finds its own gradients.*got {said}"):
        IBAU(recipe=replace(IBAU().recipe, **change))


def test_two_classes_have_no_index_and_nothing_is_unlearned_in_silence() -> None:
    subject = prototype_subject(classes=2, target=1)
    done = run(NCUnlearning(), subject)
    assert done.status is HardeningStatus.INAPPLICABLE
    assert "needs at least 3 classes to compare, got 2: name the target" in done.reason


def test_a_sharp_step_descends_by_the_gradient_nearby() -> None:
    """Nearby is `w + rho w^2 g / |w g|`: an ascent scaled by the weights themselves."""
    recipe = Recipe(
        learning_rate=0.1, momentum=0.0, weight_decay=0.0, sharpness=0.5, batch_norm="eval"
    )
    layer = nn.Linear(192, 3, bias=False)
    subject = subject_of(nn.Sequential(nn.Flatten(), layer))
    before = layer.weight.detach().clone()
    images, labels = subject.examples.images, subject.examples.labels

    def gradient(weight: Tensor) -> Tensor:
        weight = weight.clone().requires_grad_()
        loss = nn.functional.cross_entropy(images.flatten(1) @ weight.T, labels)
        return torch.autograd.grad(loss, [weight])[0]

    first = gradient(before)
    nearby = before + 0.5 * before.square() * first / (before.abs() * first).norm()
    trainer = Trainer(subject, recipe, torch.Generator().manual_seed(0))
    trainer.step(images, labels, done=0.0)
    after = trainer.network.state_dict()["1.weight"]
    assert torch.allclose(after, before - 0.1 * gradient(nearby), atol=1e-6)


def test_a_sharp_step_counts_a_batch_once_in_the_running_statistics(drawn: Subject) -> None:
    def statistics(sharpness: float) -> Tensor:
        recipe = replace(CLEAN, sharpness=sharpness)
        trainer = Trainer(drawn, recipe, torch.Generator().manual_seed(0))
        trainer.step(drawn.examples.images, drawn.examples.labels, done=0.0)
        return trainer.network.state_dict()["1.running_mean"]

    assert torch.equal(statistics(0.0), statistics(2.0))


def test_ft_sam_and_fine_tuning_train_every_class_alike() -> None:
    """A random small set misses rare classes; draws go class by class."""
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 3)
    data = Examples(images=torch.zeros((56, 3, 4, 4)), labels=labels)
    rows = Batches(data, torch.Generator().manual_seed(0)).balanced(30)
    assert torch.bincount(labels[rows]).tolist() == [10, 10, 10]


@pytest.mark.parametrize("method", [FineTuning, FTSAM])
def test_an_epoch_is_as_many_images_as_there_are(method: Any, drawn: Subject) -> None:
    done = run(method(epochs=2, batch=10), drawn)
    assert [entry.steps for entry in done.log] == [3, 6]


def test_batch_norm_is_trained_and_said_to_be() -> None:
    assert {m().recipe.batch_norm for m in (FineTuning, FTSAM, NAD, NCUnlearning)} == {"train"}
    assert IBAU().recipe.batch_norm == "eval"


def test_no_image_is_both_trained_on_and_held_back() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    images = torch.arange(13.0).view(13, 1, 1, 1) / 13
    slices = held_back(
        Examples(images=images, labels=labels), 0.2, torch.Generator().manual_seed(0)
    )
    training, back = (
        set(s.images.flatten().tolist()) for s in (slices.training, slices.validation)
    )
    assert not training & back
    assert len(training | back) == 13
    assert torch.bincount(slices.validation.labels, minlength=3).tolist() == [2, 1, 0]


def test_nothing_to_hold_back_is_an_error() -> None:
    data = Examples(images=torch.zeros((2, 1, 1, 1)), labels=torch.tensor([0, 1]))
    with pytest.raises(Exception, match="expected at least two clean images of a class"):
        held_back(data, 0.2, torch.Generator())


def test_taps_are_those_of_the_last_pass(drawn: Subject) -> None:
    taps = Taps()
    with taps.on(drawn.module, ("2", "4"), 2):
        drawn.module(drawn.examples.images[:5])
        drawn.module(drawn.examples.images[:2])
    assert [tuple(m.shape) for m in taps.maps] == [(2, 8, 8), (2, 2, 2)]


@pytest.mark.parametrize(
    ("method", "fields", "message"),
    [
        ("nc-unlearning", {"batch": 1}, "expected at least 2, got batch=1"),
        ("nc-unlearning", {"epochs": 0, "inversion_images": -1},
         "expected at least 1, got epochs=0, inversion_images=-1"),
        ("nc-triggers", {"stamped": 0}, "expected at least 1, got stamped=0"),
        ("fine-pruning", {"images": 0}, "expected at least 2, got images=0"),
        ("anp", {"images": 1}, "expected at least 2, got images=1"),
        ("rnp", {"epochs": 0}, "expected at least 1, got epochs=0"),
    ],
)  # fmt: skip
def test_counts_that_are_too_low_are_said_with_what_was_given(
    method: str, fields: dict[str, int], message: str
) -> None:
    with pytest.raises(HardeningError, match=f"^{message}$"):
        resolve(method, HARDENERS, ENTRY_POINTS)(**fields)
