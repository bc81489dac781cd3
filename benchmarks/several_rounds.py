"""Several folders of models, or model files, as one round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moth_eval.errors import InputError
from moth_eval.loading.rounds import Round, RoundModel, read_round
from moth_eval.loading.sources import ImageSource
from moth_eval.records import Truth


def read_rounds(
    paths: Sequence[Path],
    *,
    examples: ImageSource | None = None,
    ground_truth: Path | None = None,
    answers: bool = True,
) -> tuple[Round, dict[str, Path]]:
    """The models in all of these, and by name the path that each was found in.

    Models of one name in several folders are called by their folder as well.

    Args:
        paths: at least one; see `moth_eval.loading.rounds.read_round` for this and the others.
        examples: clean images for every model.
        ground_truth: where the answers are.
        answers: whether they are looked for at all.

    Raises:
        InputError: there are no models, or two that cannot be told apart by name.
    """
    rounds = [
        read_round(path, examples=examples, ground_truth=ground_truth, answers=answers)
        for path in paths
    ]
    # A folder and a file in it name that file twice.
    found = {
        (model.file.resolve(), model.name): (one, model) for one in rounds for model in one.models
    }
    counts = Counter(name for _, name in found)
    models: dict[str, RoundModel] = {}
    roots: dict[str, Path] = {}
    truth: dict[str, Truth] = {}
    for one, model in found.values():
        folder = model.file.parent
        if folder.name == model.name:  # the rounds' folders tell them apart then
            folder = one.path.resolve()
        name = f"{folder.name}-{model.name}" if counts[model.name] > 1 else model.name
        if name in models:
            raise InputError(
                f"two models are called {name!r}, {models[name].file} and {model.file}: name "
                "each of them once, or scan them in runs of their own"
            )
        models[name], roots[name] = replace(model, name=name), one.path.resolve()
        if model.name in one.truth:
            truth[name] = one.truth[model.name]
    whole = replace(
        rounds[0],
        models=tuple(models[name] for name in sorted(models)),
        truth=truth,
        notes=tuple(note for one in rounds for note in one.notes),
    )
    return whole, roots
