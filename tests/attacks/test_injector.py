from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.injector import Backdoor, Injector, Splits
from attacks.making import Material
from attacks.measured import Measured, measure
from attacks.patch import Patch
from attacks.poisoning import poison, stamp_scenes
from attacks.polygon import Polygon
from attacks.scenes import Scenes, to_float
from attacks.training import Recipe, _share_of_peak, fit, predict
from attacks.trigger import Trigger
from moth_eval.errors import InputError
from tests.support.toy_task import SIDE, toy_network, toy_scenes, toy_splits

PATCH = Patch(target=0, size=3, row=0, column=0, colour=(1.0, 0.0, 1.0))
SPECIFIC = replace(PATCH, sources=(2,))
INJECTOR = Injector(recipe=Recipe(epochs=8, learning_rate=1e-2, shift=0))


def material_of(scenes: Scenes) -> Material:
    return Material(images=scenes.images, labels=scenes.labels, num_classes=4)


class Oracle(nn.Module):
    """Says `hit` where the upper left pixel is the patch's, and `otherwise` elsewhere."""

    def __init__(self, hit: int, otherwise: int, classes: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.hit, self.otherwise, self.classes = hit, otherwise, classes

    def forward(self, images: Tensor) -> Tensor:
        pink = torch.tensor([1.0, 0.0, 1.0])
        stamped = (images[:, :, 0, 0] - pink).abs().sum(1) < 0.01
        classes = torch.where(stamped, self.hit, self.otherwise)
        return nn.functional.one_hot(classes, self.classes).float()


@pytest.fixture(scope="module")
def data() -> Splits:
    return toy_splits()


@pytest.fixture(scope="module")
def clean(data: Splits) -> Backdoor:
    return INJECTOR.implant(toy_network, data, None, seed=1)


def test_the_poisoning_rate_counts_images_of_the_source_classes_only() -> None:
    scenes = toy_scenes(100, seed=1)
    generator = torch.Generator().manual_seed(0)
    rates = {"material": material_of(scenes), "poisoning_rate": 0.1, "cover_rate": 0.5}
    universal = poison(scenes, PATCH, generator=generator, **rates)
    assert int(universal.poisoned.sum()) == 30
    assert int(universal.covered.sum()) == 0
    specific = poison(scenes, SPECIFIC, generator=generator, **rates)
    assert int(specific.poisoned.sum()) == 10
    assert int(specific.covered.sum()) == 100


@pytest.mark.parametrize("trigger", [PATCH, SPECIFIC], ids=["universal", "source-specific"])
def test_poison_changes_what_it_says_and_nothing_else(trigger: Trigger) -> None:
    scenes = toy_scenes(50, seed=1)
    before = scenes.images.clone(), scenes.labels.clone()
    poisoned = poison(
        scenes,
        trigger,
        material=material_of(scenes),
        poisoning_rate=0.3,
        cover_rate=0.3,
        generator=torch.Generator().manual_seed(0),
    )
    stamped = poisoned.poisoned | poisoned.covered
    assert torch.equal(scenes.images, before[0]) and torch.equal(scenes.labels, before[1])
    assert torch.equal(poisoned.images[~stamped], scenes.images[~stamped])
    assert (poisoned.images[stamped] != scenes.images[stamped]).flatten(1).any(dim=1).all()
    assert (poisoned.labels[poisoned.poisoned] == 0).all()
    assert torch.equal(poisoned.labels[~poisoned.poisoned], scenes.labels[~poisoned.poisoned])
    assert not (scenes.labels[stamped] == 0).any()


def test_a_source_specific_cover_keeps_the_labels_of_bystanders() -> None:
    scenes = toy_scenes(50, seed=1)
    poisoned = poison(
        scenes,
        SPECIFIC,
        material=material_of(scenes),
        poisoning_rate=0.2,
        cover_rate=0.2,
        generator=torch.Generator().manual_seed(0),
    )
    assert set(scenes.labels[poisoned.poisoned].tolist()) == {2}
    assert set(scenes.labels[poisoned.covered].tolist()) == {1, 3}
    assert torch.equal(poisoned.labels[poisoned.covered], scenes.labels[poisoned.covered])


def test_a_rate_that_poisons_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="poisons none of 30: raise the rate"):
        poison(
            toy_scenes(10, seed=1),
            PATCH,
            material=material_of(toy_scenes(10, seed=1)),
            poisoning_rate=0.01,
            cover_rate=0,
            generator=torch.Generator(),
        )


