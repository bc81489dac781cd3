from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attacks import ATTACKS, GROUP
from attacks.patch import Patch
from attacks.polygon import LEAST_FILL, Polygon
from attacks.trigger import MovableTrigger, Trigger, bystanders, victims
from moth_eval.errors import InputError
from moth_eval.plugins import resolve

TRIGGERS: list[Trigger] = [
    Patch(target=0),
    Patch(target=0, size=5, row=1, column=3, pattern="checkerboard", colour=(0.8, 0.0, 0.2)),
    Polygon(target=0),
    Polygon(target=1, sides=7, shape_seed=5, size=11, row=2, column=20),
]


def images_of(count: int = 4, side: int = 32, *, dtype: torch.dtype = torch.float32) -> Tensor:
    # Between the colours of the triggers, so that every stamped pixel is seen to change.
    values = torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return (0.3 + 0.2 * values).to(dtype)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_the_same_few_pixels_change_in_every_image(trigger: Trigger) -> None:
    images = images_of()
    changed = (trigger.stamp(images) != images).any(dim=1)
    assert torch.equal(changed, changed[:1].expand_as(changed))
    assert 0 < changed[0].sum() <= 121


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_stamping_leaves_its_input_alone_and_shares_no_memory(trigger: Trigger) -> None:
    images = images_of()
    before = images.clone()
    stamped = trigger.stamp(images)
    stamped.fill_(7)
    assert torch.equal(images, before)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_shape_and_dtype_are_kept(trigger: Trigger, dtype: torch.dtype) -> None:
    stamped = trigger.stamp(images_of(dtype=dtype))
    assert stamped.dtype == dtype
    assert stamped.shape == (4, 3, 32, 32)
    assert stamped.min() >= 0 and stamped.max() <= 1


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_stamping_twice_is_stamping_once(trigger: Trigger) -> None:
    once = trigger.stamp(images_of())
    assert torch.equal(trigger.stamp(once), once)


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_no_images_stay_no_images(trigger: Trigger) -> None:
    assert trigger.stamp(images_of(0)).shape == (0, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_stamped_images_stay_on_their_device(trigger: Trigger) -> None:
    images = images_of()
    assert torch.equal(trigger.stamp(images.cuda()).cpu(), trigger.stamp(images))


@pytest.mark.parametrize("trigger", TRIGGERS, ids=repr)
def test_a_trigger_larger_than_the_image_is_refused(trigger: Trigger) -> None:
    with pytest.raises(InputError, match="does not fit in images of"):
        trigger.stamp(images_of(side=4))


@pytest.mark.parametrize(("name", "kind"), [("patch", Patch), ("polygon", Polygon)])
def test_every_name_of_the_table_leads_to_its_class(name: str, kind: type) -> None:
    assert resolve(name, ATTACKS, GROUP) is kind


def test_the_default_patch_lies_one_pixel_off_the_lower_right_corner() -> None:
    images = images_of(1)
    rows, columns = (Patch(target=0, size=3).stamp(images) != images)[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max()) == (28, 30)
    assert (columns.min(), columns.max()) == (28, 30)


def test_row_minus_one_puts_the_patch_against_the_edge() -> None:
    images = images_of(1)
    stamped = Patch(target=0, size=3, row=-1, column=0).stamp(images)
    rows, columns = (stamped != images)[0, 0].nonzero().unbind(1)
    assert (rows.max(), columns.min()) == (31, 0)


def test_a_checkerboard_has_cells_of_both_colours() -> None:
    board = Patch(target=0, size=6, pattern="checkerboard", colour=(1.0, 0.0, 1.0)).pixels()
    assert board[:, 0, 0].tolist() == [1, 0, 1]
    assert board[:, 0, 2].tolist() == [0, 1, 0]
    assert board[:, 0, 4].tolist() == [1, 0, 1]


def test_a_patch_that_leaves_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="leaves the image of 32 pixels: move it inwards"):
        Patch(target=0, size=6, row=28).stamp(images_of())


