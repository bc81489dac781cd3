"""What a model's config and its row of METADATA.csv state, and of that what may be shown."""

from __future__ import annotations

from collections.abc import Mapping

from .metadata import present
from .naming import cut
from .truths import integer

MAX_CLASSES = 100_000
"""A larger number is a slip or a trap: a network of that size may be built from it."""
_ARCHITECTURE_KEYS = ("model_architecture", "architecture")
_CLASSIFICATION = "classification"
# A list of what may be shown, not of what may not: many columns give the answer away (numbers of
# images per class, losses on triggered data), and new rounds bring new ones.
_SHOWN_FACTS = (
    "adversarial_eps",
    "adversarial_training_iteration_count",
    "adversarial_training_method",
    "adversarial_training_ratio",
    "background_image_dataset",
    "batch_size",
    "cnn_img_size_pixels",
    "dataset",
    "img_size",
    "img_size_pixels",
    "learning_rate",
    "model_architecture",
    "number_classes",
    "source_dataset",
    "task_type",
)


def architecture_of(config: Mapping[str, object], row: Mapping[str, str]) -> tuple[str, str]:
    """Architecture without its task, and a problem if the task is not classification."""
    stated = _text(config, row, *_ARCHITECTURE_KEYS)
    task, colon, architecture = stated.partition(":")
    if not colon or "." in task:  # of a package's factory, `package.module:name`
        return stated, ""
    if task == _CLASSIFICATION:
        return architecture, ""
    return architecture, f"its task is {task}; only image classifiers can be scanned"


def num_classes_of(config: Mapping[str, object], row: Mapping[str, str]) -> int | None:
    """Number of classes, or None if none is stated that can be true."""
    stated = integer(_text(config, row, "number_classes", "num_classes"))
    return stated if stated and 0 < stated <= MAX_CLASSES else None


def shown_of(config: Mapping[str, object], row: Mapping[str, str]) -> dict[str, str]:
    """Facts that tell nothing of whether the model is poisoned, as text."""
    facts = {name: _text(config, row, name) for name in _SHOWN_FACTS}
    return {name: value for name, value in facts.items() if value}


def _text(config: Mapping[str, object], row: Mapping[str, str], *names: str) -> str:
    """The first of these facts that config or row states, as text; lists and objects are none.

    What is longer than a name or a number can be is cut: it is shown and kept, once per model.
    """
    for name in names:
        value = config.get(name)
        if isinstance(value, (str, int, float)) and value not in ("", "None"):
            return cut(str(value))
    return cut(present(row, *names))
