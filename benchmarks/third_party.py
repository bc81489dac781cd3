"""Detectors of others, run as a TrojAI container would be: a command line in, one number out."""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moth_eval.errors import InputError, ScanError
from moth_eval.loading.rounds import RoundModel

if TYPE_CHECKING:
    from .tasks import Task

LOG = logging.getLogger(__name__)

METHOD = "detector"
"""What stands in the place of a scanner's row for a command line."""

PREFIX = f"{METHOD}: "

MOST_RESULT = 1024
MOST_TOLD = 2000
"""Bytes of a result that are read, and characters of the command's output that are told."""


def parse_detector(command: str) -> dict[str, Any]:
    """The parameters of a detector's task: the words of its command line.

    Raises:
        InputError: there is no such program.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise InputError(f"--detector {command!r} is no command line: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"--detector {command!r}: expected a program and its arguments, got no program that is "
            "there"
        )
    return {"command": words}


def run_detector(task: Task) -> dict[str, Any]:
    """What a detector's command says of a model, as fields of a record.

    It is given a copy of the model under the name `model.pt`, copies of its clean images in a
    folder that tells nothing else, and an empty scratch folder.

    Raises:
        ScanError: it ended with another exit code than 0, or left no probability.
        InputError: the model or its images are not there.
    """
    model = task.model
    if model.examples is None or not model.usable:
        raise InputError(f"{model.name} cannot be opened: {'; '.join(model.problems)}")
    with tempfile.TemporaryDirectory(prefix="moth-eval-detector-") as folder:
        active, scratch = Path(folder) / "active", Path(folder) / "scratch"
        active.mkdir()
        scratch.mkdir()
        shutil.copyfile(model.file, active / "model.pt")
        examples = active / "example_data"
        count = _copied(model, examples)
        words = [
            *task.parameters["command"],
            "--model_filepath", str(active / "model.pt"),
            "--result_filepath", str(active / "result.txt"),
            "--scratch_dirpath", str(scratch),
            "--examples_dirpath", str(examples),
        ]  # fmt: skip
        started = time.perf_counter()
        _called(words, scratch, task)
        found = _result(active / "result.txt")
    seconds = time.perf_counter() - started
    return {"status": "scored", "score": found, "seconds": seconds, "examples": count}


def _called(words: Sequence[str], scratch: Path, task: Task) -> None:
    environment = dict(os.environ)
    kind, _, number = task.device.partition(":")
    environment["CUDA_VISIBLE_DEVICES"] = (number or "0") if kind == "cuda" else ""
    with (scratch.parent / "output").open("w+b") as output:
        ended = subprocess.run(  # noqa: S603 - the command is the caller's own
            words, cwd=scratch, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment, check=False,
        )  # fmt: skip
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - MOST_TOLD))
        told = output.read().decode(errors="replace").strip()
    LOG.info("%s said: %s", task.label, told)
    if ended.returncode:
        last = told.splitlines()[-1] if told else "nothing"
        raise ScanError(f"the detector ended with exit code {ended.returncode}, saying: {last}")


def _result(path: Path) -> float:
    """The probability in a result file, in `[0, 1]`."""
    if not path.is_file():
        raise ScanError("the detector wrote no result file")
    with path.open("rb") as file:
        line = file.read(MOST_RESULT).decode(errors="replace").partition("\n")[0].strip()
    try:
        found = float(line)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise ScanError(f"expected a probability in the detector's result, got {line[:40]!r}")
    return found


def _copied(model: RoundModel, folder: Path) -> int:
    """Copy a model's clean images into a new folder, as the rounds name them; how many."""
    from moth_eval.loading.labelled_files import labelled_files

    assert model.examples is not None  # noqa: S101 - the caller looked
    folder.mkdir()
    if model.examples.is_dir():
        files = labelled_files(model.examples, layout=model.layout)
        for number, file in enumerate(files):
            _place(file.path, folder, file.label, number)
        return len(files)
    return _drawn(model.examples, folder)


def _place(path: Path, folder: Path, label: int, number: int) -> None:
    """A copy of an image under a name that says its class in both ways that detectors read."""
    name = f"class_{label}_example_{number}"
    shutil.copyfile(path, folder / f"{name}{path.suffix.lower()}")
    (folder / f"{name}.json").write_text(json.dumps({"clean_label": label}))


def _drawn(arrays: Path, folder: Path) -> int:
    """The images of an `.npz` as PNG files."""
    from PIL import Image

    from moth_eval.loading.images import read_examples

    examples = read_examples(arrays, layout="files", crop=None, num_classes=None)
    pixels = (examples.images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for number, (image, label) in enumerate(zip(pixels, examples.labels.tolist(), strict=True)):
        path = folder / f"class_{label}_example_{number}.png"
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(path)
        path.with_suffix(".json").write_text(json.dumps({"clean_label": label}))
    return len(pixels)