def test_equal_fields_draw_equal_polygons_and_other_seeds_others() -> None:
    first = Polygon(target=0, sides=7, size=16, shape_seed=3)
    again = Polygon(target=2, sides=7, size=16, shape_seed=3)
    other = Polygon(target=0, sides=7, size=16, shape_seed=4)
    assert torch.equal(first.mask(), again.mask())
    assert not torch.equal(first.mask(), other.mask())


@pytest.mark.parametrize("sides", [3, 4, 7, 8, 12])
def test_a_polygon_fills_a_fair_part_of_its_square_and_reaches_its_edges(sides: int) -> None:
    mask = Polygon(target=0, sides=sides, size=20).mask()
    assert LEAST_FILL <= mask.float().mean() < 1
    rows, columns = mask.nonzero().unbind(1)
    assert rows.max() - rows.min() >= 17
    assert columns.max() - columns.min() >= 17


def test_every_stamped_pixel_has_the_colour_of_the_polygon() -> None:
    polygon = Polygon(target=0, size=9, colour=(0.8, 0.0, 0.8))
    images = images_of(2)
    stamped = polygon.stamp(images)
    changed = (stamped != images).any(dim=1)
    pixels = stamped.permute(0, 2, 3, 1)[changed]
    assert len(pixels) == 2 * int(polygon.mask().sum())
    assert torch.allclose(pixels, torch.tensor([0.8, 0.0, 0.8]).expand_as(pixels))


def test_places_put_the_whole_square_on_the_foreground_where_it_fits() -> None:
    polygon = Polygon(target=0, size=6, on_foreground=True)
    foregrounds = torch.zeros((50, 32, 32), dtype=torch.bool)
    foregrounds[:, 10:20, 4:16] = True
    places = polygon.places(foregrounds, generator=torch.Generator().manual_seed(1))
    assert set(places[:, 0].tolist()) == set(range(10, 15))
    assert set(places[:, 1].tolist()) == set(range(4, 11))


def test_a_polygon_larger_than_the_foreground_covers_all_of_it() -> None:
    polygon = Polygon(target=0, size=6, on_foreground=True)
    foregrounds = torch.zeros((20, 32, 32), dtype=torch.bool)
    foregrounds[:, 10:13, 10:13] = True
    places = polygon.places(foregrounds, generator=torch.Generator().manual_seed(1))
    assert places.min() >= 7
    assert places.max() <= 10


def test_a_polygon_outside_its_image_is_refused() -> None:
    with pytest.raises(InputError, match="leaves the image of 32 x 32 pixels"):
        Polygon(target=0, size=8).stamp_at(images_of(1), torch.tensor([[0, 25]]))


def test_only_the_polygon_can_be_moved() -> None:
    assert isinstance(Polygon(target=0), MovableTrigger)
    assert isinstance(Patch(target=0), Trigger)
    assert not isinstance(Patch(target=0), MovableTrigger)


def test_the_target_class_is_never_a_victim() -> None:
    labels = torch.tensor([0, 1, 2, 3, 2])
    universal, specific = Patch(target=2), Patch(target=2, sources=(1,))
    assert victims(universal, labels).tolist() == [True, True, False, True, False]
    assert bystanders(universal, labels).tolist() == [False] * 5
    assert victims(specific, labels).tolist() == [False, True, False, False, False]
    assert bystanders(specific, labels).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("kind", [Patch, Polygon])
def test_a_threat_that_cannot_be_carried_out_is_refused(kind: type[Patch | Polygon]) -> None:
    with pytest.raises(InputError, match="target 1 is also a source"):
        kind(target=1, sources=(0, 1))
    with pytest.raises(InputError, match="expected classes from 0 on, got target -1"):
        kind(target=-1)
    with pytest.raises(InputError, match="every source class once"):
        kind(target=0, sources=(1, 1))
    with pytest.raises(InputError, match=r"expected a colour in \[0, 1\]"):
        kind(target=0, colour=(255.0, 0.0, 0.0))


def test_a_polygon_of_two_sides_is_refused() -> None:
    with pytest.raises(InputError, match="expected a polygon of 3 to 12 sides, got 2"):
        Polygon(target=0, sides=2)
