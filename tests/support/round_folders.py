"""Tiny folders of models in every layout of the rounds; the model files hold no model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, *, side: int = 256, seed: int = 0, mode: str = "RGB") -> Path:
    """A coarse random image; it compresses well, so that folders of many stay quick to write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST).convert(mode).save(path)
    return path


def write_model(folder: Path, name: str = "model.pt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"not opened by the reader of rounds")
    return folder / name


def write_named_examples(folder: Path, *, classes: int = 2, each: int = 1, side: int = 256) -> None:
    for label in range(classes):
        for number in range(each):
            name = f"class_{label}_example_{number}.png"
            write_image(folder / name, side=side, seed=label)


def write_ground_truth(folder: Path, poisoned: bool, *, newline: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ground_truth.csv").write_text(f"{int(poisoned)}" + "\n" * newline)


def write_config(folder: Path, config: object, name: str = "config.json") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config, indent=2))


def write_metadata(root: Path, *rows: dict[str, object], name: str = "METADATA.csv") -> Path:
    header = list(rows[0])
    lines = [",".join(header), *(",".join(str(row[column]) for column in header) for row in rows)]
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("\n".join(lines) + "\n")
    return root / name


def round_1_model(root: Path, number: int, poisoned: bool, *, side: int = 224) -> Path:
    folder = root / f"id-{number:08d}"
    write_model(folder)
    write_named_examples(folder / "example_data", side=side)
    write_ground_truth(folder, poisoned)
    return folder


def round_2_model(root: Path, number: int, poisoned: bool) -> Path:
    folder = root / f"id-{number:08d}"
    write_model(folder)
    write_named_examples(folder / "example_data")
    write_image(folder / "foregrounds" / "0-1.png", side=8)
    write_ground_truth(folder, poisoned, newline=True)
    config = {
        "MASTER_SEED": 7,
        "IMG_SIZE_PIXELS": 256,
        "CNN_IMG_SIZE_PIXELS": 224,
        "NUMBER_CLASSES": 6,
        "POISONED": poisoned,
        "MODEL_ARCHITECTURE": "resnet18",
        "NUMBER_TRIGGERED_CLASSES": 2 if poisoned else 0,
        "TRIGGERED_CLASSES": [0, 3] if poisoned else None,
        "TRIGGER_COLOR": [75, 226, 69] if poisoned else None,
        "TRIGGER_TARGET_CLASS": 4 if poisoned else None,
    }
    write_config(folder, config | ({"TRIGGER_TYPE": "polygon"} if poisoned else {}))
    return folder


def round_3_model(root: Path, number: int, poisoned: bool) -> Path:
    folder = root / f"id-{number:08d}"
    write_model(folder)
    write_named_examples(folder / "clean_example_data")
    if poisoned:
        write_named_examples(folder / "poisoned_example_data")
    write_ground_truth(folder, poisoned)
    config = {
        "py/object": "round_config.RoundConfig",
        "img_size_pixels": 256,
        "cnn_img_size_pixels": 224,
        "number_classes": 6,
        "model_architecture": "densenet121",
        "adversarial_training_method": "PGD",
        "poisoned": poisoned,
        "triggered_classes": [1, 2] if poisoned else None,
        "trigger_target_class": 5 if poisoned else None,
        "trigger_type": "instagram" if poisoned else None,
    }
    write_config(folder, config)
    return folder


def round_4_model(root: Path, number: int) -> Path:
    """A poisoned model with two triggers that share one list object as their colour."""
    folder = root / f"id-{number:08d}"
    write_model(folder)
    write_named_examples(folder / "clean_example_data")
    write_image(folder / "poisoned_example_data" / "class_1_trigger_0_example_0.png")
    write_image(folder / "trigger_0.png", side=8)
    write_ground_truth(folder, True)
    trigger = {"py/object": "trigger_config.TriggerConfig", "type": "polygon", "color_level": 3}
    config = {
        "py/object": "round_config.RoundConfig",
        "img_size_pixels": 256,
        "cnn_img_size_pixels": 224,
        "number_classes": 20,
        "model_architecture": "mobilenetv2",
        "adversarial_training_method": "FBF",
        "poisoned": True,
        "trigger_organization": "pair-one2one",
        "number_triggers": 2,
        "triggers": [
            trigger | {"source_class": 3, "target_class": 8, "color": [200, 200, 0]},
            trigger | {"source_class": 11, "target_class": 2, "color": {"py/id": 4}},
        ],
    }
    write_config(folder, config)
    return folder


def round_11_model(root: Path, number: int, poisoned: bool) -> Path:
    folder = root / f"id-{number:08d}"
    write_model(folder)
    for image_id, label in ((28, 1), (454, 0)):
        write_image(folder / "clean-example-data" / f"{image_id}.jpg", seed=label)
        (folder / "clean-example-data" / f"{image_id}.json").write_text(str(label))
    write_ground_truth(folder, poisoned)
    trigger = {
        "py/object": "trigger_executor.InstagramTriggerExecutor",
        "py/state": {"source_class": 9, "target_class": 4, "type": "GothamFilterXForm"},
    }
    state = {
        "task_type": "classification",
        "source_dataset": "cityscapes",
        "model_architecture": "classification:mobilenet_v2",
        "poisoned": poisoned,
        "img_size_pixels": 256,
        "number_classes": 118,
        "triggers": [trigger] if poisoned else [],
        "num_triggers": 2,
        "total_class_instances": {"0": 2012},
    }
    write_config(folder, {"py/object": "round_config.RoundConfig", "py/state": state})
    return folder
