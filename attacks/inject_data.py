"""Images that a backdoor is trained on: an `.npz`, a folder, or a data set of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moth_eval.errors import InputError
from moth_eval.loading.images import read_pictures
from moth_eval.loading.layouts import FILES
from moth_eval.loading.sources import ImageSource, default_test, parse_source, require_source
from moth_eval.loading.stacking import Size
from moth_eval.pictures import Pictures, memory_for_images, to_bytes
from moth_eval.splits import HELD_OUT, check_names, hash_of, hold_out, in_both

from .attack_records import DataRecord
from .injector import Splits
from .scenes import Scenes


@dataclass(frozen=True, kw_only=True)
class GivenData:
    """The task of an injection.

    Attributes:
        splits: training and test images; there is no validation, since nothing is decided by it.
        record: what `attack.json` says of them.
        class_names: by their number, where folders have them; empty otherwise.
    """

    splits: Splits
    record: DataRecord
    class_names: tuple[str, ...] = ()


def read_data(data: str, test: str, *, seed: int, size: Size | None = None) -> GivenData:
    """Training and test images.

    Args:
        data: `.npz` with `images` and `labels`, folder of labelled images, or
            `torchvision:NAME:FOLDER`.
        test: the same; empty: the test part of a torchvision data set, or else a fifth of each
            class of the data, held out.
        seed: decides what is held out.
        size: what pictures of several sizes are resized to; None: they have one, and test
            pictures get it if they have several.

    Raises:
        InputError: they cannot be read, do not fit together, or leave nothing to test on.
    """
    source = parse_source(data, training=True)
    given = default_test(source, parse_source(test, training=False) if test else None)
    pictures = _read(source, "--data", size)
    training, held_out, resized = scenes_of(pictures), None, [pictures.resized]
    if given is not None:
        others = _read(given, "--test", size or Size.of(pictures))
        resized.append(others.resized)
        check_names(pictures.classes, others.classes)
        tested = scenes_of(others)
    else:
        held_out = HELD_OUT
        trained, held = hold_out(training.labels, seed)
        training, tested = training.take(trained), training.take(held)
    test = test or ("" if given is None else data)
    _check_fit(training, tested, data, test)
    classes = int(torch.cat([training.labels, tested.labels]).max()) + 1
    nothing = training.take(torch.zeros(0, dtype=torch.int64))
    splits = Splits(training=training, validation=nothing, test=tested, num_classes=classes)
    record = _record(splits, data, test, held_out)
    said = tuple(sentence for sentence in resized if sentence)
    return GivenData(
        splits=splits,
        record=record.model_copy(update={"resized": said}),
        class_names=pictures.classes,
    )


def read_scenes(source: str, *, training: bool) -> Scenes:
    """Labelled images, always with three channels; grey ones are repeated.

    Args:
        source: see `read_data`.
        training: which part of a torchvision data set.

    Raises:
        InputError: they cannot be read.
    """
    return scenes_of(_read(parse_source(source, training=training), "--data", None))


def scenes_of(pictures: Pictures) -> Scenes:
    """Pictures as bytes with three channels; grey ones are repeated."""
    images = to_bytes(pictures.images).expand(-1, 3, -1, -1).contiguous()
    return Scenes(images=images, labels=pictures.labels)


def _read(source: ImageSource, option: str, size: Size | None) -> Pictures:
    require_source(source, option)
    return read_pictures(
        source,
        layout=FILES,
        crop=None,
        num_classes=None,
        most_bytes=memory_for_images(),
        size=size,
    )


def _check_fit(training: Scenes, tested: Scenes, data: str, test: str) -> None:
    if training.images.shape[1:] != tested.images.shape[1:]:
        raise InputError(
            f"--test: {test} holds images of shape {tuple(tested.images.shape[1:])}, those of "
            f"{data} have {tuple(training.images.shape[1:])}: resize them"
        )
    if len(set(training.labels.tolist())) < 2:
        raise InputError(f"{data} holds images of one class: expected two or more")


def _record(splits: Splits, data: str, test: str, held_out: float | None) -> DataRecord:
    channels, height, width = splits.training.images.shape[1:]
    return DataRecord(
        data=data,
        test=test,
        held_out=held_out,
        num_classes=splits.classes,
        image_shape=(channels, height, width),
        training=len(splits.training),
        training_sha256=hash_of(splits.training),
        tested=len(splits.test),
        test_sha256=hash_of(splits.test),
        in_both=in_both(splits.training, splits.test),
    )
