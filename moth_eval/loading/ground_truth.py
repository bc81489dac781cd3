"""Which models are poisoned: ground_truth.csv, METADATA.csv and config.json joined.

Where they disagree, a note says so, and the first of these counts: what the caller named, the
model's own ground_truth.csv, the tree `groundtruth/` beside `models/`, METADATA.csv, config.json,
the attack.json of an injected model.

Round 1 has six models whose ground truth says poisoned although no trigger was put in; NIST asks
to leave them out. The ids of its train and test sets overlap, and test and holdout sets are of
equal size, so nothing but a name or the complete train set tells which one a folder is:

* a folder called by round and split (`round1-train-dataset`, `jun2020/test` ...) is that split;
* 1,000 models of layout trojai-0-1 that include the four ids marked as poisoned are the train set
  (their ids have gaps and go beyond 999, those of a generated round do not);
* 100 models that include the two ids of the test set are left as they are, with a note.

Source: NIST, documentation of image-classification-jun2020 (TrojAI round 1), errata.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import RoundError
from ..records import Truth
from .bounded import leads_outside, read_json, read_text
from .layouts import Found
from .metadata import read_metadata, truth_of_metadata
from .naming import cut
from .truths import flag, integers

FILE = "ground_truth.csv"
ATTACK = "attack.json"
TREES = ("groundtruth", "ground_truth", "ground-truth")
_MAX_BYTES = 1000
ROUND_1_ERRATA: Mapping[str, frozenset[str]] = {
    "train": frozenset({"id-00000184", "id-00000599", "id-00000858", "id-00001088"}),
    "test": frozenset({"id-00000077", "id-00000083"}),
}
_ROUND_1_SIZES = {"train": 1000, "test": 100}
_ROUND_1_NAME = re.compile(r"round[-_ ]?0*1(?!\d)|jun2020|mds2-(2195|2283|2284)", re.IGNORECASE)
_SPLIT_NAME = re.compile(r"train|test|holdout", re.IGNORECASE)
_SPLIT_RECORDS = {"2195": "train", "2283": "test", "2284": "holdout"}
_DOUBTFUL_TEST_SET = (
    "if this is the test set of TrojAI round 1, id-00000077 and id-00000083 are marked as poisoned "
    "without a trigger: call the folder round1-test-dataset to leave them out"
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What one place says about a model.

    Attributes:
        place: where that is, for notes.
        truth: what it says.
    """

    place: str
    truth: Truth


@dataclass(frozen=True, kw_only=True)
class Named:
    """What the caller named as ground truth.

    Attributes:
        of: claims by model name.
        place: what is named, for notes.
        names: the models that a list has a row for; none of a tree, which is not gone through.
    """

    of: Callable[[str], Iterator[Claim]]
    place: str = ""
    names: frozenset[str] = frozenset()

    def first(self, names: Iterable[str]) -> Iterator[Claim]:
        """The claims of the first of a model's names that has any."""
        for name in dict.fromkeys(names):
            claims = list(self.of(name))
            if claims:
                yield from claims
                return


def read_flag(path: Path) -> bool:
    """Whether a ground_truth.csv says poisoned: `1` or `0`, with or without a line break.

    Raises:
        RoundError: it says anything else.
    """
    text = read_text(path, limit=_MAX_BYTES).strip()
    poisoned = flag(text.splitlines()[0]) if text else None
    if poisoned is None:
        raise RoundError(f"{path} says {text[:20]!r}; expected 1 (poisoned) or 0 (clean)")
    return poisoned


def named_claims(ground_truth: Path | None) -> Named:
    """How to look a model up in what the caller named: a CSV file or a tree of ground_truth.csv.

    Raises:
        RoundError: it is neither.
    """
    if ground_truth is None:
        return Named(of=lambda _name: iter(()))
    if ground_truth.is_dir():
        tree = ground_truth.resolve()
        trees = (tree, *(tree / sub for sub in TREES))
        return Named(of=lambda name: _tree_claims(trees, name, tree), place=tree.name)
    rows = {row["model_name"]: row for row in read_metadata(ground_truth)}
    return Named(
        of=lambda name: _row_claims(rows.get(name), ground_truth.name),
        place=ground_truth.name,
        names=frozenset(rows),
    )


def claims_of(
    name: str,
    *,
    found: Found,
    folder: Path | None,
    row: Mapping[str, str] | None,
    config: Truth | None,
    named: Named,
    aliases: Sequence[str] = (),
) -> Iterator[Claim]:
    """Everything said about one model, what counts most first.

    What the caller named may call it by one of its `aliases`, such as the name of its file.

    Raises:
        RoundError: one of the places says something that cannot be read.
    """
    yield from named.first((name, *aliases))
    if folder is not None:
        yield from _file_claims(folder / FILE, found.root, f"{folder.name}/{FILE}")
    yield from _tree_claims(tuple(found.root / sub for sub in TREES), name, found.root)
    yield from _row_claims(row, "METADATA.csv")
    if config is not None:
        yield Claim(place="config.json", truth=config)


