"""Folders of models in; a list of what is there out. No model file is opened here, nor torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import InputError, RoundError
from ..records import Truth
from .bounded import is_there, leads_outside
from .configs import configs_of, facts_beside, truth_of_config
from .facts import architecture_of, num_classes_of, shown_of
from .ground_truth import Named, attack_claims, claims_of, mark_errata, named_claims, settle
from .layouts import (
    FILES,
    Found,
    crop_of,
    find_examples,
    find_model_file,
    find_models,
    layout_of,
    side_in,
)
from .metadata import read_metadata
from .sidecars import stated_normalisation
from .sources import ImageSource

METADATA = "METADATA.csv"
_TRUTH_LISTS = (METADATA, "ground_truth.csv", "truth.csv")


@dataclass(frozen=True, kw_only=True)
class RoundModel:
    """One model of a round as its files describe it; never its ground truth.

    Attributes:
        name: name of its folder (`id-00000003`), or of its file without the suffix.
        file: the model file; may be missing, see `problems`.
        examples: clean images, a folder or an `.npz` unless named; None if there are none.
        examples_named: whether the user named them; what lies with a model may be less large.
        layout: one of the layouts that `moth_eval.loading.layouts` lists.
        architecture: name of the architecture as stated, without its task; empty if unknown.
        num_classes: number of classes as stated.
        crop: side in pixels of the centre crop that the network eats; None: the whole image.
        normalisation: the only one that comes into question; empty: the best is found.
        stated_normalisation: what its side-car says that it was trained with; empty if nothing.
        metadata: other facts as stated, none of which tells whether the model is poisoned.
        problems: sentences on what is missing or unreadable.
        usable: whether there is a model file and examples that may be opened; if not, `problems`
            says why.
    """

    name: str
    file: Path
    examples: ImageSource | None
    examples_named: bool = False
    layout: str
    architecture: str = ""
    num_classes: int | None = None
    crop: int | None = None
    normalisation: str = ""
    stated_normalisation: str = ""
    metadata: Mapping[str, str]
    problems: tuple[str, ...] = ()
    usable: bool = True


@dataclass(frozen=True, kw_only=True)
class Round:
    """A folder of models and, apart from them, what is known of their ground truth.

    Attributes:
        path: the folder, or the model file.
        layout: the layout of most of the models.
        models: sorted by name.
        truth: ground truth by model name, where known.
        notes: sentences on what was seen on the way, such as contradictions.
    """

    path: Path
    layout: str
    models: tuple[RoundModel, ...]
    truth: Mapping[str, Truth]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A model with what is said about its truth, before the two are parted."""

    model: RoundModel
    truth: Truth | None
    notes: tuple[str, ...]


def read_round(
    path: Path,
    *,
    examples: ImageSource | None = None,
    ground_truth: Path | None = None,
    answers: bool = True,
) -> Round:
    """The models in a folder, in any layout of the TrojAI image rounds or as plain files.

    Args:
        path: folder of a round, folder of one model, or a model file.
        examples: clean examples for every model, in place of those that lie with it: a folder of
            images or an `.npz` (see `moth_eval.loading.images.read_examples`).
        ground_truth: a tree `id-*/ground_truth.csv`, or a CSV file with the columns `model_name`
            and `poisoned`; counts more than what lies with the models.
        answers: whether ground truth is looked for at all.

    Raises:
        RoundError: there are no models, or METADATA.csv or one of the arguments cannot be read.
            What is wrong with one model only is listed in its `problems`.
    """
    for given, option in ((examples, "--examples"), (ground_truth, "--ground-truth")):
        if given is not None and not given.exists():
            raise RoundError(f"{given} does not exist; name an existing file or folder ({option})")
    found = find_models(path)
    rows = _rows_of(found)
    named = named_claims(ground_truth)
    if ground_truth is not None and not any(_names_one(named, m) for m in found.members):
        raise RoundError(f"{ground_truth} names none of the models in {path}")
    entries = [_guarded_entry(member, found, rows, examples, named) for member in found.members]
    if not answers:
        entries = [replace(entry, truth=None, notes=()) for entry in entries]
    models = tuple(sorted((entry.model for entry in entries), key=lambda model: model.name))
    truth = {entry.model.name: entry.truth for entry in entries if entry.truth is not None}
    layout = _layouts(models).most_common(1)[0][0]
    notes = [*found.notes, *(note for entry in entries for note in entry.notes)]
    if layout == "trojai-0-1" and answers:
        listed = rows or {model.name: {} for model in models}
        truth, further = mark_errata(truth, path=found.base, listed=listed)
        notes.extend(further)
    notes.extend(_notes_on_whole(models, truth, rows, found))
    notes.extend(_not_here(named.names, named.place, models, found))
    return Round(path=path, layout=layout, models=models, truth=truth, notes=tuple(notes))


