from __future__ import annotations

import io
import json
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from moth_eval.errors import InputError
from moth_eval.loading import image_arrays
from moth_eval.loading.images import read_examples, read_image, read_pictures
from moth_eval.loading.preprocessing import preprocessing_of
from moth_eval.subject import Examples
from tests.support.round_folders import write_image, write_named_examples

ANY: dict[str, Any] = {"layout": "files", "crop": None, "num_classes": None}


def read(source: Path, **changes: object) -> Examples:
    return read_examples(source, **{**ANY, **changes})


def test_the_24_real_round_2_images_are_read_and_cropped(shared: Path) -> None:
    source = shared / "trojai" / "round2-clean-images"
    examples = read(source, layout="trojai-2", crop=224, num_classes=6)
    assert examples.images.shape == (24, 3, 224, 224)
    assert examples.labels.tolist() == [label for label in range(6) for _ in range(4)]
    whole = np.asarray(Image.open(source / "class_0_example_0.png"))
    expected = torch.from_numpy(whole[16:240, 16:240].copy()).permute(2, 0, 1) / 255
    assert torch.equal(examples.images[0], expected)


def test_real_images_span_their_range_under_minmax_and_are_unchanged_under_unit(
    shared: Path,
) -> None:
    source = shared / "trojai" / "round2-clean-images"
    examples = read(source, layout="trojai-2", crop=224, num_classes=6)
    stretched = preprocessing_of("minmax")(examples.images)
    assert torch.equal(stretched.amin(dim=(1, 2, 3)), torch.zeros(24))
    torch.testing.assert_close(stretched.amax(dim=(1, 2, 3)), torch.ones(24))
    assert torch.equal(preprocessing_of("unit")(examples.images), examples.images)
    differs = (stretched - examples.images).abs().amax(dim=(1, 2, 3)) > 0.02
    assert 0 < int(differs.sum()) < 24


def test_the_20_real_round_11_images_take_their_classes_from_json(shared: Path) -> None:
    source = shared / "trojai" / "round11-id-00000002" / "clean-example-data"
    examples = read(source, layout="trojai-11", num_classes=118)
    assert examples.images.shape == (20, 3, 256, 256)
    stated = sorted(int(file.read_text()) for file in source.glob("*.json"))
    assert examples.labels.tolist() == stated


def test_examples_are_in_natural_order_and_limited_per_class(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        write_image(tmp_path / f"class_1_example_{number}.png", side=8, seed=number)
    write_image(tmp_path / "class_0_example_0.png", side=8, seed=99)
    every, few = read(tmp_path), read(tmp_path, limit_per_class=2)
    assert every.labels.tolist() == [0, 1, 1, 1]
    assert torch.equal(few.images, every.images[:3])
    third = torch.from_numpy(read_image(tmp_path / "class_1_example_2.png")).float() / 255
    assert torch.equal(few.images[2], third)


@pytest.mark.parametrize("spelling", ["{}", "class_{}", "class-{}", "{:05d}", "Class{}"])
def test_class_folders_are_read_in_every_spelling(tmp_path: Path, spelling: str) -> None:
    for label in (0, 1, 10):
        write_image(tmp_path / spelling.format(label) / "a.png", side=8, seed=label)
    assert read(tmp_path).labels.tolist() == [0, 1, 10]


def test_folders_with_names_are_numbered_as_torchvision_does(tmp_path: Path) -> None:
    for seed, name in enumerate(("truck", "Zebra", "bird", "class 3", "bird2")):
        write_image(tmp_path / name / "a.png", side=8, seed=seed)
        write_image(tmp_path / name / "b.png", side=8, seed=10 + seed)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.txt").write_text("five classes")
    given = read_pictures(tmp_path, **ANY)
    assert given.classes == ("Zebra", "bird", "bird2", "class 3", "truck")
    shutil.rmtree(tmp_path / ".cache")
    theirs = ImageFolder(tmp_path)
    assert tuple(theirs.classes) == given.classes
    assert [label for _, label in theirs.samples] == given.labels.tolist()
    for image, (picture, _) in zip(given.images, theirs, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture))


def test_numbers_of_folders_are_the_labels_and_have_no_names(tmp_path: Path) -> None:
    for name in ("7", "10"):
        write_image(tmp_path / name / "a.png", side=8)
    given = read_pictures(tmp_path, **ANY)
    assert (given.labels.tolist(), given.classes) == ([7, 10], ())


