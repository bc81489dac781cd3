"""What lies in the folder of a generated round beside its models: its wish, and its failures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from moth_eval.errors import InputError, RunError
from moth_eval.run_files import write_whole

from .plan import ModelPlan, RoundSpec
from .trigger import victims

SPEC_FILE = "generation.json"
FAILED_FOLDER = "failed"
DEVICE = "device"
"""Key of the kind of device; files of versions before it was written have none."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What was tried in vain for one model.

    Attributes:
        attempts: trainings.
        seconds: wall-clock time of them (s).
    """

    attempts: int = 0
    seconds: float = 0.0


def claim(out: Path, spec: RoundSpec, *, device: str) -> None:
    """Make the folder, or make sure that it belongs to this very round.

    Args:
        out: the folder of the round.
        spec: what is to be generated.
        device: where networks are trained; CPU and GPU make different ones.

    Raises:
        InputError: `out` is a file, holds something else, or holds a round of another spec.
        RunError: what is in `out` is damaged.
    """
    wanted = json.loads(json.dumps(asdict(spec))) | {DEVICE: torch.device(device).type}
    path = out / SPEC_FILE
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder: name a folder, new or begun by the same command")
    if path.is_file():
        _check_same(path, wanted)
    else:
        if out.is_dir() and any(out.iterdir()):
            raise InputError(
                f"{out} is not empty and holds no {SPEC_FILE}: name a new folder for the round"
            )
        write_whole(path, _text(wanted))
    (out / "models").mkdir(exist_ok=True)


def is_complete(folder: Path, plan: ModelPlan, spec: RoundSpec) -> bool:
    """Whether `folder` holds everything that belongs to the model."""
    files = ["model.pt", "ground_truth.csv", "config.json", "model_stats.json"]
    images = {"clean_example_data": len(plan.signs), "foregrounds": 0}
    if plan.trigger is not None:
        files.append("trigger_0.png")
        classes = torch.arange(len(plan.signs))
        images["poisoned_example_data"] = int(victims(plan.trigger, classes).sum())
    if any(not (folder / file).is_file() or not (folder / file).stat().st_size for file in files):
        return False
    return all(
        len(list((folder / name).glob("*.png")))
        == (spec.examples_per_class * classes if classes else len(plan.signs))
        for name, classes in images.items()
    )


def write_failure(out: Path, name: str, facts: dict[str, object]) -> None:
    """Note how a model failed its gate."""
    write_whole(_failure(out, name), _text(facts))


def failed_before(out: Path, name: str) -> Failed:
    """What earlier calls tried in vain; nothing where the note was cut off."""
    try:
        facts = json.loads(_failure(out, name).read_bytes())
        return Failed(attempts=int(facts["attempts"]), seconds=float(facts["seconds"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return Failed()


def forget_failure(out: Path, name: str) -> None:
    """Remove the note on a model that has passed since."""
    _failure(out, name).unlink(missing_ok=True)


def _failure(out: Path, name: str) -> Path:
    return out / FAILED_FOLDER / f"{name}.json"


def _text(facts: dict[str, object]) -> bytes:
    return (json.dumps(facts, indent=2) + "\n").encode()


def _check_same(path: Path, wanted: dict[str, object]) -> None:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): remove the folder and begin anew") from error
    known = {DEVICE: wanted[DEVICE]} | (found if isinstance(found, dict) else {})
    changed = [key for key in wanted if known.get(key) != wanted[key]]
    if changed:
        raise InputError(
            f"{path.parent} holds a round of another specification (different: "
            f"{', '.join(changed)}): name another folder, or repeat the command that began it"
        )
