from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tasks
from benchmarks.pool import Outcome
from benchmarks.supervisor import Ended, Place
from benchmarks.tasks import Task, execute, parse_scanner, record_of
from benchmarks.third_party import METHOD
from moth_eval.errors import InputError
from moth_eval.loading.files import sha256_of
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.records import AttemptRecord, EvidenceRecord, ScanRecord
from scanners import SCANNERS
from tests.support.subjects import write_prototype_round


def task(name: str, tmp_path: Path) -> Task:
    model = RoundModel(
        name=name, file=tmp_path / f"{name}.pt", examples=None, layout="files", metadata={},
        problems=("no examples: name some with --examples",), usable=False,
    )  # fmt: skip
    return Task(
        model=model, sha256="", data_sha256="", scanner="nc", method="nc", parameters={}, seed=0,
        device="cpu", architecture="", models=tmp_path, run=tmp_path / "run",
    )  # fmt: skip


def test_a_model_without_a_file_is_a_failed_row(tmp_path: Path) -> None:
    record = execute(task("absent", tmp_path), Place(), lambda *told: None)
    assert record.status == "failed"
    assert "no examples: name some with --examples" in record.reason


def test_a_record_tells_of_the_attempts_before_it(tmp_path: Path) -> None:
    once = AttemptRecord(status="crashed", reason="the worker died", seconds=1.5)
    one = replace(task("m", tmp_path), device="cuda")
    died: Ended[ScanRecord] = Ended(status="crashed", reason="it died", seconds=2.0)
    record = record_of(Outcome(task=one, ended=died, earlier=(once,), place=Place(device="cuda:1")))
    assert (record.status, record.reason, record.seconds) == ("crashed", "it died", 2.0)
    assert (record.attempts, record.device, record.key) == ((once,), "cuda:1", one.key)
    answer = one.without_answer("refused", "a pickle", seconds=0.5)
    good = Ended(status="answered", seconds=2.0, answer=answer)
    record = record_of(Outcome(task=one, ended=good, earlier=(once,), place=Place()))
    assert record == answer.model_copy(update={"attempts": (once,)})


def test_the_key_depends_on_what_decides_the_result_and_on_nothing_else(tmp_path: Path) -> None:
    one = task("m", tmp_path)
    for change in (
        {"seed": 1},
        {"parameters": {"cut": 3}},
        {"data_sha256": "x"},
        {"device": "cuda"},
        {"require_sandbox": True},
    ):
        assert replace(one, **change).key != one.key
    assert replace(one, run=tmp_path / "elsewhere").key == one.key
    theirs = replace(one, method=METHOD)  # opens the file itself, under no guard of ours
    assert replace(theirs, require_sandbox=True).key == theirs.key


def test_scanner_parameters_are_read_with_their_types() -> None:
    method, parameters = parse_scanner("nc:label_specific=true,max_images=50,success_rate=0.9")
    assert method == "nc"
    assert parameters == {
        "preset": "fast",
        "label_specific": True,
        "success_rate": 0.9,
        "max_images": 50,
        "statistic": "index",
        "cut": 2.0,
    }


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nd", "unknown name 'nd' in moth_eval.scanners: expected one of nc"),
        ("nc:steps=3", "scanner 'nc' has no parameter 'steps': expected field=value with one of"),
        ("nc:cut", "scanner 'nc' has no parameter 'cut'"),
        ("nc:cut=high", "cut takes a float, got 'high'"),
        ("nc:label_specific=maybe", "label_specific takes a bool, got 'maybe'"),
        ("nc:success_rate=2", "success_rate must be in"),
        ("nc:cut=inf", "cut takes finite numbers, got 'inf'"),
        ("nc:preset=slow", "--scanner nc:preset=slow: preset must be one of fast, paper"),
    ],
)
def test_a_bad_scanner_specification_is_explained(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_scanner(spec)


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """A task whose scanner leaves pictures."""
    monkeypatch.setitem(SCANNERS, "seen", "tests.support.seen_scanner:Brightened")  # type: ignore[arg-type]
    write_prototype_round(tmp_path / "round", models=1)
    [model] = read_round(tmp_path / "round").models
    return replace(
        task("m", tmp_path), model=model, method="seen", scanner="seen", models=tmp_path / "round",
        sha256=sha256_of(model.file), architecture="tests.support.subjects:prototype_network",
    )  # fmt: skip


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_says_nothing_about_the_model(
    number: int, seen: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(tasks, "write_whole", full)
    with pytest.raises(OSError, match=f"{seen.file_name}--{seen.key[:8]}.npz"):
        execute(seen, Place(device="cpu"), lambda *told: None)


def test_evidence_without_triggers_is_recorded_and_its_pictures_are_kept(seen: Task) -> None:
    one = seen
    record = execute(one, Place(device="cpu"), lambda *told: None)
    assert (record.status, record.triggers) == ("scored", ()), record.reason
    assert record.evidence == (
        EvidenceRecord(what="contrast", value=0.5, target=None, source=1),
        EvidenceRecord(what="brightness", value=1.5, target=2, source=None),
    )
    assert record.triggers_file == f"triggers/model-0--seen--{one.key[:8]}.npz"
    with np.load(one.run / record.triggers_file) as arrays:
        assert arrays["evidence"].tolist() == [1]
        before, after = arrays["pictures"][0]
    assert np.array_equal(before / 2, after)