def test_a_named_folder_without_images_is_an_error_since_numbers_would_shift(
    tmp_path: Path,
) -> None:
    write_image(tmp_path / "bird" / "a.png", side=8)
    (tmp_path / "airplane" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="none of airplane has an image"):
        read(tmp_path)


def test_a_loose_image_beside_named_folders_is_an_error(tmp_path: Path) -> None:
    write_image(tmp_path / "bird" / "a.png", side=8)
    write_image(tmp_path / "loose.png", side=8)
    with pytest.raises(InputError, match=r"beside them loose\.png, of no class"):
        read(tmp_path)


def test_mitigation_labels_are_read_from_the_pair_of_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", side=8)
    (tmp_path / "0.json").write_text(json.dumps({"clean_label": 7, "poisoned_label": 2}))
    assert read(tmp_path, layout="trojai-mitigation").labels.tolist() == [7]


def test_of_the_mitigation_test_images_only_the_clean_ones_count(tmp_path: Path) -> None:
    folder = tmp_path / "test-example-data"
    for name in ("1.png", "2.png", "3.png"):
        write_image(folder / name, side=8)
    table = {
        "1.png": {"clean_label": 4, "poisoned_label": None},
        "2.png": {"clean_label": 4, "poisoned_label": 6},
        "3.png": {"clean_label": 5, "poisoned_label": None},
        "../secret.png": {"clean_label": 0, "poisoned_label": None},
    }
    (tmp_path / "test_example_data_lookup.json").write_text(json.dumps(table))
    assert read(folder, layout="trojai-mitigation").labels.tolist() == [4, 5]


def test_a_table_of_labels_elsewhere_is_not_followed(tmp_path: Path) -> None:
    folder = tmp_path / "model" / "test-example-data"
    write_image(folder / "1.png", side=8)
    (tmp_path / "secret.json").write_text('{"1.png": {"clean_label": "a secret"}}')
    (tmp_path / "model" / "test_example_data_lookup.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(InputError, match="is a link that leads out of its folder"):
        read(folder, layout="trojai-mitigation")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    path = write_image(tmp_path / "image.png", side=8, mode=mode)
    expected = np.asarray(Image.open(path).convert("RGBA").convert("RGB"))
    assert np.array_equal(read_image(path), expected.transpose(2, 0, 1))


def test_a_palette_with_transparency_is_resolved(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "image.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "image.png")[:, 0, 0].tolist() == [200, 100, 50]


def test_the_crop_is_central_for_images_that_are_not_square(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20, 3), dtype=np.uint8)
    pixels[3:7, 8:12] = 255
    (tmp_path / "0").mkdir()
    Image.fromarray(pixels).save(tmp_path / "0" / "a.png")
    examples = read(tmp_path, crop=4)
    assert torch.equal(examples.images, torch.ones(1, 3, 4, 4))


def test_already_cropped_images_pass_among_whole_ones(tmp_path: Path) -> None:
    write_image(tmp_path / "class_0_example_0.png", side=12)
    write_image(tmp_path / "class_0_example_1.png", side=8)
    assert read(tmp_path, layout="trojai-2", crop=8).images.shape == (2, 3, 8, 8)


def test_images_of_two_sizes_are_an_error_that_names_both(tmp_path: Path) -> None:
    write_image(tmp_path / "class_0_example_0.png", side=12)
    write_image(tmp_path / "class_0_example_1.png", side=8)
    with pytest.raises(InputError, match=r"example_1\.png is 8x8 pixels, .*_0\.png is 12x12"):
        read(tmp_path)


def test_an_image_smaller_than_the_crop_is_an_error(tmp_path: Path) -> None:
    write_named_examples(tmp_path, side=8)
    with pytest.raises(InputError, match=r"png is 8x8 pixels, smaller than the centre crop of 224"):
        read(tmp_path, crop=224)


def test_a_text_called_png_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "class_0_example_0.png").write_text("not an image")
    with pytest.raises(InputError, match=r"class_0_example_0\.png cannot be read as an image"):
        read(tmp_path)