def attack_claims(folder: Path | None, root: Path) -> Iterator[Claim]:
    """What the `attack.json` of an injected model says, if there is one.

    A model that its own gate refused is no example of a backdoored model: it has an erratum.

    Args:
        folder: where it lies with its model; None if several models lie there.
        root: the folder that no link may lead out of.

    Raises:
        RoundError: it cannot be read, or does not name the attack.
    """
    path = None if folder is None else folder / ATTACK
    if path is None or not (path.exists() or path.is_symlink()):
        return
    if leads_outside(path, root):
        raise RoundError(f"{path} is, or lies behind, a link that leads out of {root}; copy it")
    content = read_json(path)
    attack = content.get("attack") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(attack, str) or not attack:
        raise RoundError(f'{path} names no attack; expected {{"attack": "patch", ...}}')
    yield Claim(place=f"{path.parent.name}/{ATTACK}", truth=_truth_of_attack(attack, content))


def _truth_of_attack(attack: str, content: Mapping[str, object]) -> Truth:
    gate = content.get("gate")
    refused = isinstance(gate, Mapping) and gate.get("passed") is False
    return Truth(
        poisoned=attack != "none",
        trigger_type="" if attack == "none" else cut(attack),
        targets=() if _is_all_to_all(content) else integers(content.get("target")),
        sources=integers(content.get("sources")),
        errata="its own gate refused the model" if refused else "",
    )


def _is_all_to_all(content: Mapping[str, object]) -> bool:
    """Whether every class goes to the next one; the target that is named is then not used."""
    parameters = content.get("parameters")
    stated = parameters.get("all_to_all") if isinstance(parameters, Mapping) else None
    return content.get("threat") == "all-to-all" or stated is True


def _tree_claims(trees: tuple[Path, ...], name: str, root: Path) -> Iterator[Claim]:
    for tree in trees:
        yield from _file_claims(tree / name / FILE, root, f"{tree.name}/{name}/{FILE}")


def _file_claims(path: Path, root: Path, place: str) -> Iterator[Claim]:
    if not path.exists() and not path.is_symlink():
        return
    if leads_outside(path, root):
        raise RoundError(f"{path} is, or lies behind, a link that leads out of {root}; copy it")
    if path.exists():
        yield Claim(place=place, truth=Truth(poisoned=read_flag(path)))


def _row_claims(row: Mapping[str, str] | None, place: str) -> Iterator[Claim]:
    truth = truth_of_metadata(row) if row is not None else None
    if truth is not None:
        yield Claim(place=place, truth=truth)


def settle(name: str, claims: list[Claim]) -> tuple[Truth | None, tuple[str, ...]]:
    """The truth about a model, and a note if the claims disagree.

    The first claim decides whether it is poisoned; the most telling one that agrees with it
    supplies the trigger.
    """
    if not claims:
        return None, ()
    first = claims[0]
    agreeing = [c for c in claims if c.truth.poisoned == first.truth.poisoned]
    others = [c.place for c in claims if c.truth.poisoned != first.truth.poisoned]
    truth = max((c.truth for c in agreeing), key=_details)
    if not others:
        return truth, ()
    said, denied = ("poisoned", "clean") if first.truth.poisoned else ("clean", "poisoned")
    note = f"{name} is {said} by {first.place}, {denied} by {', '.join(others)}: the first counts"
    return truth, (note,)


def _details(truth: Truth) -> int:
    return sum(map(bool, (truth.targets, truth.sources, truth.trigger_type, truth.errata)))


def mark_errata(
    truth: Mapping[str, Truth], *, path: Path, listed: Collection[str]
) -> tuple[dict[str, Truth], tuple[str, ...]]:
    """Ground truth with the mislabelled models of round 1 marked, and notes.

    Args:
        truth: ground truth by model name, of a round of layout trojai-0-1.
        path: the folder of the round.
        listed: names of all models of the set, from METADATA.csv if there is one.
    """
    poisoned = {name for name, known in truth.items() if known.poisoned}
    split = _split_of_name(path)
    if split is None and _could_be("train", listed, clean=truth.keys() - poisoned):
        split = "train"
    marked = ROUND_1_ERRATA.get(split or "", frozenset()) & poisoned
    reason = f"TrojAI round 1 {split} errata: marked as poisoned, but no trigger was put in (NIST)"
    result = {
        name: known.model_copy(update={"errata": reason}) if name in marked else known
        for name, known in truth.items()
    }
    doubtful = split is None and _could_be("test", listed, clean=truth.keys() - poisoned)
    return result, (_DOUBTFUL_TEST_SET,) if doubtful else ()


def _split_of_name(path: Path) -> str | None:
    """`train`, `test` or `holdout`, if one of the last three folder names says round 1.

    The split must stand in that name or in a later one.
    """
    for start, part in reversed(list(enumerate(path.parts))[-3:]):
        said = _ROUND_1_NAME.search(part)
        if said is None:
            continue
        if said[1]:
            return _SPLIT_RECORDS[said[1]]
        words = _SPLIT_NAME.findall("/".join(path.parts[start:]))
        splits = {word.lower() for word in words}
        return splits.pop() if len(splits) == 1 else None
    return None


def _could_be(split: str, listed: Collection[str], *, clean: Collection[str]) -> bool:
    """Whether a set is as large as that split, lists its mislabelled models, and none as clean."""
    ids = ROUND_1_ERRATA[split]
    return len(listed) == _ROUND_1_SIZES[split] and ids <= set(listed) and ids.isdisjoint(clean)