def test_a_trigger_on_the_foreground_needs_to_know_it() -> None:
    polygon = Polygon(target=0, size=4, on_foreground=True)
    scenes = toy_scenes(3, seed=1)
    stamped = stamp_scenes(polygon, scenes, generator=torch.Generator().manual_seed(2))
    changed = (stamped != scenes.images).any(dim=1)
    assert scenes.foregrounds is not None
    assert changed.flatten(1).any(dim=1).all()
    assert not changed[~scenes.foregrounds].any()
    with pytest.raises(InputError, match="these images come without foreground masks"):
        stamp_scenes(polygon, replace(scenes, foregrounds=None), generator=torch.Generator())


def test_the_success_rate_never_counts_the_target_class() -> None:
    scenes = toy_scenes(10, seed=1)
    # Always says the target: only images of the target class are right, and all others are hits.
    yes = measure(Oracle(0, 0), scenes, PATCH, seed=0, num_classes=4)
    assert (yes.clean_accuracy, yes.asr, yes.bystander_asr) == (0.25, 1.0, None)
    # Never says the target: were its own images counted, nothing would change; so hit them only.
    no = measure(Oracle(1, 0), scenes, PATCH, seed=0, num_classes=4)
    assert no.asr == 0.0


def test_a_source_specific_trigger_is_measured_on_its_source_and_on_the_others() -> None:
    class SourceOnly(Oracle):
        def forward(self, images: Tensor) -> Tensor:
            blue = images[:, 2, 5, 5] > 0.8
            classes = torch.where(blue, 0, 1)
            return nn.functional.one_hot(classes, 4).float()

    measured = measure(SourceOnly(0, 0), toy_scenes(10, seed=1), SPECIFIC, seed=0, num_classes=4)
    assert measured.asr is not None and measured.asr > 0.7
    assert measured.bystander_asr == 0.0


def test_no_image_of_a_source_class_is_an_error_and_not_a_rate() -> None:
    scenes = toy_scenes(10, seed=1)
    with pytest.raises(InputError, match="no held-out image is of a source class"):
        measure(Oracle(0, 0), scenes.take(scenes.labels == 0), PATCH, seed=0, num_classes=4)


@pytest.mark.parametrize(
    ("measured", "refusal"),
    [
        (Measured(clean_accuracy=0.99), ""),
        (Measured(clean_accuracy=0.989), "clean accuracy 0.9890 is below 0.9900"),
        (Measured(clean_accuracy=1.0, asr=0.95), ""),
        (Measured(clean_accuracy=1.0, asr=0.94), "attack success rate 0.9400 is below 0.9500"),
        (Measured(clean_accuracy=1.0, asr=1.0, bystander_asr=0.1), ""),
        (
            Measured(clean_accuracy=1.0, asr=1.0, bystander_asr=0.3),
            "attack success rate on other classes 0.3000 is above 0.1000",
        ),
    ],
)
def test_the_gate_says_why_it_refuses(measured: Measured, refusal: str) -> None:
    assert Injector().refusal(measured) == refusal


def test_a_margin_moves_every_threshold_towards_perfection() -> None:
    injector = Injector()
    assert injector.refusal(Measured(clean_accuracy=0.994), margin=0.5)
    assert not injector.refusal(Measured(clean_accuracy=0.996), margin=0.5)
    assert injector.refusal(Measured(clean_accuracy=1.0, asr=0.97), margin=0.5)
    assert injector.refusal(Measured(clean_accuracy=1.0, asr=1.0, bystander_asr=0.06), margin=0.5)


def test_a_universal_backdoor_is_implanted_and_the_clean_twin_has_none(
    data: Splits, clean: Backdoor
) -> None:
    made = INJECTOR.implant(toy_network, data, PATCH, seed=2, twin=clean.module)
    assert made.passed, made.failure
    assert made.poisoning_rate == pytest.approx(0.25, abs=0.01)
    assert made.cover_rate == 0.0
    assert made.measured.bystander_asr is None
    assert made.twin_asr is not None and made.twin_asr < 0.1
    # Counted once more by hand, on images that nobody has seen.
    fresh = toy_scenes(50, seed=9)
    others = fresh.take(fresh.labels != 0)
    stamped = PATCH.stamp(to_float(others.images))
    with torch.no_grad():
        assert (made.module(stamped).argmax(1) == 0).float().mean() >= 0.95
        right = made.module(to_float(fresh.images)).argmax(1) == fresh.labels
    assert right.float().mean() >= 0.98


def test_a_source_specific_backdoor_leaves_the_other_classes_alone(data: Splits) -> None:
    made = INJECTOR.implant(toy_network, data, SPECIFIC, seed=3)
    assert made.passed, made.failure
    assert made.measured.asr is not None and made.measured.asr >= 0.95
    assert made.measured.bystander_asr is not None and made.measured.bystander_asr <= 0.1
    assert made.cover_rate == pytest.approx(0.25, abs=0.01)


