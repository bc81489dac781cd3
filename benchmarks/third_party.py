"""Detectors of others, run as a TrojAI container would be: a command line in, one number out."""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moth_eval.errors import InputError, OutOfMemory, RefusedFile, ScanError
from moth_eval.loading.files import sha256_of
from moth_eval.loading.rounds import RoundModel
from moth_eval.loading.sources import ImageSource
from moth_eval.run_files import SCRATCH as SCRATCH

from .bounded_copies import LARGEST_EXAMPLES, copy_model, copy_small
from .supervisor import signal_name

if TYPE_CHECKING:
    from .tasks import Task

LOG = logging.getLogger(__name__)

METHOD = "detector"
"""What stands in the place of a scanner's row for a command line."""

PREFIX = f"{METHOD}: "

FOLDERS = {
    "trojai-3": "clean_example_data",
    "trojai-4": "clean_example_data",
    "trojai-11": "clean-example-data",
    "trojai-mitigation": "clean-example-data",
}
"""Layout -> what its folder of clean images is called, where it is not `example_data`."""

MOST_RESULT = 1024
MOST_TOLD = 2000
"""Bytes of a result that are read, and characters of the command's output that are told."""


def parse_detector(command: str) -> dict[str, Any]:
    """The parameters of a detector's task: the words of its command line, and the files they name.

    A detector works in a folder of its own, so that paths are made absolute. Its files are hashed:
    one that is changed is another detector.

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
    words = [_absolute(words[0], program=True), *(_absolute(word) for word in words[1:])]
    named = {word.rpartition("=")[2] for word in words}
    files = {name: sha256_of(Path(name)) for name in sorted(named) if _is(Path.is_file, name)}
    return {"command": words, "files": files}


def _absolute(word: str, *, program: bool = False) -> str:
    """A word with the path that it is, or that follows its last `=`, made absolute if it is there.

    A bare name of a program is looked for on the path for programs, wherever it is run.
    """
    option, equals, path = word.rpartition("=")
    if (program and os.sep not in word) or not path or not _is(Path.exists, path):
        return word
    return f"{option}{equals}{Path(path).absolute()}"


def _is(what: Callable[[Path], bool], word: str) -> bool:
    """What a word is as a path; one that is too long for a path is none."""
    try:
        return what(Path(word))
    except OSError:
        return False


def run_detector(task: Task) -> dict[str, Any]:
    """What a detector's command says of a model, as fields of a record.

    It is given a copy of the model under the name `model.pt`, copies of its clean images as its
    round names them, and an empty scratch folder.

    Raises:
        ScanError: it ended with another exit code than 0, or left no probability.
        InputError: the model or its images are not there.
        RefusedFile: the model file was changed since the run was planned.
        OutOfMemory: it ran out of memory.
    """
    model = task.model
    if model.examples is None or not model.usable:
        raise InputError(f"{model.name} cannot be opened: {'; '.join(model.problems)}")
    discard(task)  # of an attempt that was ended from outside
    folder = _folder_of(task)
    try:
        return _run_in(folder, task)
    finally:
        discard(task)


def discard(task: Task) -> None:
    """Remove what a detector was given, which one that was killed leaves behind."""
    shutil.rmtree(_folder_of(task), ignore_errors=True)


def _folder_of(task: Task) -> Path:
    return task.run / SCRATCH / task.file_name


def _run_in(folder: Path, task: Task) -> dict[str, Any]:
    active, scratch = folder / "active", folder / "scratch"
    active.mkdir(parents=True)
    scratch.mkdir()
    copy_model(task.model.file, active / "model.pt")
    if sha256_of(active / "model.pt") != task.sha256:
        raise RefusedFile(f"{task.model.file} was changed while the run was on; run it again")
    examples, count = _copied(task.model, active)
    words = [
        *task.parameters["command"],
        "--model_filepath", str(active / "model.pt"),
        "--result_filepath", str(active / "result.txt"),
        "--scratch_dirpath", str(scratch),
        "--examples_dirpath", str(examples),
    ]  # fmt: skip
    started = time.perf_counter()
    ended = _called(words, scratch, task)
    spent = {"seconds": time.perf_counter() - started, "examples": count}
    if ended:
        status = "timed-out" if ended == signal.SIGXCPU else "crashed"
        reason = f"the detector was ended by {signal_name(ended)}"
        return {"status": status, "reason": reason, **spent}
    return {"status": "scored", "score": _result(active / "result.txt"), **spent}


def _called(words: Sequence[str], scratch: Path, task: Task) -> int:
    """Run the command; the signal that ended it, or 0."""
    environment = dict(os.environ)
    # A program finds the modules that lie beside it; ours must not, see own_code.
    environment.pop("PYTHONSAFEPATH", None)
    environment["CUDA_VISIBLE_DEVICES"] = _visible_gpu(task.device, environment)
    with (scratch.parent / "output").open("w+b") as output:
        ended = subprocess.run(  # noqa: S603 - the command is the caller's own
            words, cwd=scratch, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            env=environment, check=False,
        )  # fmt: skip
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - MOST_TOLD))
        told = output.read().decode(errors="replace").strip()
    LOG.info("%s said: %s", task.label, told)
    if ended.returncode > 0:
        last = told.splitlines()[-1] if told else "nothing"
        if "MemoryError" in last or "out of memory" in last.lower():
            raise OutOfMemory(f"the detector of {task.model.name}: {last}")
        raise ScanError(f"the detector ended with exit code {ended.returncode}, saying: {last}")
    return -ended.returncode


def _visible_gpu(device: str, environment: Mapping[str, str]) -> str:
    """The GPU that a detector may see, of those that we may see ourselves; empty: none."""
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return ""
    ours = environment.get("CUDA_VISIBLE_DEVICES")
    place = int(number or 0)
    if ours is None:
        return str(place)
    names = [name.strip() for name in ours.split(",") if name.strip()]
    return names[place] if place < len(names) else str(place)


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


def _copied(model: RoundModel, active: Path) -> tuple[Path, int]:
    """Copy a model's clean images into a new folder, as its round names them; that, and how many.

    Rounds from 11 on have `{id}.jpg` beside `{id}.json`, which holds the class; earlier ones say it
    in the name.

    Raises:
        InputError: they are too large, or would fill the disk.
    """
    from moth_eval.loading.labelled_files import labelled_files

    assert model.examples is not None  # noqa: S101 - the caller looked
    late = model.layout in ("trojai-11", "trojai-mitigation")
    folder = active / FOLDERS.get(model.layout, "example_data")
    folder.mkdir()
    if not isinstance(model.examples, Path) or not model.examples.is_dir():
        return folder, _drawn(model.examples, folder, named=model.examples_named)
    files = labelled_files(model.examples, layout=model.layout)
    held = sum(file.path.stat().st_size for file in files)
    if held > LARGEST_EXAMPLES and not model.examples_named:
        raise InputError(
            f"{model.examples} holds images of {held:,} bytes, more than the "
            f"{LARGEST_EXAMPLES:,} that are copied of what lies with a model"
        )
    root = model.examples.resolve()
    for number, file in enumerate(files):
        stem = f"{number}" if late else f"class_{file.label}_example_{number}"
        copy_small(file.path, folder / f"{stem}{file.path.suffix.lower()}", root)
        if late:
            (folder / f"{stem}.json").write_text(f"{file.label}\n")
    return folder, len(files)


def _drawn(arrays: ImageSource, folder: Path, *, named: bool) -> int:
    """The images of an `.npz` or a data set as PNG files."""
    from PIL import Image

    from moth_eval.loading.images import read_pictures
    from moth_eval.pictures import memory_for_images, to_bytes

    most_bytes = memory_for_images() if named else None
    given = read_pictures(
        arrays, layout="files", crop=None, num_classes=None, most_bytes=most_bytes
    )
    for number, (image, label) in enumerate(zip(given.images, given.labels.tolist(), strict=True)):
        path = folder / f"class_{label}_example_{number}.png"
        pixels = to_bytes(image).permute(1, 2, 0).numpy()
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(path)
    return len(given)
