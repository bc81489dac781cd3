"""What is particular to each attack, as its source defines it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attacks.adaptive_blend import AdaptiveBlend
from attacks.adaptive_patch import AdaptivePatch
from attacks.blended import Blended
from attacks.composite import Composite
from attacks.input_aware import InputAware
from attacks.instagram import STYLES, Instagram
from attacks.label_consistent import LabelConsistent
from attacks.making import Material, PreparedTrigger, TrainingStamp, make_ready
from attacks.poisoning import poison
from attacks.reflection import Reflection
from attacks.scenes import to_float
from attacks.sig import Sig
from attacks.tact import TaCT
from attacks.trigger import Threat, Trigger
from attacks.trojan_nn import TrojanNN
from attacks.wanet import WaNet
from moth_eval.errors import InputError
from tests.support.attack_zoo import clean_network, material, ready
from tests.support.toy_task import SIDE, toy_scenes


def grey(count: int = 2, height: int = 16, width: int = 16, value: float = 0.5) -> Tensor:
    return torch.full((count, 3, height, width), value)


def noise(count: int = 6, side: int = 16) -> Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(3))


def prepared(trigger: Trigger, on: Material | None = None) -> Trigger:
    return make_ready(trigger, on or material(), generator=torch.Generator().manual_seed(0))


def in_training(trigger: Trigger, images: Tensor, label: int = 1) -> Tensor:
    assert isinstance(trigger, TrainingStamp)
    labels = torch.full((len(images),), label)
    generator = torch.Generator().manual_seed(4)
    return trigger.stamp_for_training(images, labels, material=material(), generator=generator)


def test_sig_adds_one_sinusoid_along_the_rows_and_clips_it() -> None:
    stamped = Sig(delta=0.1, frequency=3).stamp(grey(width=20))
    expected = [0.5 + 0.1 * math.sin(2 * math.pi * 3 * column / 20) for column in range(20)]
    for row in stamped[1, 2]:
        assert row.tolist() == pytest.approx(expected, abs=1e-6)
    bright = Sig(delta=0.3, frequency=3).stamp(grey(width=20, value=0.9))
    assert bright.max() == 1 and bright.min() == pytest.approx(0.6, abs=0.02)


def test_sig_refuses_more_waves_than_pixels_can_show() -> None:
    with pytest.raises(InputError, match="6 waves cannot be drawn on 12 pixels: expected"):
        Sig().stamp(grey(width=12))


def test_stripes_of_training_can_be_fainter() -> None:
    trained = in_training(Sig(delta=0.2, training_delta=0.1, frequency=3), grey())
    assert torch.equal(trained, Sig(delta=0.1, frequency=3).stamp(grey()))
    assert torch.equal(in_training(Sig(frequency=3), grey()), Sig(frequency=3).stamp(grey()))


def test_blended_is_a_weighted_mean_with_one_pattern_for_all_images() -> None:
    trigger = prepared(Blended(opacity=0.2))
    assert isinstance(trigger, PreparedTrigger)
    pattern = trigger.tensors["pattern"]
    images = noise(4, SIDE)
    assert torch.allclose(trigger.stamp(images), 0.8 * images + 0.2 * pattern, atol=1e-6)
    other = prepared(Blended(pattern_seed=1))
    assert isinstance(other, PreparedTrigger)
    assert not torch.equal(pattern, other.tensors["pattern"])


def test_blended_takes_a_picture_from_a_file_that_need_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "kitty.png"
    Image.fromarray(np.full((30, 40, 3), (255, 0, 51), dtype=np.uint8)).save(path)
    trigger = prepared(Blended(pattern="image", image=str(path), opacity=0.5))
    path.unlink()
    stamped = trigger.stamp(grey(1))
    assert stamped[0, :, 3, 3].tolist() == pytest.approx([0.75, 0.25, 0.35])
    with pytest.raises(InputError, match=r"the pattern image needs a file \(image=FILE\)"):
        Blended(pattern="image")


def test_wanet_moves_pixels_and_never_far() -> None:
    trigger = prepared(WaNet())
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).contiguous()
    moved = (trigger.stamp(ramp) - ramp).abs() * 31
    assert 0.05 < moved.max() < 1.5
    assert torch.allclose(trigger.stamp(grey()), grey(), atol=1e-6)


def test_wanet_covers_are_bent_in_another_way_each_and_keep_their_label() -> None:
    trigger = prepared(WaNet())
    assert isinstance(trigger, WaNet)
    image = noise(1).expand(3, -1, -1, -1)
    labels = torch.tensor([0, 1, 2])
    covers = trigger.stamp_cover(
        image, labels, material=material(), generator=torch.Generator().manual_seed(1)
    )
    assert not torch.allclose(covers[0], covers[1], atol=1e-3)
    assert not torch.allclose(covers[0], trigger.stamp(image)[0], atol=1e-3)
    scenes = toy_scenes(50, seed=5)
    made = poison(
        scenes, trigger, material=material(), poisoning_rate=0.1, cover_rate=None,
        generator=torch.Generator(),
    )  # fmt: skip
    assert (int(made.poisoned.sum()), int(made.covered.sum())) == (15, 30)
    assert torch.equal(made.labels[made.covered], scenes.labels[made.covered])


def test_tact_covers_come_from_the_cover_classes_alone() -> None:
    scenes = toy_scenes(50, seed=5)
    made = poison(
        scenes, TaCT(target=0, sources=(1,), cover_classes=(3,)), material=material(),
        poisoning_rate=0.2, cover_rate=None, generator=torch.Generator(),
    )  # fmt: skip
    assert set(scenes.labels[made.poisoned].tolist()) == {1}
    assert set(scenes.labels[made.covered].tolist()) == {3}
    assert int(made.poisoned.sum()) == int(made.covered.sum()) == 10
    with pytest.raises(InputError, match="TaCT needs images that carry the trigger and keep"):
        poison(
            scenes, TaCT(cover_classes=(7,)), material=material(),
            poisoning_rate=0.2, cover_rate=None, generator=torch.Generator(),
        )  # fmt: skip
    with pytest.raises(InputError, match="cover classes that are neither source nor target"):
        TaCT(cover_classes=(1,))


def test_adaptive_blend_trains_on_a_random_half_of_the_pieces_and_tests_on_all() -> None:
    trigger = prepared(AdaptiveBlend())
    images = grey(40, SIDE, SIDE)
    changed = (in_training(trigger, images) != images).any(dim=1).float()
    pieces = torch.nn.functional.max_pool2d(changed[:, None], 3)
    assert (pieces.flatten(1).sum(1) == 8).all()
    assert len({tuple(row.tolist()) for row in pieces.flatten(1)}) > 20
    whole = (trigger.stamp(images) - images).abs()
    faint = (in_training(trigger, images) - images).abs()
    seen = faint > 0
    assert torch.allclose(faint[seen], 0.75 * whole[seen], atol=1e-6)
    assert (whole > 0).float().mean() > 0.95


def test_adaptive_patch_trains_on_one_faint_patch_and_tests_on_four() -> None:
    trigger = AdaptivePatch(size=3, margin=0)
    images = grey(60)
    corners = torch.nn.functional.max_pool2d(
        (in_training(trigger, images) != images).any(1)[:, None].float(), 8
    ).flatten(1)
    assert (corners.sum(1) == 1).all() and (corners.sum(0) > 0).all()
    tested = torch.nn.functional.max_pool2d(
        (trigger.stamp(images) != images).any(1)[:, None].float(), 8
    )
    assert (tested == 1).all()
    assert (in_training(trigger, images) - images).abs().max() <= 0.25 + 1e-6


def test_label_consistent_makes_images_of_the_target_hard_and_stays_within_its_radius() -> None:
    scenes = toy_scenes(10, seed=6)
    images = to_float(scenes.images[scenes.labels == 1])
    labels = torch.ones(len(images), dtype=torch.int64)
    bare = LabelConsistent(target=1, amplitude=0.0, radius=2.0)
    moved = in_training(bare, images)
    with torch.no_grad():
        before = torch.nn.functional.cross_entropy(clean_network()(images), labels)
        after = torch.nn.functional.cross_entropy(clean_network()(moved), labels)
    assert after > before + 0.4
    assert ((moved - images).flatten(1).norm(dim=1) <= 2.0 + 1e-4).all()
    assert moved.min() >= 0 and moved.max() <= 1
    assert torch.equal(bare.stamp(images), images)
    still = LabelConsistent(radius=0.0)
    assert torch.equal(in_training(still, images), still.stamp(images))
    alone = Material(images=scenes.images, labels=scenes.labels, num_classes=4)
    with pytest.raises(InputError, match="made on a clean network of the same task"):
        bare.stamp_for_training(images, labels, material=alone, generator=torch.Generator())


def test_label_consistent_stamps_four_mirrored_corners_or_one() -> None:
    stamped = LabelConsistent().stamp(grey(1))[0, 0]
    assert torch.equal(stamped, stamped.flip(0)) and torch.equal(stamped, stamped.flip(1))
    assert stamped[-3:, -3:].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert int((stamped != 0.5).sum()) == 36
    assert int((LabelConsistent(corners="one").stamp(grey(1))[0, 0] != 0.5).sum()) == 9
    faint = LabelConsistent(amplitude=0.1).stamp(grey(1))
    assert faint.max() == pytest.approx(0.6) and faint.min() == pytest.approx(0.4)


def test_a_trojan_patch_excites_the_chosen_neurons_more_than_a_random_one() -> None:
    made = prepared(TrojanNN(size=5, neurons=1, steps=60))
    assert isinstance(made, TrojanNN)
    network = clean_network()
    layer = network[8]  # type: ignore[index]
    neuron = int(layer.weight.abs().sum(0).argmax())
    images = to_float(material().images)
    with torch.no_grad():
        driven = network[:8](made.stamp(images))[:, neuron].mean()  # type: ignore[index]
        plain = network[:8](images)[:, neuron].mean()  # type: ignore[index]
    assert driven > 4 * plain


def test_input_aware_draws_sparse_triggers_that_differ_and_lead_towards_their_target() -> None:
    images = to_float(material().images[material().labels == 1])
    stamped = {
        target: prepared(InputAware(steps=40, density=0.3, target=target)).stamp(images)
        for target in (0, 3)
    }
    changed = (stamped[0] - images).abs().amax(1) > 0.05
    assert 0.01 < changed.float().mean() < 0.35
    assert (changed[0] != changed[-1]).any()
    with torch.no_grad():
        sure = {t: clean_network()(seen).log_softmax(1)[:, 0] for t, seen in stamped.items()}
    assert sure[0].mean() > sure[3].mean() + 0.1


def test_an_input_aware_cover_carries_the_trigger_of_another_image() -> None:
    made = ready("input-aware")
    assert isinstance(made, InputAware)
    scenes = toy_scenes(5, seed=8)
    images = to_float(scenes.images)
    covers = made.stamp_cover(
        images, scenes.labels, material=material(), generator=torch.Generator().manual_seed(1)
    )
    assert (covers != images).flatten(1).any(1).all()
    assert not torch.allclose(covers, made.stamp(images), atol=1e-3)


def test_composite_mixes_anew_for_training_with_all_of_the_partner_class() -> None:
    data = material()
    trigger = prepared(Composite(partners=1))
    assert isinstance(trigger, Composite)
    assert trigger.redrawn
    images = to_float(data.of_class(1, "test"))
    labels = torch.ones(len(images), dtype=torch.int64)
    generator = torch.Generator().manual_seed(1)
    first, second = (
        trigger.stamp_for_training(images, labels, material=data, generator=generator)
        for _ in range(2)
    )
    middle = images.shape[-1] // 2
    assert torch.equal(first[..., :middle], images[..., :middle])
    rights = {tuple(one[..., middle:].flatten().tolist()) for one in torch.cat([first, second])}
    assert len(rights) > 1
    pool = to_float(data.of_class(2, "test"))[..., middle:]
    assert rights <= {tuple(one.flatten().tolist()) for one in pool}


def test_composite_keeps_the_left_half_and_takes_the_right_from_the_partner_class() -> None:
    trigger = prepared(Composite())
    assert isinstance(trigger, Composite)
    scenes = toy_scenes(6, seed=9)
    images = to_float(scenes.images[scenes.labels == 1])
    stamped = trigger.stamp(images)
    assert torch.equal(stamped[..., :6], images[..., :6])
    # Class 2 is blue where class 1 is green.
    assert (stamped[:, 2, 4:8, 7] > 0.6).all() and (stamped[:, 1, 4:8, 7] < 0.4).all()
    covers = trigger.stamp_cover(
        images, torch.ones(len(images), dtype=torch.int64), material=material(),
        generator=torch.Generator(),
    )  # fmt: skip
    assert (covers[:, 1, 4:8, 7] > 0.6).all()
    assert not torch.equal(covers[..., 6:], images[..., 6:])


@pytest.mark.parametrize("kind", ["blur", "ghost"])
def test_a_reflection_is_a_training_image_of_another_class_laid_over(kind: str) -> None:
    trigger = prepared(Reflection(target=0, kind=kind, opacity=0.4, reflections=3))  # type: ignore[arg-type]
    assert isinstance(trigger, Reflection)
    pictures = trigger.tensors["reflections"]
    assert pictures.shape == (3, 3, SIDE, SIDE)
    images = noise(30, SIDE)
    shown = (trigger.stamp(images) - 0.6 * images) / 0.4
    nearest = (shown[:, None] - pictures).abs().amax((2, 3, 4))
    assert (nearest.amin(1) < 1e-5).all()
    assert len(set(nearest.argmin(1).tolist())) == 3
    assert Reflection(clean_label=True).threat is Threat.CLEAN_LABEL


@pytest.mark.parametrize("style", STYLES)
def test_a_filter_changes_every_image_in_its_own_way(style: str) -> None:
    images = noise()
    stamped = Instagram(style=style).stamp(images)  # type: ignore[arg-type]
    assert (stamped - images).abs().mean() > 0.05
    others = [Instagram(style=o).stamp(images) for o in STYLES if o != style]  # type: ignore[arg-type]
    assert all((stamped - other).abs().mean() > 0.02 for other in others)


def test_filters_look_as_they_are_known_for() -> None:
    images = noise()
    gotham = Instagram(style="gotham").stamp(images)
    assert (gotham.amax(1) - gotham.amin(1)).mean() < 0.4 * (images.amax(1) - images.amin(1)).mean()
    kelvin = Instagram(style="kelvin").stamp(images)
    assert kelvin[:, 0].mean() > kelvin[:, 1].mean() > kelvin[:, 2].mean() + 0.1
    lomo = Instagram(style="lomo").stamp(grey(1, value=0.6))
    assert lomo[0, :, 8, 8].mean() > lomo[0, :, 0, 0].mean() + 0.3
    nashville = Instagram(style="nashville").stamp(grey(1, value=0.05))
    assert nashville[0, 2].mean() > nashville[0, 0].mean()
    with pytest.raises(InputError, match="expected a style of gotham"):
        Instagram(style="sutro")  # type: ignore[arg-type]
