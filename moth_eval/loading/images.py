"""Clean example images from a folder or an `.npz`, into image space."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ..pictures import Pictures
from ..subject import Examples
from .image_arrays import MAX_SIDE, read_arrays
from .labelled_files import LabelledFile, labelled_files
from .sources import ImageSource, TorchvisionSet
from .stacking import Size, Stack, size_of
from .torchvision_sets import read_torchvision

MAX_IMAGE_BYTES = 128_000_000
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def read_examples(
    source: Path,
    *,
    layout: str,
    crop: int | None,
    num_classes: int | None,
    limit_per_class: int | None = None,
) -> Examples:
    """Clean examples in image space: float32 `(N, C, H, W)`, RGB, in `[0, 1]`; labels `(N,)`.

    See `read_pictures`, which does not turn all of them into numbers at once.
    """
    return read_pictures(
        source,
        layout=layout,
        crop=crop,
        num_classes=num_classes,
        limit_per_class=limit_per_class,
    ).examples()


def read_pictures(
    source: ImageSource,
    *,
    layout: str,
    crop: int | None,
    num_classes: int | None,
    limit_per_class: int | None = None,
    most_bytes: int | None = None,
    size: Size | None = None,
) -> Pictures:
    """Clean examples as they are stored, `(N, C, H, W)` and RGB.

    Args:
        source: folder of images in one of the spellings of `labelled_files`, always read as RGB
            (alpha is dropped), an `.npz` with `images` and `labels` (see `read_arrays`), or a
            data set of torchvision.
        layout: layout of the round, which says what spelling to expect.
        crop: side of a centre crop in pixels, or None for the whole image.
        num_classes: labels must be below it; None leaves them unchecked.
        limit_per_class: only so many of each class, the first by name or position.
        most_bytes: that the images may take; None: they lie with a model, and may hold
            `MAX_VALUES` values.
        size: what pictures of a folder or a data set are resized to, after the crop, if they have
            several sizes; None: they have one. Arrays stay as they are.

    Raises:
        InputError: no images, or one that is damaged, too big, of another size than the first or
            of a class that does not exist; the message names the file.
    """
    if limit_per_class is not None and limit_per_class < 1:
        raise InputError(f"at least 1 example per class must be read, got {limit_per_class}")
    if isinstance(source, TorchvisionSet):
        read = _read_set(source, num_classes, limit_per_class, most_bytes, size)
    elif source.is_dir():
        read = _read_folder(source, layout, crop, num_classes, limit_per_class, most_bytes, size)
    elif source.suffix.lower() == ".npz":
        read = _read_archive(source, crop, num_classes, limit_per_class, most_bytes)
    else:
        raise InputError(f"{source} is neither a folder of images nor an .npz file")
    if not len(read):
        raise InputError(f"{source} holds no clean example images")
    return read


def _read_set(
    source: TorchvisionSet,
    num_classes: int | None,
    limit_per_class: int | None,
    most_bytes: int | None,
    size: Size | None,
) -> Pictures:
    read = read_torchvision(source, most_bytes=most_bytes, size=size)
    _require_classes(read.labels.numpy(), num_classes, source)
    if limit_per_class is None:
        return read
    return read.take(torch.tensor(_first_of_each(read.labels.tolist(), limit_per_class)))


def _read_archive(
    path: Path,
    crop: int | None,
    num_classes: int | None,
    limit_per_class: int | None,
    most_bytes: int | None,
) -> Pictures:
    images, labels = read_arrays(path, most_bytes=most_bytes)
    _require_classes(labels, num_classes, path)
    if limit_per_class is not None:
        kept = _first_of_each(labels.tolist(), limit_per_class)
        images, labels = images[kept], labels[kept]
    images = _cropped(images, crop, path)
    return Pictures(images=torch.from_numpy(images), labels=torch.from_numpy(labels))


def _read_folder(
    folder: Path,
    layout: str,
    crop: int | None,
    num_classes: int | None,
    limit_per_class: int | None,
    most_bytes: int | None,
    size: Size | None,
) -> Pictures:
    files = labelled_files(folder, layout=layout)
    for file in files:
        _require_classes(np.array([file.label]), num_classes, file.path)
    classes = tuple(dict.fromkeys(file.class_name for file in files if file.class_name))
    files = [files[i] for i in _first_of_each([file.label for file in files], limit_per_class)]
    stack = _stacked(files, folder, crop, most_bytes, size)
    return Pictures(
        images=torch.from_numpy(stack.images),
        labels=torch.tensor([file.label for file in files], dtype=torch.int64),
        classes=classes,
        resized=stack.resized,
    )


def _stacked(
    files: list[LabelledFile],
    folder: Path,
    crop: int | None,
    most_bytes: int | None,
    size: Size | None,
) -> Stack:
    stack = Stack(str(folder), len(files), size=size, most_bytes=most_bytes)
    for file in files:
        stack.add(_cropped(read_image(file.path)[None], crop, file.path)[0], str(file.path))
    return stack


def read_image(path: Path) -> NDArray[np.uint8]:
    """One image as uint8 `(3, H, W)`, RGB; alpha is dropped, palettes are resolved.

    Raises:
        InputError: the file is missing, no image of a known format, damaged, larger than
            4096 pixels on a side, or has more than 8 bits per channel.
    """
    if not path.is_file():
        raise InputError(f"{path} is not there or not a regular file; expected an image")
    if path.stat().st_size > MAX_IMAGE_BYTES:
        raise InputError(f"{path} is larger than the {MAX_IMAGE_BYTES:,} bytes an image may have")
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            # Pillow only warns of an image that is too big to be honest; our own limit is lower.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=_FORMATS) as image:
                _require_harmless(image, path)
                # By way of RGBA, since a palette with an alpha channel has no direct way to RGB.
                pixels = np.asarray(image.convert("RGBA").convert("RGB"), dtype=np.uint8)
    except InputError:
        raise
    except Exception as error:
        # A damaged file makes Pillow's decoders raise almost anything, from SyntaxError to
        # struct.error; whichever it is, this image cannot be used.
        raise InputError(
            f"{path} cannot be read as an image ({error}); expected a whole {', '.join(_FORMATS)} "
            "file; replace or remove it"
        ) from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _require_harmless(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise InputError(
            f"{path} claims {width}x{height} pixels; sides of at most {MAX_SIDE} pixels are read; "
            "scale it down"
        )
    if image.mode not in _EIGHT_BIT_MODES:
        raise InputError(
            f"{path} has pixels of the kind {image.mode}; only images of 8 bits per channel are "
            "read; convert it"
        )


def _cropped(images: NDArray[np.uint8], crop: int | None, source: Path) -> NDArray[np.uint8]:
    """The centre `crop` x `crop` pixels of images `(N, C, H, W)`."""
    if crop is None:
        return images
    height, width = images.shape[2:]
    if min(height, width) < crop:
        raise InputError(
            f"{source} is {size_of(images[0])} pixels, smaller than the centre crop of "
            f"{crop}x{crop} that this round takes; give images of the original size"
        )
    top, left = (height - crop) // 2, (width - crop) // 2
    return images[:, :, top : top + crop, left : left + crop]


def _require_classes(
    labels: NDArray[np.int64], num_classes: int | None, source: ImageSource
) -> None:
    highest = np.iinfo(np.int64).max if num_classes is None else num_classes - 1
    wrong = labels[(labels < 0) | (labels > highest)]
    if len(wrong):
        known = "0 and up" if num_classes is None else f"0 to {highest}"
        raise InputError(
            f"{source} is labelled class {wrong[0]}, but the classes are {known}; mend the label, "
            "or give the examples of this model"
        )


def _first_of_each(labels: list[int], limit: int | None) -> list[int]:
    """Positions of the first `limit` of every label, in order."""
    if limit is None:
        return list(range(len(labels)))
    seen: Counter[int] = Counter()
    kept = []
    for position, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= limit:
            kept.append(position)
    return kept
