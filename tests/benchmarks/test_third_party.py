from __future__ import annotations

import csv
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.supervisor import Place
from benchmarks.tasks import Task, execute
from benchmarks.third_party import METHOD, _copied, _visible_gpu, parse_detector
from moth_eval.cli import main
from moth_eval.errors import InputError, OutOfMemory
from moth_eval.loading.files import sha256_of
from moth_eval.loading.rounds import read_round
from moth_eval.records import RunFolder
from tests.support.round_folders import round_11_model
from tests.support.subjects import write_prototype_round

DETECTOR = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("model_filepath", "result_filepath", "scratch_dirpath", "examples_dirpath"):
    parser.add_argument("--" + name, type=pathlib.Path)
parser.add_argument("--mode", default="good")
args = parser.parse_args()
images = sorted(args.examples_dirpath.glob("*.png"))
labels = [int(path.name.split("_")[1]) for path in images]
assert len(images) == 60 and set(labels) == set(range(5)), (len(images), set(labels))
assert args.model_filepath.name == "model.pt"
seen = {path.name for path in args.model_filepath.parent.iterdir()}
assert seen == {"model.pt", "example_data"}, seen
assert list(args.scratch_dirpath.iterdir()) == []
size = args.model_filepath.stat().st_size
(args.scratch_dirpath / "left").write_text("behind")
print("looked at", size, "bytes")
text = {"good": f"{0.25 + size % 2 / 2}\\n", "words": "likely\\n", "large": "1.5\\n"}
text["nan"] = "nan\\n"
if args.mode.isdecimal():
    os.kill(os.getpid(), int(args.mode))
if args.mode == "memory":
    raise MemoryError("too much")
if args.mode == "hang":
    import time
    time.sleep(60)
if args.mode == "crash":
    sys.exit("no such luck")
if args.mode != "silent":
    args.result_filepath.write_text(text[args.mode])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("third")
    write_prototype_round(folder / "round", models=2)
    (folder / "theirs.py").write_text(DETECTOR)
    return folder


def command(folder: Path, mode: str = "good") -> str:
    return f"{sys.executable} {folder / 'theirs.py'} --mode {mode}"


def trojai(folder: Path, run: Path, *more: object) -> Result:
    words = [
        "trojai",
        "--models",
        folder / "round",
        "--out",
        run,
        "--jobs",
        "1",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    return CliRunner().invoke(main, [*map(str, words), *map(str, more)])


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "results.csv").read_text().splitlines()))


def test_what_it_writes_is_the_score_of_a_row(folder: Path, tmp_path: Path) -> None:
    result = trojai(folder, tmp_path / "run", "--detector", command(folder))
    assert result.exit_code == 0, result.output
    table = rows(tmp_path / "run")
    assert [(row["status"], row["scanner"]) for row in table] == [
        ("scored", f"detector: {command(folder)}"),
    ] * 2
    assert {row["score"] for row in table} <= {"0.25", "0.75"}
    assert [row["poisoned"] for row in table] == ["False", "True"]
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").iterdir())
    assert logs == "" or "looked at" in logs


def test_it_stands_beside_scanners_and_is_not_run_twice(folder: Path, tmp_path: Path) -> None:
    more = (
        "--detector", command(folder), "--scanner", "nc:max_images=30", "--arch",
        "tests.support.subjects:prototype_network",
    )  # fmt: skip
    first = trojai(folder, tmp_path / "run", *more)
    assert first.exit_code in (0, 1), first.output
    assert len(rows(tmp_path / "run")) == 4
    again = trojai(folder, tmp_path / "run", *more)
    assert "4 of 4 tasks are done" in again.output
    compared = (tmp_path / "run" / "comparisons.csv").read_text().splitlines()
    assert compared[1].startswith(f"nc:max_images=30,detector: {command(folder)},1,1,0,")


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("crash", "the detector ended with exit code 1, saying: no such luck"),
        ("silent", "the detector wrote no result file"),
        ("words", "expected a probability in the detector's result, got 'likely'"),
        ("large", "expected a probability in the detector's result, got '1.5'"),
        ("nan", "expected a probability in the detector's result, got 'nan'"),
    ],
)
def test_what_goes_wrong_is_a_failed_row(
    mode: str, reason: str, folder: Path, tmp_path: Path
) -> None:
    record = execute(task(folder, tmp_path, mode), Place(device="cpu"), lambda *told: None)
    assert (record.status, record.score) == ("failed", None)
    assert reason in record.reason


def test_paths_are_the_callers_and_modules_beside_the_program_are_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "helper_of_theirs.py").write_text("answer = 0.125\n")
    (folder / "several.py").write_text(
        "import sys, pathlib, helper_of_theirs\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "assert pathlib.Path(given['--settings']).read_text() == 'these'\n"
        "result = pathlib.Path(given['--result_filepath'])\n"
        "result.write_text(str(helper_of_theirs.answer))\n"
    )
    (folder / "s.json").write_text("these")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    words = f"{sys.executable} several.py --settings s.json"
    result = trojai(folder, tmp_path / "run", "--detector", words)
    assert result.exit_code == 0, result.output
    assert {row["score"] for row in rows(tmp_path / "run")} == {"0.125"}
    (folder / "s.json").write_text("those")
    changed = parse_detector(words)
    assert changed["files"] != RunFolder(tmp_path / "run").manifest().scanners[
        f"detector: {words}"
    ]["files"]  # fmt: skip
    assert parse_detector(f"{sys.executable} --settings=s.json")["command"][1] == (
        f"--settings={folder / 's.json'}"
    )


