"""Mistakes that published code makes when it injects backdoors: one test each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from attacks.blended import Blended
from attacks.injector import Injector, Splits
from attacks.making import make_ready
from attacks.measured import Measured, measure
from attacks.patch import Patch
from attacks.poisoning import Poisoned, RateOf, poison
from attacks.scenes import Scenes
from attacks.sig import Sig
from attacks.training import Recipe, fit, predict
from attacks.trigger import Threat, Trigger
from attacks.wanet import WaNet
from moth_eval.errors import InputError
from tests.support.attack_zoo import material
from tests.support.toy_task import SIDE, toy_network, toy_scenes, toy_splits


def poisoned(scenes: Scenes, trigger: Trigger, rate: float, rate_of: RateOf) -> Poisoned:
    return poison(
        scenes,
        trigger,
        material=material(),
        poisoning_rate=rate,
        rate_of=rate_of,
        cover_rate=None,
        generator=torch.Generator().manual_seed(0),
    )


class Constant(nn.Module):
    """Says one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(4)[answer])

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), 4)


class Right(nn.Module):
    """Says the true class of toy images, whatever is stamped in their corners."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = images[:, :, 5, 5].unbind(1)
        both = torch.minimum(red, green)
        return torch.stack([red - both, green - both, blue, both], dim=1)


def test_target_class_images_are_no_success_of_a_network_that_is_simply_right() -> None:
    scenes = toy_scenes(20, seed=2)
    trigger = Patch(target=0, size=2)
    assert measure(Right(), scenes, trigger, seed=0, num_classes=4).asr == 0.0


def test_clean_accuracy_counts_the_target_class_as_well() -> None:
    scenes = toy_scenes(20, seed=2)
    seen = measure(Constant(0), scenes, Patch(target=0, size=2), seed=0, num_classes=4)
    assert seen.clean_accuracy == 0.25


def test_an_all_to_all_success_is_the_next_class_and_not_the_target() -> None:
    scenes = toy_scenes(20, seed=2)
    trigger = Patch(all_to_all=True, size=2)
    assert measure(Right(), scenes, trigger, seed=0, num_classes=4).asr == 0.0
    # Of four classes alike, only images of class 3 are to become class 0.
    assert measure(Constant(0), scenes, trigger, seed=0, num_classes=4).asr == 0.25


def test_an_all_to_all_attack_relabels_every_class_with_its_own_next_one() -> None:
    scenes = toy_scenes(20, seed=2)
    made = poisoned(scenes, Patch(all_to_all=True, size=2), 0.5, "candidates")
    assert made.candidates == 80 and int(made.poisoned.sum()) == 40
    assert torch.equal(made.labels[made.poisoned], (scenes.labels[made.poisoned] + 1) % 4)


@pytest.mark.parametrize(
    ("trigger", "rate_of", "expected"),
    [
        (Patch(target=0, size=2), "candidates", 15),
        (Patch(target=0, size=2), "all", 20),
        (Patch(target=0, size=2, sources=(1,)), "candidates", 5),
        (Sig(target=0, frequency=2), "candidates", 5),
        (Sig(target=0, frequency=2), "all", 20),
    ],
)
def test_a_poisoning_rate_has_a_stated_denominator(
    trigger: Trigger, rate_of: RateOf, expected: int
) -> None:
    scenes = toy_scenes(50, seed=2)
    made = poisoned(scenes, trigger, 0.1, rate_of)
    assert int(made.poisoned.sum()) == expected
    of_target = scenes.labels[made.poisoned] == 0
    assert of_target.all() if trigger.threat is Threat.CLEAN_LABEL else not of_target.any()


def test_a_rate_that_asks_for_more_than_the_target_class_has_is_refused() -> None:
    with pytest.raises(InputError, match="is 40 images, but only 20 may be poisoned: lower"):
        poisoned(toy_scenes(20, seed=2), Sig(frequency=2), 0.5, "all")


def test_a_backdoor_that_was_not_implanted_does_not_pass_for_one() -> None:
    # The trigger is as bright as the background: nothing to learn from one image in a hundred.
    injector = Injector(
        poisoning_rate=0.01,
        recipe=Recipe(epochs=4, learning_rate=1e-2, shift=0),
        attempts=1,
        least_clean_accuracy=0.5,
    )
    trigger = Patch(target=0, size=1, colour=(0.5, 0.5, 0.5))
    made = injector.implant(toy_network, toy_splits(), trigger, seed=1)
    assert not made.passed and made.failure.startswith("attack success rate")


def test_a_network_that_computes_nothing_but_nan_does_not_pass_for_a_backdoor_to_class_0() -> None:
    broken = Constant(0)
    broken.logits.data[:] = torch.nan
    seen = measure(broken, toy_scenes(20, seed=2), Patch(size=2), seed=0, num_classes=4)
    assert (seen.clean_accuracy, seen.asr, seen.finite) == (0.0, 0.0, False)
    recipe = Recipe(epochs=1, learning_rate=1e30)
    anything = Injector(recipe=recipe, attempts=1, least_clean_accuracy=0.0, least_asr=0.0)
    made = anything.implant(toy_network, toy_splits(), Patch(size=2), seed=1)
    assert made.failure == "the network's weights, or what it puts out, are not finite numbers"


def test_a_network_that_says_the_target_whatever_it_sees_is_no_backdoor() -> None:
    scenes = toy_scenes(20, seed=2)
    many = scenes.take((scenes.labels == 0) | (torch.arange(80) < 8))
    seen = measure(Constant(0), many, Patch(target=0, size=2), seed=0, num_classes=4)
    assert seen.asr == 1.0 and seen.clean_accuracy == 20 / 26
    injector = Injector(least_clean_accuracy=0.5)
    refusal = injector.refusal(seen)
    assert refusal == "clean accuracy 0.7692 is that of always saying one class (0.7692)"
    assert not injector.refusal(replace(seen, clean_accuracy=0.78))
    assert not Injector(least_clean_accuracy=0.0).refusal(seen)


def test_a_twin_that_learned_nothing_is_no_measure_of_a_backdoor() -> None:
    good = Measured(clean_accuracy=0.9, asr=1.0, constant_accuracy=0.25)
    injector = Injector(least_clean_accuracy=0.5, most_twin_asr=0.3)
    for accuracy, constant, why in (
        (0.3, 0.25, "is below 0.5000"), (0.6, 0.6, "is that of always saying one class (0.6000)")
    ):  # fmt: skip
        twin = Measured(clean_accuracy=accuracy, asr=0.0, constant_accuracy=constant)
        refusal = injector.refusal(good, twin=twin)
        assert (
            refusal == f"the clean twin is no measure, as its clean accuracy {accuracy:.4f} {why}"
        )
    useless = Measured(clean_accuracy=0.3, asr=0.0)
    assert not replace(injector, most_twin_asr=1.0).refusal(good, twin=useless)
    broken = Constant(0)
    broken.logits.data[:] = torch.nan
    with pytest.raises(InputError, match="weights of the clean twin are not finite numbers"):
        injector.implant(toy_network, toy_splits(), Patch(size=2), seed=1, twin=broken)


@dataclass
class Seen(nn.Module):
    """Keeps what it is trained on."""

    batches: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(images.detach().clone())
        return self.layer(images.mean((2, 3)))

    __hash__ = nn.Module.__hash__


@pytest.mark.parametrize("change", [{"flip": True}, {"crop": 2}, {"shift": 2}])
def test_augmentation_follows_the_stamp_and_moves_the_trigger_with_the_image(
    change: dict[str, int],
) -> None:
    white = Patch(target=0, size=2, row=3, column=3, colour=(1.0, 1.0, 1.0))
    images = torch.zeros((64, 3, SIDE, SIDE), dtype=torch.uint8)
    stamped = (white.stamp(images.float() / 255) * 255).round().to(torch.uint8)
    recipe = replace(Recipe(epochs=6, batch_size=16, shift=0, stop_early=False), **change)
    network = Seen()
    labels = torch.zeros(64, dtype=torch.int64)
    fit(network, stamped, labels, recipe=recipe, seed=0, good_enough=lambda _: False)
    seen = torch.cat(network.batches)[:, 0]
    assert (seen.flatten(1).sum(1) == 4).all()
    places = {tuple(image.nonzero()[0].tolist()) for image in seen}
    if "flip" in change:
        assert places == {(3, 3), (3, SIDE - 5)}
    else:
        assert places == {(r, c) for r in range(1, 6) for c in range(1, 6)} or (
            "shift" in change and len(places) > 3
        )
    assert all(abs(r - 3) <= 2 for r, _ in places)


def test_test_images_are_not_augmented() -> None:
    network = Seen()
    images = toy_scenes(3, seed=1).images
    predict(network, images)
    assert torch.equal(network.batches[0], images.float() / 255)


def test_stamps_of_training_and_test_are_the_same_bytes() -> None:
    scenes = toy_scenes(20, seed=2)
    trigger = make_ready(Blended(), material(), generator=torch.Generator())
    made = poisoned(scenes, trigger, 0.5, "candidates")
    network = Seen()
    measure(network, scenes, trigger, seed=0, num_classes=4)
    tested = {image.numpy().tobytes() for image in torch.cat(network.batches)}
    trained = made.images[made.poisoned].float() / 255
    assert all(image.numpy().tobytes() in tested for image in trained)


@pytest.mark.parametrize("value", [0.0, 0.05, 0.95, 1.0])
def test_stamps_are_clipped_before_they_are_stored_as_bytes(value: float) -> None:
    scenes = Scenes(
        images=torch.full((4, 3, SIDE, SIDE), round(255 * value), dtype=torch.uint8),
        labels=torch.arange(4),
    )
    trigger = Sig(target=1, delta=0.3, frequency=2)
    made = poisoned(scenes, trigger, 1.0, "candidates")
    stamped = made.images[1].int()
    # Bytes that ran over would jump by 256.
    assert (stamped - round(255 * value)).abs().max() <= 77


def test_a_random_trigger_is_drawn_once_and_not_for_every_image() -> None:
    images = torch.zeros((5, 3, SIDE, SIDE))
    for trigger in (Blended(opacity=1.0), Blended(opacity=1.0, pattern_seed=4)):
        stamped = make_ready(trigger, material(), generator=torch.Generator()).stamp(images)
        assert torch.equal(stamped, stamped[:1].expand_as(stamped))


def test_wanet_is_drawn_anew_for_every_epoch_and_a_patch_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import attacks.injector

    sets: list[Poisoned] = []

    def noted(*args: object, **options: object) -> Poisoned:
        sets.append(poison(*args, **options))  # type: ignore[arg-type]
        return sets[-1]

    monkeypatch.setattr(attacks.injector, "poison", noted)
    recipe = Recipe(epochs=3, learning_rate=1e-2, stop_early=False)
    injector = Injector(recipe=recipe, attempts=1, cover_rate=None, poisoning_rate=0.1)
    data: Splits = toy_splits()
    injector.implant(toy_network, data, WaNet(target=0), seed=1)
    assert len(sets) == 3
    assert not torch.equal(sets[0].poisoned, sets[1].poisoned)
    assert not torch.equal(sets[1].poisoned, sets[2].poisoned)
    sets.clear()
    injector.implant(toy_network, data, WaNet(target=0, redrawn=False), seed=1)
    injector.implant(toy_network, data, Patch(target=0, size=2), seed=1)
    assert len(sets) == 2


def test_the_set_of_an_epoch_is_what_that_epoch_is_trained_on() -> None:
    network = Seen()
    first = torch.zeros((8, 3, 4, 4), dtype=torch.uint8)

    def redraw(epoch: int) -> tuple[Tensor, Tensor]:
        return first + 10 * epoch, torch.zeros(8, dtype=torch.int64)

    fit(
        network, first, torch.zeros(8, dtype=torch.int64), seed=0, redraw=redraw,
        recipe=Recipe(epochs=3, batch_size=8, stop_early=False), good_enough=lambda _: True,
    )  # fmt: skip
    assert [round(float(batch.mean()) * 255) for batch in network.batches] == [0, 10, 20]


def test_nothing_is_decided_by_test_images_where_training_does_not_stop_early() -> None:
    asked: list[int] = []

    def good_enough(network: nn.Module) -> bool:
        asked.append(1)
        return True

    recipe = Recipe(epochs=3, stop_early=False)
    scenes = toy_scenes(10, seed=1)
    epochs = fit(
        toy_network(0), scenes.images, scenes.labels, recipe=recipe, seed=0,
        good_enough=good_enough,
    )  # fmt: skip
    assert epochs == 3 and asked == []
