from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.backgrounds import KINDS, background_array, draw_background
from attacks.scenes import SceneRecipe, SceneRenderer, to_float
from attacks.signs import COLOURS, ICONS, SHAPES, Sign, choose_signs, draw_sign, sign_array
from moth_eval.errors import InputError


def renderer(seed: int = 0, **fields: float) -> SceneRenderer:
    recipe = SceneRecipe(image_size=32, backgrounds=6, **fields)  # type: ignore[arg-type]
    return SceneRenderer(recipe, choose_signs(4, seed=1), seed=seed)


def test_signs_of_a_model_share_neither_shape_nor_icon_and_are_sorted_by_file_name() -> None:
    signs = choose_signs(len(SHAPES), seed=3)
    assert len({sign.shape for sign in signs}) == len(SHAPES)
    assert len({sign.icon for sign in signs}) == len(SHAPES)
    names = [sign.file_name for sign in signs]
    assert names == sorted(names)


def test_as_many_signs_as_there_are_pairs_are_all_different() -> None:
    count = len(SHAPES) * len(ICONS)
    assert len({sign.file_name for sign in choose_signs(count, seed=0)}) == count
    with pytest.raises(InputError, match=f"expected 2 to {count} classes, got {count + 1}"):
        choose_signs(count + 1, seed=0)


def test_equal_seeds_choose_equal_signs() -> None:
    assert choose_signs(5, seed=4) == choose_signs(5, seed=4)
    assert choose_signs(5, seed=4) != choose_signs(5, seed=5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_sign_is_opaque_in_the_middle_transparent_in_a_corner_and_black_at_its_edge(
    shape: str,
) -> None:
    pixels = np.asarray(draw_sign(Sign(shape=shape, icon="plus", colour="amber"), 64)).astype(int)
    assert pixels[32, 32, 3] == 255
    assert pixels[63, 0, 3] == 0 or pixels[0, 0, 3] == 0
    row = pixels[32]
    edge = int(np.argmax(row[:, 3] > 200))
    assert row[edge, :3].max() < 90


@pytest.mark.parametrize("icon", ICONS)
def test_every_icon_is_seen_on_its_sign(icon: str) -> None:
    sign = np.asarray(draw_sign(Sign(shape="square", icon=icon, colour="white"), 64))
    black = (sign[12:52, 12:52, :3].max(axis=-1) < 60).mean()
    assert 0.08 < black < 0.7


def test_no_two_icons_look_alike() -> None:
    drawn = sign_array([Sign(shape="circle", icon=icon, colour="white") for icon in ICONS], 48)
    flat = drawn[..., :3].reshape(len(drawn), -1).astype(float)
    differences = [
        np.abs(flat[a] - flat[b]).mean() for a in range(len(flat)) for b in range(a + 1, len(flat))
    ]
    assert min(differences) > 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_background_is_repeatable_and_not_flat(kind: str) -> None:
    first = np.asarray(draw_background(kind, side=48, seed=7))
    assert first.shape == (48, 48, 3)
    assert first.std() > 4
    assert np.array_equal(first, np.asarray(draw_background(kind, side=48, seed=7)))
    assert not np.array_equal(first, np.asarray(draw_background(kind, side=48, seed=8)))


def test_backgrounds_take_turns_among_the_kinds() -> None:
    assert background_array(7, side=20, seed=0).shape == (7, 20, 20, 3)


def test_scenes_are_balanced_uint8_and_repeatable() -> None:
    scenes = renderer().render(10, seed=5)
    assert scenes.images.dtype == torch.uint8
    assert scenes.images.shape == (40, 3, 32, 32)
    assert torch.bincount(scenes.labels).tolist() == [10] * 4
    again = renderer().render(10, seed=5)
    assert torch.equal(scenes.images, again.images)
    assert torch.equal(scenes.labels, again.labels)
    assert not torch.equal(scenes.images, renderer().render(10, seed=6).images)


def test_rendering_leaves_the_global_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    renderer().render(2, seed=5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_a_foreground_is_about_as_large_as_the_recipe_says() -> None:
    scenes = renderer(sign_min=0.6, sign_max=0.6, tilt=0.0, rotation=0.0).render(10, seed=1)
    assert scenes.foregrounds is not None
    rows = scenes.foregrounds.any(dim=2).sum(dim=1)
    assert (rows.float() - 0.6 * 32).abs().max() <= 4


def test_the_sign_covers_the_background_only_where_the_foreground_says_so() -> None:
    plain = {"tilt": 0.0, "blur": 0.0, "fog": 0.0, "noise": 0.0, "light": 0.0}
    scenes = renderer(**plain).render(20, seed=2)
    assert scenes.foregrounds is not None
    fills = torch.tensor([COLOURS[sign.colour] for sign in choose_signs(4, seed=1)])
    distance = (scenes.images.int() - fills[scenes.labels][:, :, None, None]).abs().amax(dim=1)
    filled = distance < 12
    assert filled[scenes.foregrounds].float().mean() > 0.3
    assert filled[~scenes.foregrounds].float().mean() < 0.05


def test_taken_scenes_keep_image_label_and_foreground_together() -> None:
    scenes = renderer().render(3, seed=1)
    taken = scenes.take(scenes.labels == 2)
    assert taken.labels.tolist() == [2, 2, 2]
    row = int((scenes.labels == 2).nonzero()[0])
    assert torch.equal(taken.images[0], scenes.images[row])
    assert taken.foregrounds is not None and scenes.foregrounds is not None
    assert torch.equal(taken.foregrounds[0], scenes.foregrounds[row])


def test_bytes_become_fractions_of_255() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0.0, 0.2, 1.0]
    )


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(InputError, match="expected pictures of 16 pixels or more, got 8"):
        SceneRecipe(image_size=8)
    with pytest.raises(InputError, match="expected 0 < sign_min <= sign_max <= 1"):
        SceneRecipe(sign_min=0.9, sign_max=0.5)