def _names_one(named: Named, member: Path) -> bool:
    try:
        return any(True for _ in named.first((*_aliases(member), member.parent.name)))
    except (RoundError, OSError):
        # It names the model but says nothing readable, which the notes will tell.
        return True


def _rows_of(found: Found) -> dict[str, dict[str, str]]:
    """Rows of METADATA.csv by model name; a folder of plain files may call it otherwise."""
    for name in _TRUTH_LISTS if found.files else (METADATA,):
        for folder in dict.fromkeys((found.root, found.base)):
            path = folder / name
            if leads_outside(path, found.root):
                raise RoundError(f"{path} is a link that leads out of {found.root}; copy the file")
            if path.exists():
                return {row["model_name"]: row for row in read_metadata(path)}
    return {}


def _layouts(models: tuple[RoundModel, ...]) -> Counter[str]:
    """How many models are of which layout; those that lack their files do not count."""
    usable = [model for model in models if model.usable]
    return Counter(model.layout for model in usable or models)


def _notes_on_whole(
    models: tuple[RoundModel, ...],
    truth: Mapping[str, Truth],
    rows: Mapping[str, object],
    found: Found,
) -> list[str]:
    layouts = _layouts(models)
    notes = []
    if len(layouts) > 1:
        counts = ", ".join(f"{count} of {layout}" for layout, count in layouts.most_common())
        notes.append(f"models of more than one layout: {counts}")
    if truth and len(truth) < len(models):
        notes.append(f"ground truth is known for {len(truth)} of {len(models)} models")
    return notes + _not_here(rows, METADATA, models, found)


def _not_here(
    listed: Collection[str], place: str, models: tuple[RoundModel, ...], found: Found
) -> list[str]:
    """A note on the models of a list that are not among those found, if there are any."""
    here = {name for member in found.members for name in _aliases(member)}
    absent = sorted(set(listed) - here - {model.name for model in models})
    if not absent or len(found.members) == 1:
        return []
    more = ", ..." if len(absent) > 3 else ""
    return [f"{place} lists {len(absent)} models that are not here: {', '.join(absent[:3])}{more}"]


def _guarded_entry(
    member: Path,
    found: Found,
    rows: Mapping[str, dict[str, str]],
    examples: ImageSource | None,
    named: Named,
) -> _Entry:
    """One model; whatever is wrong with it makes this model unusable, never the whole round."""
    try:
        return _entry(member, found, rows, examples, named)
    except Exception as error:  # files written by strangers find ways to raise anything
        problem = f"what lies with {member.name} cannot be read: {error!r:.300}"
        model = _unreadable(member, problem)
        if found.files:
            model = replace(model, file=member, layout=FILES)
        return _Entry(model=model, truth=None, notes=())


def _entry(
    member: Path,
    found: Found,
    rows: Mapping[str, dict[str, str]],
    examples: ImageSource | None,
    named: Named,
) -> _Entry:
    row = rows.get(member.name)
    if found.files:
        row = rows.get(found.name_of(member)) or row or rows.get(member.stem)
        model, config = _read_file(member, found, row or {}, examples), None
    else:
        model, config = _read_folder(member, found, row or {}, examples)
    try:
        said = claims_of(
            model.name,
            found=found,
            folder=None if found.files else member,
            row=row,
            config=config,
            named=named,
            aliases=_aliases(member),
        )
        claims = [*said, *attack_claims(_home(member, found), found.root)]
    except RoundError as error:
        return _Entry(model=model, truth=None, notes=(f"truth of {model.name} left open: {error}",))
    truth, notes = settle(model.name, claims)
    return _Entry(model=model, truth=truth, notes=notes)