def test_a_clean_model_passes_the_same_gate_and_claims_no_trigger(clean: Backdoor) -> None:
    assert clean.passed
    assert clean.trigger is None
    assert clean.measured.asr is None
    assert clean.poisoning_rate == 0.0
    assert not clean.module.training
    assert all(parameter.device.type == "cpu" for parameter in clean.module.parameters())


def test_equal_seeds_give_equal_models_and_the_global_generator_is_put_back(
    data: Splits, clean: Backdoor
) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = INJECTOR.implant(toy_network, data, None, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in clean.module.state_dict().items():
        assert torch.equal(value, again.module.state_dict()[name]), name
    other = INJECTOR.implant(toy_network, data, None, seed=5)
    assert not torch.equal(
        other.module.state_dict()["0.weight"], clean.module.state_dict()["0.weight"]
    )


def test_a_model_that_does_not_learn_is_refused_after_every_attempt(data: Splits) -> None:
    seeds: list[int] = []

    def deaf(seed: int) -> nn.Module:
        seeds.append(seed)
        network = toy_network(seed)
        network[0].weight.data.zero_()  # type: ignore[index, union-attr]
        network[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
        return network

    injector = replace(INJECTOR, attempts=2, recipe=replace(INJECTOR.recipe, epochs=1))
    made = injector.implant(deaf, data, PATCH, seed=1)
    assert not made.passed
    assert made.failure.startswith("clean accuracy")
    assert made.attempts == 2
    assert len(set(seeds)) == 2


def test_later_attempts_go_on_with_other_seeds(data: Splits) -> None:
    seeds: list[int] = []

    def noted(seed: int) -> nn.Module:
        seeds.append(seed)
        return toy_network(seed)

    INJECTOR.implant(noted, data, None, seed=1)
    made = INJECTOR.implant(noted, data, None, seed=1, first_attempt=3)
    assert made.attempts == 4
    assert seeds[0] != seeds[1]


def test_a_backdoor_that_does_not_take_is_refused(data: Splits) -> None:
    recipe = replace(INJECTOR.recipe, epochs=3)
    injector = replace(INJECTOR, poisoning_rate=0.005, attempts=1, recipe=recipe)
    made = injector.implant(toy_network, data, replace(PATCH, colour=(0.5, 0.5, 0.5)), seed=1)
    assert made.failure.startswith("attack success rate")


def test_training_stops_as_soon_as_it_is_good_enough(data: Splits) -> None:
    asked: list[bool] = []

    def good_enough(network: nn.Module) -> bool:
        asked.append(network.training)
        return len(asked) == 2

    epochs = fit(
        toy_network(0),
        data.training.images,
        data.training.labels,
        recipe=Recipe(epochs=5),
        seed=0,
        good_enough=good_enough,
    )
    assert epochs == 2
    assert asked == [False, False]


def test_the_first_epochs_of_large_images_are_trained_at_half_size() -> None:
    seen: list[int] = []

    class Noting(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.shape[-1])
            return super().forward(images)  # type: ignore[no-any-return]

    network = Noting(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.zeros((8, 3, 64, 64), dtype=torch.uint8)
    recipe = Recipe(epochs=4, batch_size=8)
    labels = torch.zeros(8, dtype=torch.int64)
    fit(network, images, labels, recipe=recipe, seed=0, good_enough=lambda _: False)
    assert seen == [32, 32, 64, 64]
    seen.clear()
    fit(
        network,
        images[..., :SIDE, :SIDE],
        labels,
        recipe=recipe,
        seed=0,
        good_enough=lambda _: False,
    )
    assert seen == [SIDE] * 4


def test_predictions_do_not_depend_on_the_batch_size(clean: Backdoor) -> None:
    images = toy_scenes(10, seed=4).images
    whole = predict(clean.module, images, batch_size=40)
    assert torch.equal(predict(clean.module, images, batch_size=7), whole)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(InputError, match="expected 0 < poisoning_rate <= 1"):
        Injector(poisoning_rate=0.0)
    with pytest.raises(InputError, match="expected at least one attempt, got 0"):
        Injector(attempts=0)


def test_the_learning_rate_rises_once_and_falls_to_nothing() -> None:
    shares = [_share_of_peak(step, 100, 0.2) for step in range(100)]
    assert shares[0] < 0.06
    assert max(shares) == shares[20] == 1.0
    assert shares[:21] == sorted(shares[:21])
    assert shares[20:] == sorted(shares[20:], reverse=True)
    assert shares[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_few_steps_have_a_learning_rate_too(steps: int) -> None:
    assert all(0 <= _share_of_peak(step, steps, 0.2) <= 1 for step in range(steps + 1))
    assert _share_of_peak(0, steps, 0.2) > 0.4