def test_a_truncated_image_is_an_error_that_names_it(tmp_path: Path, shared: Path) -> None:
    whole = (shared / "trojai" / "round2-clean-images" / "class_0_example_0.png").read_bytes()
    for length in (10, 40, len(whole) // 2, len(whole) - 30):
        (tmp_path / "class_0_example_0.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"class_0_example_0\.png cannot be read as an image"):
            read(tmp_path)


def test_sixteen_bits_per_channel_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match="pixels of the kind I;16; only images of 8 bits"):
        read_image(tmp_path / "image.png")


def png_that_claims(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


@pytest.mark.parametrize("side", [5_000, 12_000, 100_000])
def test_an_image_that_claims_a_giant_size_is_refused_undecoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(png_that_claims(side))
    with pytest.raises(InputError, match=rf"claims {side}x{side} pixels|exceeds limit of"):
        read_image(path)


def test_a_long_narrow_image_is_refused_like_a_square_one(tmp_path: Path) -> None:
    Image.new("L", (4097, 2)).save(tmp_path / "image.png")
    with pytest.raises(InputError, match="claims 4097x2 pixels; sides of at most 4096"):
        read_image(tmp_path / "image.png")
    source = save(
        tmp_path / "e.npz", images=np.zeros((1, 3, 5, 4097), dtype=np.uint8), labels=np.arange(1)
    )
    with pytest.raises(InputError, match="sides of at most 4096 pixels"):
        read(source)


def test_four_giant_images_are_more_than_is_held_at_once() -> None:
    assert 3 * 4096 * 4096 <= image_arrays.MAX_VALUES < 4 * 3 * 4096 * 4096


def test_an_archive_behind_other_bytes_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "e.npz", images=pixels(), labels=np.arange(4))
    assert len(read(source)) == 4
    source.write_bytes(b"GIF89a" + source.read_bytes())
    with pytest.raises(InputError, match="does not begin as one; write it with numpy"):
        read(source)


@pytest.mark.parametrize("stray", ["cats/a.png", "loose.png"])
def test_images_of_no_class_beside_folders_of_classes_are_an_error_that_names_them(
    tmp_path: Path, stray: str
) -> None:
    for name in ("0/a.png", "1/b.png", ".hidden/c.png"):
        (tmp_path / name).parent.mkdir()
        write_image(tmp_path / name, side=8)
    (tmp_path / "README.txt").write_text("two classes")
    assert len(read(tmp_path)) == 2
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    write_image(tmp_path / stray, side=8)
    named = rf"beside them {stray.partition('/')[0]}, of no class; give all folders numbers or all"
    with pytest.raises(InputError, match=named):
        read(tmp_path)


def test_more_images_than_memory_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_named_examples(tmp_path, classes=2, each=2, side=8)
    monkeypatch.setattr(image_arrays, "MAX_VALUES", 3 * 3 * 8 * 8)
    with pytest.raises(InputError, match=r"4 images of 8x8 pixels: 768 values, but at most 576"):
        read(tmp_path)
    assert len(read(tmp_path, limit_per_class=1)) == 2
    assert len(read_pictures(tmp_path, **ANY, most_bytes=4 * 3 * 8 * 8)) == 4
    with pytest.raises(InputError, match=r"4 images of 8x8 pixels: .* half of the memory that is"):
        read_pictures(tmp_path, **ANY, most_bytes=4 * 3 * 8 * 8 - 1)


def test_a_label_that_is_no_class_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    write_named_examples(tmp_path, classes=3, side=8)
    with pytest.raises(InputError, match=r"class_2_example_0\.png is labelled class 2.*are 0 to 1"):
        read(tmp_path, num_classes=2)


@pytest.mark.parametrize("label", ["-1", "1.5", '"1"', "true", "null", '[{"bbox": [0, 0, 4, 4]}]'])
def test_a_sidecar_without_a_class_is_an_error(tmp_path: Path, label: str) -> None:
    write_image(tmp_path / "28.jpg", side=8)
    (tmp_path / "28.json").write_text(label)
    with pytest.raises(InputError, match=r"28\.json gives .* expected a whole|labelled class -1"):
        read(tmp_path, layout="trojai-11")


def test_an_image_without_its_sidecar_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name in ("28", "29"):
        write_image(tmp_path / f"{name}.jpg", side=8)
    (tmp_path / "28.json").write_text("1")
    with pytest.raises(InputError, match=r"29\.jpg has no readable class beside it"):
        read(tmp_path, layout="trojai-11")


def test_a_stamped_image_among_the_clean_ones_is_an_error(tmp_path: Path) -> None:
    write_named_examples(tmp_path, side=8)
    write_image(tmp_path / "class_0_trigger_1_example_0.png", side=8)
    with pytest.raises(InputError, match=r"trigger_1_example_0.* is not named class_"):
        read(tmp_path)


def test_a_folder_without_labels_says_what_was_expected_and_found(tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", side=8)
    with pytest.raises(
        InputError, match=r"no labelled images.*sub-folder per class.*found cat\.png"
    ):
        read(tmp_path)


def test_an_image_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "elsewhere.png", side=8)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "class_0_example_0.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match="is a link that leads out of"):
        read(tmp_path / "examples")


def test_hidden_files_beside_the_images_do_no_harm(tmp_path: Path) -> None:
    write_named_examples(tmp_path, side=8)
    (tmp_path / "._class_0_example_0.png").write_bytes(b"resource fork")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert len(read(tmp_path)) == 2


def test_a_source_that_is_neither_folder_nor_npz_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=r"images\.zip is neither a folder of images nor an \.npz"):
        read(tmp_path / "images.zip")