def _aliases(member: Path) -> tuple[str, str]:
    """What a list may call a model: the name of its file, with the ending or without."""
    return member.name, member.stem


def _home(member: Path, found: Found) -> Path | None:
    """The folder whose `attack.json` speaks of this model and of no other."""
    if not found.files:
        return member
    return member.parent if found.homes or len(found.members) == 1 else None


def _read_folder(
    folder: Path, found: Found, row: dict[str, str], given: ImageSource | None
) -> tuple[RoundModel, Truth | None]:
    if leads_outside(folder, found.root):
        problem = f"{folder.name} is a link that leads out of {found.root}; copy the folder instead"
        return _unreadable(folder, problem), None
    try:
        names = {entry.name for entry in folder.iterdir()}
        file = find_model_file(folder, names)
        config, flaws, foreign = facts_beside(file, names, found.root)
        examples, missing = (given, "") if given else find_examples(folder, names, found.root)
        side = side_in(examples)
    except OSError as error:
        return _unreadable(folder, f"{folder} cannot be read: {error.strerror or error}"), None
    truth = None
    try:
        truth = truth_of_config(config)
    except RoundError as error:
        flaws.append(f"the truth in its config is left open: {error}")
    facts = {**row, **config}
    layout = layout_of(names, facts, side)
    architecture, mismatch = architecture_of(config, row)
    normalisation, wrong = _stated_normalisation(config)
    obstacles = [_file_problem(file, found.root), foreign, missing, mismatch, wrong]
    obstacles = [obstacle for obstacle in obstacles if obstacle]
    model = RoundModel(
        name=folder.name,
        file=file,
        examples=examples,
        examples_named=given is not None,
        layout=layout,
        architecture=architecture,
        num_classes=num_classes_of(config, row),
        crop=crop_of(layout, facts, side),
        stated_normalisation=normalisation,
        metadata=shown_of(config, row),
        problems=(*obstacles, *flaws),
        usable=not obstacles,
    )
    return model, truth


def _unreadable(folder: Path, problem: str) -> RoundModel:
    return RoundModel(
        name=folder.name,
        file=folder / "model.pt",
        examples=None,
        layout="trojai-0-1",
        metadata={},
        problems=(problem,),
        usable=False,
    )


def _read_file(
    file: Path, found: Found, row: dict[str, str], given: ImageSource | None
) -> RoundModel:
    beside = {name for name in configs_of(file) if is_there(file.parent / name)}
    config, flaws, foreign = facts_beside(file, beside, found.root)
    examples = given or _examples_beside(file)
    missing = (
        f"no example images: neither {file.stem}.npz nor examples.npz nor a folder examples lies "
        "beside it; name a folder of images or an .npz with --examples"
    )
    architecture, mismatch = architecture_of(config, row)
    normalisation, wrong = _stated_normalisation(config)
    obstacles = [_file_problem(file, found.root), foreign, mismatch, wrong]
    obstacles.append("" if examples else missing)
    obstacles = [obstacle for obstacle in obstacles if obstacle]
    return RoundModel(
        name=found.name_of(file),
        file=file,
        examples=examples,
        examples_named=given is not None,
        layout=FILES,
        architecture=architecture,
        num_classes=num_classes_of(config, row),
        stated_normalisation=normalisation,
        metadata=shown_of(config, row),
        problems=(*obstacles, *flaws),
        usable=not obstacles,
    )


def _examples_beside(file: Path) -> Path | None:
    """`<stem>.npz` beside a model file, or `examples.npz` or a folder `examples` for all."""
    for name in (f"{file.stem}.npz", "examples.npz", "examples"):
        candidate = file.parent / name
        if is_there(candidate) and not leads_outside(candidate, file.parent):
            return candidate
    return None


def _file_problem(file: Path, root: Path) -> str:
    if leads_outside(file, root):
        return f"{file.name} is a link that leads out of {root}; copy the file instead"
    if not file.exists():
        return f"no {file.name}"
    return "" if file.is_file() else f"{file.name} is not a regular file"


def _stated_normalisation(config: Mapping[str, object]) -> tuple[str, str]:
    """The normalisation that the side-car states, and a problem if it states none that exists."""
    try:
        return stated_normalisation(config), ""
    except InputError as error:
        return "", f"its side-car is wrong: {error}"
