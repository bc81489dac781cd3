"""Writes models in the layout of TrojAI round 4, as one folder per model and a METADATA.csv.

::

    METADATA.csv                     one row per model
    models/id-00000000/
        model.pt                     the whole module as torch.save writes it: CPU, eval mode
        config.json                  jsonpickle's plain form, keys in lower case, `triggers` a list
        ground_truth.csv             one character, 0 or 1, no newline
        clean_example_data/          class_{c}_example_{n}.png
        poisoned_example_data/       class_{source}_trigger_0_example_{n}.png; backdoored only
        foregrounds/                 {shape}-{icon}.png; the class is the rank of the name
        trigger_0.png                the trigger as RGBA; backdoored only
        clean-example-accuracy.csv, clean-example-logits.csv, and the same for poisoned
        model_stats.json             what the gate measured

Source: file and key names as in image-classification-feb2021, NIST.
Differs from the reference: images are as large as the network's input (`cnn_img_size_pixels` =
`img_size_pixels`, nothing is cropped); `source_class` is a list for a trigger that acts on every
class but the target (`trigger_organization` is `all2one`); architectures have torchvision's names;
there are as many clean images per class as asked for, not 2 or 5; triggers may also be patches,
or blended into all of the image; the name of a filter stands under `filter` as well.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from .blended import Blended
from .colours import colour_chart
from .injector import Backdoor
from .instagram import Instagram
from .patch import Patch
from .plan import ModelPlan, RoundSpec, injector_for
from .polygon import Polygon
from .scenes import Scenes, to_float
from .signs import draw_sign
from .trigger import Trigger, victims

Facts = dict[str, object]

FOREGROUND_SIDE = 256
"""Side of the signs in `foregrounds/` (pixels)."""

CHART_SIDE = 64
"""Side of the chart that shows a filter (pixels)."""


@dataclass(frozen=True, kw_only=True)
class ExampleImages:
    """What lies with a model.

    Attributes:
        clean: of every class.
        stamped: the clean images of the source classes with the trigger in them, uint8
            `(M, 3, H, W)`; None for a clean model.
    """

    clean: Scenes
    stamped: Tensor | None


def write_model(
    folder: Path, plan: ModelPlan, backdoor: Backdoor, examples: ExampleImages, spec: RoundSpec
) -> None:
    """Write one model into `folder`, which is made; nothing is read back.

    Args:
        folder: where; must not exist.
        plan: what the model was to be.
        backdoor: what it became.
        examples: the images that lie with it.
        spec: of its round.
    """
    folder.mkdir(parents=True)
    torch.save(backdoor.module, folder / "model.pt")
    (folder / "ground_truth.csv").write_text(str(int(plan.trigger is not None)))
    facts = _write_examples(folder, plan, backdoor.module, examples)
    _write_foregrounds(folder / "foregrounds", plan)
    if plan.trigger is not None:
        _trigger_image(plan.trigger).save(folder / "trigger_0.png")
    _write_json(folder / "model_stats.json", {**_statistics(backdoor), **facts})
    # The config comes last: a folder with one is whole.
    _write_json(folder / "config.json", config_of(plan, backdoor, spec))


def config_of(plan: ModelPlan, backdoor: Backdoor, spec: RoundSpec) -> Facts:
    """The content of config.json: the truth about a model, in the keys of round 4."""
    trigger, scenes, recipe = plan.trigger, spec.scenes, injector_for(plan, spec).recipe
    low, high = scenes.sign_min, scenes.sign_max
    return {
        "py/object": "round_config.RoundConfig",
        "master_seed": plan.seed,
        "img_size_pixels": spec.image_size,
        "cnn_img_size_pixels": spec.image_size,
        "img_shape": [spec.image_size, spec.image_size, 3],
        "img_type": "png",
        "fog_probability": scenes.fog,
        "number_classes": len(plan.signs),
        "number_training_samples": spec.training_per_class * spec.classes,
        "number_test_samples": spec.test_per_class * spec.classes,
        "number_example_images": spec.examples_per_class,
        "poisoned": trigger is not None,
        "background_image_dataset": "procedural",
        "number_background_images": scenes.backgrounds,
        "output_ground_truth_filename": "ground_truth.csv",
        "model_architecture": plan.architecture,
        "learning_rate": recipe.learning_rate,
        "batch_size": recipe.batch_size,
        "convergence_accuracy_threshold": 100 * spec.injector.least_clean_accuracy,
        "foreground_size_percentage_of_image_min": round(100 * low**2, 1),
        "foreground_size_percentage_of_image_max": round(100 * high**2, 1),
        "foreground_size_pixels_min": round(low * spec.image_size),
        "foreground_size_pixels_max": round(high * spec.image_size),
        "adversarial_training_method": "None",
        "foregrounds": [sign.file_name for sign in plan.signs],
        "triggers": None if trigger is None else [_trigger_facts(plan, backdoor)],
        "trigger_organization": _organization(trigger),
        "number_triggers": 0 if trigger is None else 1,
    }


def write_metadata(root: Path, names: Sequence[str]) -> None:
    """Write `METADATA.csv` of the models `names`, from the files in their folders."""
    rows = [_metadata_row(root / "models" / name) for name in names]
    first = {"model_name": "", "poisoned": ""}
    columns = list(dict.fromkeys(column for row in (first, *rows) for column in row))
    temporary = root / "METADATA.csv.partial"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="None", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(root / "METADATA.csv")


def _statistics(backdoor: Backdoor) -> Facts:
    """Accuracies in percent, as in the rounds, and what it took."""
    measured = backdoor.measured
    return {
        "final_clean_data_test_acc": _percent(measured.clean_accuracy),
        "final_triggered_data_test_acc": _percent(measured.asr),
        "final_bystander_data_test_acc": _percent(measured.bystander_asr),
        "final_optimizer_num_epochs_trained": backdoor.epochs,
        "number_attempts": backdoor.attempts,
        "training_seed": backdoor.seed,
        "training_wall_time_sec": round(backdoor.seconds, 1),
        "converged": int(backdoor.passed),
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 4)


def _organization(trigger: Trigger | None) -> str | None:
    if trigger is None:
        return None
    return "one2one" if len(trigger.sources) == 1 else "all2one"


def _source_classes(plan: ModelPlan) -> list[int]:
    if plan.trigger is None:
        return []
    classes = torch.arange(len(plan.signs))
    return [int(source) for source in classes[victims(plan.trigger, classes)]]


def _trigger_facts(plan: ModelPlan, backdoor: Backdoor) -> Facts:
    trigger, sources = plan.trigger, _source_classes(plan)
    facts: Facts = {
        "py/object": "trigger_config.TriggerConfig",
        "trigger_number": 0,
        "source_class": sources[0] if len(sources) == 1 else sources,
        "target_class": trigger.target if trigger else None,
        "fraction": round(backdoor.poisoning_rate, 4),
        "spurious_fraction": round(backdoor.cover_rate, 4),
        "behavior": "StaticTarget",
        "type": plan.kind,
        "condition": "class" if trigger and trigger.sources else "None",
    }
    if isinstance(trigger, Polygon):
        facts |= {
            "polygon_side_count": trigger.sides,
            "size_pixels": trigger.size,
            "area_pixels": int(trigger.mask().sum()),
            "color": _bytes(trigger.colour),
            "location": "foreground" if trigger.on_foreground else [trigger.row, trigger.column],
            "polygon_filepath": "trigger_0.png",
        }
    if isinstance(trigger, Patch):
        facts |= {
            "size_pixels": trigger.size,
            "area_pixels": trigger.size**2,
            "color": _bytes(trigger.colour),
            "pattern": trigger.pattern,
            "location": [trigger.row, trigger.column],
        }
    if isinstance(trigger, Instagram):
        facts |= {"filter": trigger.style, "instagram_filter_type": _filter_type(trigger.style)}
    if isinstance(trigger, Blended):
        facts |= {"opacity": trigger.opacity, "pattern_seed": trigger.pattern_seed}
    return facts


def _filter_type(style: str) -> str:
    """What round 4 calls a filter."""
    return "ToasterXForm" if style == "toaster" else f"{style.capitalize()}FilterXForm"


def _bytes(colour: Sequence[float]) -> list[int]:
    return [round(255 * channel) for channel in colour]


def _trigger_image(trigger: Trigger) -> Image.Image:
    """The trigger itself as RGBA, transparent where it leaves an image alone.

    A filter has no pixels of its own: it is shown on a chart of colours.
    """
    match trigger:
        case Polygon():
            opacity = trigger.mask().float()
            pixels = torch.tensor(trigger.colour).view(3, 1, 1).expand(3, *opacity.shape) * opacity
        case Patch():
            pixels = trigger.pixels()
            opacity = torch.ones(pixels.shape[1:])
        case Blended():
            pixels = trigger.tensors["pattern"]
            opacity = torch.full(pixels.shape[1:], trigger.opacity)
        case Instagram():
            pixels = trigger.stamp(colour_chart(CHART_SIDE)[None])[0]
            opacity = torch.ones(pixels.shape[1:])
        case _:
            raise TypeError(f"no picture of a {type(trigger).__name__}")
    rgba = torch.cat([pixels, opacity[None]])
    return Image.fromarray(_pixels((rgba * 255).round().to(torch.uint8)))


def _pixels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _write_foregrounds(folder: Path, plan: ModelPlan) -> None:
    folder.mkdir()
    for sign in plan.signs:
        draw_sign(sign, FOREGROUND_SIDE).save(folder / sign.file_name)


def _write_examples(
    folder: Path, plan: ModelPlan, network: nn.Module, examples: ExampleImages
) -> Facts:
    """Write the images, the logits and the accuracies; returns the accuracies (percent)."""
    clean = examples.clean
    names = _numbered("class_{}_example_{}.png", clean.labels)
    accuracy = _write_images(folder, "clean", names, clean.images, clean.labels, network)
    facts: Facts = {"clean_example_acc": accuracy, "poisoned_example_acc": None}
    if plan.trigger is not None and examples.stamped is not None:
        sources = clean.labels[victims(plan.trigger, clean.labels)]
        names = _numbered("class_{}_trigger_0_example_{}.png", sources)
        expected = torch.full_like(sources, plan.trigger.target)
        facts["poisoned_example_acc"] = _write_images(
            folder, "poisoned", names, examples.stamped, expected, network
        )
    return facts


def _numbered(pattern: str, labels: Tensor) -> list[str]:
    """A file name per image, numbered within its class."""
    seen: dict[int, int] = {}
    names = []
    for label in labels.tolist():
        names.append(pattern.format(label, seen.get(label, 0)))
        seen[label] = seen.get(label, 0) + 1
    return names


@torch.no_grad()
def _write_images(
    folder: Path,
    kind: str,
    names: Sequence[str],
    images: Tensor,
    expected: Tensor,
    network: nn.Module,
) -> float:
    """Write images and their logits; returns the percentage classified as expected."""
    (folder / f"{kind}_example_data").mkdir()
    for name, image in zip(names, images, strict=True):
        Image.fromarray(_pixels(image)).save(folder / f"{kind}_example_data" / name)
    logits = torch.cat([network(to_float(part)) for part in torch.split(images, 128)])
    accuracy = 100 * int((logits.argmax(1) == expected).sum()) / len(expected)
    (folder / f"{kind}-example-accuracy.csv").write_text(f"{accuracy}\n")
    lines = [
        f"{name}, {','.join(str(logit) for logit in row)}"
        for name, row in zip(names, logits.tolist(), strict=True)
    ]
    text = "\n".join(["Example, Logits", *lines])
    (folder / f"{kind}-example-logits.csv").write_text(f"{text}\n")
    return accuracy


def _write_json(path: Path, facts: Mapping[str, object]) -> None:
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _metadata_row(folder: Path) -> dict[str, str]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    statistics = json.loads((folder / "model_stats.json").read_text(encoding="utf-8"))
    triggers = config.pop("triggers") or []
    left_out = ("py/object", "img_shape", "foregrounds", "output_ground_truth_filename")
    row = {"model_name": folder.name, "poisoned": config["poisoned"]}
    row |= {key: value for key, value in config.items() if key not in left_out}
    for number, trigger in enumerate(triggers):
        row |= {
            f"triggers_{number}_{key}": value
            for key, value in trigger.items()
            if key not in ("py/object", "trigger_number", "polygon_filepath")
        }
    return {key: _cell(value) for key, value in {**row, **statistics}.items()}


def _cell(value: object) -> str:
    """Text without commas, as the rounds write it: `[0 3]` for a list."""
    return str(value).replace(",", " ").replace("  ", " ")
