from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moth_eval.errors import InputError
from moth_eval.loading.images import read_pictures
from moth_eval.loading.known_sizes import stated_size
from moth_eval.loading.stacking import Size, resized

ANY: dict[str, Any] = {"layout": "files", "crop": None, "num_classes": None}


def checks(side: int) -> np.ndarray:
    """Black and white pixels in turn, `(3, side, side)`."""
    return np.tile(255 * (np.indices((side, side)).sum(0) % 2), (3, 1, 1)).astype(np.uint8)


def test_fine_patterns_become_grey_as_antialiasing_makes_them() -> None:
    small = resized(checks(64), (8, 8))
    assert (small.shape, small.dtype) == ((3, 8, 8), np.uint8)
    assert abs(small.astype(int) - 127.5).max() < 3


def test_pictures_are_stretched_and_none_of_them_is_cut_off() -> None:
    wide = np.zeros((3, 10, 40), dtype=np.uint8)
    wide[:, :, 20:] = 200
    square = resized(wide, (10, 10))
    assert (square[:, :, :4] == 0).all()
    assert (square[:, :, 6:] == 200).all()


def test_enlarged_pictures_run_smoothly_between_the_pixels_that_they_had() -> None:
    steps = np.tile(np.array([0, 100], dtype=np.uint8), (3, 2, 1))
    assert resized(steps, (2, 4))[0, 0].tolist() == [0, 25, 75, 100]


def write_sizes(folder: Path, *sizes: tuple[int, int]) -> Path:
    for number, size in enumerate(sizes):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number, 0, 0)).save(folder / str(number % 2) / f"{number}.png")
    return folder


def test_pictures_of_several_sizes_get_the_one_that_is_wanted_and_it_is_said(
    tmp_path: Path,
) -> None:
    folder = write_sizes(tmp_path, (20, 30), (8, 12), (40, 8), (12, 8))
    found = read_pictures(folder, **ANY, size=Size(height=12, width=8))
    assert found.image_shape == (3, 12, 8)
    assert found.images[:, 0, 0, 0].tolist() == [0, 2, 1, 3]
    assert found.resized == (
        f"3 of 4 images of {folder} were resized to 8x12 pixels (bilinear, antialiased)"
    )


def test_pictures_of_one_other_size_are_resized_only_if_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_sizes(tmp_path, (9, 9), (9, 9))
    size = Size(height=4, width=4)
    found = read_pictures(folder, **ANY, size=size)
    assert (found.image_shape, found.resized) == ((3, 9, 9), "")
    asked = read_pictures(folder, **ANY, size=replace(size, always=True))
    assert asked.image_shape == (3, 4, 4)
    assert asked.resized.startswith("2 of 2 images of ")


def test_pictures_that_came_before_another_size_are_resized_like_all_others(
    tmp_path: Path,
) -> None:
    folder = write_sizes(tmp_path, (4, 4), (9, 9), (9, 9), (9, 9), (4, 4))
    size = Size(height=6, width=6)
    late = read_pictures(folder, **ANY, size=size)
    first = read_pictures(folder, **ANY, size=replace(size, always=True))
    assert torch.equal(late.images, first.images)
    assert late.resized == first.resized
    assert late.resized.startswith("5 of 5 images of ")


def test_pictures_of_several_sizes_are_refused_while_none_is_known(tmp_path: Path) -> None:
    folder = write_sizes(tmp_path, (8, 8), (9, 9))
    with pytest.raises(InputError, match=r"1\.png is 9x9 pixels, .*0\.png is 8x8: .*--image-size"):
        read_pictures(folder, **ANY)


def test_memory_is_counted_by_the_size_that_pictures_get(tmp_path: Path) -> None:
    folder = write_sizes(tmp_path, (200, 200), (100, 100))
    four = Size(height=4, width=4, always=True)
    assert len(read_pictures(folder, **ANY, size=four, most_bytes=2 * 3 * 4 * 4)) == 2
    with pytest.raises(InputError, match="holds 2 images of 4x4 pixels: "):
        read_pictures(folder, **ANY, size=four, most_bytes=2 * 3 * 4 * 4 - 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("attack.json", {"data": {"image_shape": [3, 24, 32]}}),
        ("card.json", {"run": {"image_shape": [1, 24, 32]}}),
    ],
)
def test_records_beside_a_model_say_the_size_of_its_images(
    tmp_path: Path, name: str, content: object
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert stated_size(tmp_path / "model.safetensors") == Size(height=24, width=32)
    assert stated_size(tmp_path) == Size(height=24, width=32)
    assert stated_size(tmp_path / "another.safetensors") is None


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "null", '{"data": 3}', '{"data": {"image_shape": "3,8,8"}}']
    + [
        json.dumps({"data": {"image_shape": shape}})
        for shape in ([8, 8], [3, 0, 8], [3, 8, 10**9], [3, True, 8], [3, 8.0, 8], [[3], 8, {}])
    ],
)
def test_records_that_say_no_size_that_can_be_are_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / "attack.json").write_text(content)
    assert stated_size(tmp_path) is None