@pytest.mark.parametrize(
    ("device", "ours", "theirs"),
    [
        ("cpu", "4,5", ""),
        ("cuda:1", None, "1"),
        ("cuda:1", "4,5", "5"),
        ("cuda", "4,5", "4"),
        ("cuda:0", "GPU-ab, GPU-cd", "GPU-ab"),
    ],
)
def test_a_detector_sees_the_gpu_of_its_place_among_ours(
    device: str, ours: str | None, theirs: str
) -> None:
    environment = {} if ours is None else {"CUDA_VISIBLE_DEVICES": ours}
    assert _visible_gpu(device, environment) == theirs


def task(folder: Path, run: Path, mode: str) -> Task:
    """The task of the first model, to be carried out in this process."""
    model = read_round(folder / "round").models[0]
    return Task(
        model=model, sha256=sha256_of(model.file), data_sha256="", scanner="detector",
        method=METHOD, parameters=parse_detector(command(folder, mode)), seed=0, device="cpu",
        architecture="", models=folder / "round", run=run,
    )  # fmt: skip


def test_a_model_that_was_changed_since_is_refused(folder: Path, tmp_path: Path) -> None:
    changed = replace(task(folder, tmp_path, "good"), sha256="0" * 64)
    record = execute(changed, Place(device="cpu"), lambda *told: None)
    assert record.status == "refused"
    assert "was changed while the run was on" in record.reason
    assert not (tmp_path / "scratch" / changed.file_name).exists()


def test_a_detector_out_of_memory_says_nothing_about_the_model(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutOfMemory, match="MemoryError: too much"):
        execute(task(folder, tmp_path, "memory"), Place(device="cpu"), lambda *told: None)


@pytest.mark.parametrize(
    ("number", "status", "name"),
    [(signal.SIGXCPU, "timed-out", "SIGXCPU"), (40, "crashed", "signal 40")],
)
def test_a_detector_that_a_signal_ends_is_no_failure(
    number: int, status: str, name: str, folder: Path, tmp_path: Path
) -> None:
    one = task(folder, tmp_path, str(int(number)))
    record = execute(one, Place(device="cpu"), lambda *told: None)
    assert (record.status, record.reason) == (status, f"the detector was ended by {name}")


@pytest.mark.slow
def test_a_detector_that_hangs_is_ended_and_leaves_no_copy_of_the_model(
    folder: Path, tmp_path: Path
) -> None:
    more = ("--limit", "1", "--timeout", "12", "--detector", command(folder, "hang"))
    result = trojai(folder, tmp_path / "run", *more)
    assert result.exit_code == 3
    [record] = RunFolder(tmp_path / "run").records().values()
    assert record.status == "timed-out"
    scratch = tmp_path / "run" / "scratch"
    assert not scratch.exists() or list(scratch.iterdir()) == []


def test_images_keep_the_names_of_their_round(shared_round: Path, tmp_path: Path) -> None:
    model = replace(
        read_round(shared_round / "id-00000000").models[0], usable=True, file=shared_round / "x"
    )
    folder, count = _copied(model, tmp_path)
    assert folder.name == "clean-example-data"
    assert count == 2
    assert sorted(path.name for path in folder.iterdir())[:2] == ["0.jpg", "0.json"]
    assert {path.read_text() for path in folder.glob("*.json")} == {"0\n", "1\n"}


@pytest.mark.parametrize(
    ("sizes", "named", "message"),
    [
        ([300], False, "larger than the 268,435,456 bytes that are copied"),
        ([300], True, "larger than the 268,435,456 bytes that are copied"),
        ([200] * 6, False, "images of 1,258,291,200 bytes, more than the 1,073,741,824"),
    ],
)
def test_images_that_would_fill_the_disk_are_not_copied(
    sizes: list[int], named: bool, message: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    for number, size in enumerate(sizes):
        with (tmp_path / "images" / f"class_0_example_{number}.png").open("wb") as file:
            file.truncate(size << 20)
    model = read_round(folder / "round").models[0]
    model = replace(model, examples=tmp_path / "images", examples_named=named)
    with pytest.raises(InputError, match=message):
        _copied(model, tmp_path)
    assert not list((tmp_path / "example_data").iterdir())


def test_a_model_that_is_mostly_not_there_is_not_copied(folder: Path, tmp_path: Path) -> None:
    hollow = tmp_path / "hollow.pt"
    with hollow.open("wb") as file:
        file.truncate(1 << 31)
    one = task(folder, tmp_path / "run", "good")
    one = replace(one, model=replace(one.model, file=hollow), sha256="")
    record = execute(one, Place(device="cpu"), lambda *told: None)
    assert record.status == "refused"
    assert "claims 2,147,483,648 bytes" in record.reason


@pytest.fixture
def shared_round(tmp_path: Path) -> Path:
    round_11_model(tmp_path / "round", 0, poisoned=False)
    return tmp_path / "round"


def test_a_word_that_is_too_long_for_a_path_is_no_path() -> None:
    words = [f"--query={'x' * 300}", "y" * 5000]
    assert parse_detector(" ".join([sys.executable, *words]))["command"][1:] == words


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no-such-program --x", "expected a program and its arguments"),
        ("", "expected a program and its arguments"),
        ("python 'half", "is no command line"),
    ],
)
def test_no_program_is_an_input_error(
    given: str, message: str, folder: Path, tmp_path: Path
) -> None:
    result = trojai(folder, tmp_path / "run", "--detector", given)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_row_can_be_reproduced(folder: Path, tmp_path: Path) -> None:
    assert trojai(folder, tmp_path / "run", "--detector", command(folder)).exit_code == 0
    cell = f"model-0/detector: {command(folder)}"
    result = CliRunner().invoke(main, ["reproduce", str(tmp_path / "run"), cell, "--trust-run"])
    assert result.exit_code == 0, result.output