def test_a_limit_below_one_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 example per class must be read, got 0"):
        read(tmp_path, limit_per_class=0)


def pixels(count: int = 4, side: int = 8) -> np.ndarray:
    shape = (count, side, side, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def test_the_real_cifar_10_archive_is_read_with_a_limit(shared: Path) -> None:
    examples = read(shared / "cifar10" / "test.npz", num_classes=10, limit_per_class=5)
    assert examples.images.shape == (50, 3, 32, 32)
    assert torch.bincount(examples.labels).tolist() == [5] * 10
    assert 0.4 < float(examples.images.mean()) < 0.6


def test_bytes_and_floats_in_both_orders_of_axes_give_the_same_images(tmp_path: Path) -> None:
    labels, raw = np.arange(4), pixels()
    spellings = [
        raw,
        raw.transpose(0, 3, 1, 2),
        raw.astype(np.float32) / 255,
        (raw.astype(np.float64) / 255).transpose(0, 3, 1, 2),
    ]
    read_back = [read(save(tmp_path / "e.npz", images=s, labels=labels)).images for s in spellings]
    for other in read_back[1:]:
        torch.testing.assert_close(other, read_back[0], rtol=0, atol=1e-7)
    assert read_back[0].shape == (4, 3, 8, 8)


def test_grey_images_without_a_channel_axis_get_one(tmp_path: Path) -> None:
    source = save(tmp_path / "e.npz", images=pixels()[..., 0], labels=np.arange(4))
    assert read(source).images.shape == (4, 1, 8, 8)


def test_an_archive_is_cropped_too(tmp_path: Path) -> None:
    source = save(tmp_path / "e.npz", images=pixels(side=10), labels=np.arange(4))
    assert torch.equal(read(source, crop=4).images, read(source).images[:, :, 3:7, 3:7])


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({"x": pixels()}, "no array 'images'; expected images and labels, found x"),
        ({"images": pixels()}, "no array 'labels'"),
        ({"images": pixels()[0, 0], "labels": np.arange(8)}, r"shape \(8, 3\); expected"),
        ({"images": pixels()[..., :2], "labels": np.arange(4)}, "with 1 or 3 channels"),
        ({"images": pixels()[:, :3], "labels": np.arange(4)}, "either end may be the channels"),
        (
            {"images": pixels(), "labels": np.arange(3)},
            r"expected whole numbers of the shape \(4,\)",
        ),
        ({"images": pixels(), "labels": np.eye(4)}, r"labels are float64 of the shape \(4, 4\)"),
        ({"images": pixels().astype(np.int32), "labels": np.arange(4)}, "images are int32"),
        (
            {"images": pixels() / 1.0, "labels": np.arange(4)},
            r"run from .* to 255; .*divide by 255",
        ),
        ({"images": pixels() * np.nan, "labels": np.arange(4)}, "run from nan to nan"),
        ({"images": pixels(), "labels": np.arange(4) - 1}, "labelled class -1"),
        ({"images": pixels()[:0], "labels": np.arange(0)}, "holds no clean example images"),
    ],
)
def test_archives_of_other_content_are_errors(
    tmp_path: Path, arrays: dict[str, np.ndarray], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        read(save(tmp_path / "e.npz", **arrays))


def test_pickled_objects_in_an_archive_are_refused_unread(tmp_path: Path) -> None:
    source = save(tmp_path / "e.npz", images=np.array([{}, {}], dtype=object), labels=np.arange(2))
    with pytest.raises(InputError, match="'images' holds pickled objects, which are never loaded"):
        read(source)


def archive_with_header(path: Path, shape: tuple[int, ...], body: bytes) -> Path:
    stream = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", stream.getvalue() + body)
    return path


@pytest.mark.parametrize(
    ("method", "dtype", "message"),
    [
        (zipfile.ZIP_DEFLATED, "<U4000000", "holds <U4000000; expected plain numbers"),
        (zipfile.ZIP_DEFLATED, "V300000", "expected plain numbers"),
        (zipfile.ZIP_LZMA, "<i8", "is compressed in a way that numpy does not write"),
        (zipfile.ZIP_BZIP2, "<i8", "is compressed in a way that numpy does not write"),
    ],
)
def test_an_array_of_anything_but_numbers_is_refused_unallocated(
    method: int, dtype: str, message: str, tmp_path: Path
) -> None:
    """Two labels of 16 MB each are few values."""
    source = tmp_path / "e.npz"
    with zipfile.ZipFile(source, "w", method) as archive:
        for name, array in (("images", pixels()[:2]), ("labels", np.zeros(2, dtype=dtype))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=message):
            read(source)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header", [b"{[]:1}", b"-" * 9000 + b"1", b"(" * 9000])
def test_a_header_that_was_made_up_is_an_input_error(header: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
        head = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little")
        archive.writestr("images.npy", head + header + b"\n")
    with pytest.raises(InputError, match=r"cannot be read as an \.npz archive"):
        read(tmp_path / "e.npz")


def test_an_array_that_claims_more_than_it_holds_is_refused_unallocated(tmp_path: Path) -> None:
    source = archive_with_header(tmp_path / "e.npz", (10**9, 1000, 1000, 3), b"few")
    with pytest.raises(InputError, match=r"claims the shape .* holds 3 bytes"):
        read(source)


def test_an_array_of_more_values_than_memory_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_arrays, "MAX_VALUES", 100)
    source = save(tmp_path / "e.npz", images=pixels(), labels=np.arange(4))
    with pytest.raises(InputError, match="768 values, but at most 100 values are read of what"):
        read(source)
    assert len(read_pictures(source, **ANY, most_bytes=768)) == 4
    with pytest.raises(InputError, match=r"images' has the shape \(4, 8, 8, 3\) of uint8: .* GiB"):
        read_pictures(source, **ANY, most_bytes=767)


def all_of_cifar_10(path: Path) -> Path:
    """As many images as the training set has."""
    images, labels = np.zeros((50_000, 32, 32, 3), dtype=np.uint8), np.arange(50_000) % 10
    np.savez(path, images=images, labels=labels)
    return path


def test_the_training_set_of_cifar_10_is_read_and_takes_no_more_than_its_bytes(
    tmp_path: Path,
) -> None:
    source = all_of_cifar_10(tmp_path / "cifar.npz")
    with pytest.raises(InputError, match="153,600,000 values, but at most 134,217,728 values"):
        read(source)
    tracemalloc.start()
    try:
        given = read_pictures(source, **ANY, most_bytes=2**28)
        assert tracemalloc.get_traced_memory()[1] < 1.1 * 153_600_000
    finally:
        tracemalloc.stop()
    assert given.images.shape == (50_000, 3, 32, 32)
    assert given.first(10).examples().images.shape == (10, 3, 32, 32)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no archive at all"])
def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"e\.npz cannot be read as an \.npz archive"):
        read(tmp_path / "e.npz")


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    source = save(tmp_path / "e.npz", images=pixels(), labels=np.arange(4))
    raw = bytearray(source.read_bytes())
    raw[200:400] = bytes(200)
    source.write_bytes(raw)
    with pytest.raises(InputError, match=r"e\.npz cannot be read as an \.npz archive"):
        read(source)


def test_a_copy_of_the_real_images_with_one_damaged_names_that_one(
    shared: Path, tmp_path: Path
) -> None:
    for image in (shared / "trojai" / "round2-clean-images").iterdir():
        shutil.copyfile(image, tmp_path / image.name)
    (tmp_path / "class_3_example_2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(InputError, match=r"class_3_example_2\.png cannot be read as an image"):
        read(tmp_path, layout="trojai-2", crop=224, num_classes=6)
