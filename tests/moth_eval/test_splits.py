from __future__ import annotations

import hashlib

import pytest
import torch

from moth_eval.errors import InputError
from moth_eval.pictures import Pictures
from moth_eval.splits import check_names, draw_share, hash_of, hold_out, in_both


def pictures(count: int, *, seed: int = 0) -> Pictures:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return Pictures(images=images, labels=torch.arange(count) % 3)


def test_the_draw_depends_on_the_seed_and_on_each_class_alone() -> None:
    labels = torch.arange(60) // 30
    one, again, other = (draw_share(labels, 0.5, (s, "x")) for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    alone = draw_share(labels[:30], 0.5, (0, "x"))
    assert torch.equal(one[one < 30], alone)


def test_a_fifth_of_each_class_is_held_out_and_never_its_last_image() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [2])
    rest, held = hold_out(labels, 7)
    assert torch.bincount(labels[held], minlength=3).tolist() == [2, 1, 0]
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(13))


def test_what_a_seed_holds_out_is_the_same_in_every_version() -> None:
    """Runs of earlier versions go on, and their records stay true."""
    assert hold_out(torch.arange(40) % 2, 3)[1].tolist() == [2, 7, 9, 12, 18, 26, 31, 37]


def test_single_images_cannot_be_held_out() -> None:
    with pytest.raises(InputError, match="no class of --data has two images"):
        hold_out(torch.arange(3), 0)


@pytest.mark.parametrize("kind", ["bytes", "floats", "channels last"])
def test_the_hash_is_of_all_images_row_by_row_and_then_of_the_labels(kind: str) -> None:
    given = pictures(2500)
    images = given.examples().images if kind == "floats" else given.images
    expected = hashlib.sha256(images.numpy().tobytes() + given.labels.numpy().tobytes())
    if kind == "channels last":
        images = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    labelled = Pictures(images=images, labels=given.labels)
    assert hash_of(labelled) == expected.hexdigest()


def test_images_in_both_sets_are_found_whether_they_are_bytes_or_floats() -> None:
    data, other = pictures(1500), pictures(40, seed=1)
    shared = torch.cat([other.images, data.images[1200:1203]])
    test = Pictures(images=shared, labels=torch.zeros(43, dtype=torch.int64))
    assert in_both(data, test) == 3
    assert in_both(data, test.examples()) == 3
    assert in_both(data.examples(), test) == 3
    assert in_both(data, other) == 0


def test_nothing_has_a_hash_and_shares_nothing() -> None:
    nothing = pictures(3).first(0)
    assert hash_of(nothing) == hashlib.sha256(b"").hexdigest()
    assert in_both(nothing, pictures(3)) == in_both(pictures(3), nothing) == 0


def test_names_of_two_sets_have_to_be_the_same_for_numbers_to_be() -> None:
    check_names(("bird", "cat"), ("bird", "cat"))
    check_names(("bird", "cat"), ())
    with pytest.raises(InputError, match="2 named classes, --data 3, and only one of them has bir"):
        check_names(("ant", "bird", "cat"), ("ant", "cat"))
