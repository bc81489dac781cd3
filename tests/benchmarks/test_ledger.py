from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from benchmarks.distance_study import DistancePlan, DistanceWriter
from benchmarks.ledger import LedgerWriter, attempts_of
from benchmarks.tasks import Task
from benchmarks.trojai import Plan
from moth_eval.loading.rounds import Round, RoundModel
from moth_eval.loading.sources import content_hash
from moth_eval.records import LEDGER, LOST, AttemptRecord, LedgerLine, RunFolder
from moth_eval.text import file_name
from reports.build import LONGEST_WORD, _file_words
from tests.support.runs import manifest, record


def task(name: str) -> Task:
    model = RoundModel(name=name, file=Path(name), examples=None, layout="files", metadata={})
    return Task(
        model=model, sha256="ab", data_sha256="", scanner="nc", method="nc", parameters={},
        seed=0, device="cpu", architecture="", models=Path("/"), run=Path("/"),
    )  # fmt: skip


def test_what_is_written_later_counts_though_a_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hour, score in ((12, None), (11, 2.0), (10, 3.0)):
        monkeypatch.setattr("benchmarks.ledger.time.time_ns", lambda hour=hour: hour * 3600 * 10**9)
        with LedgerWriter(tmp_path) as ledger:
            ledger.end(record("a", score))
    assert RunFolder(tmp_path).records()[record("a").key].score == 3.0


def test_inversions_that_are_measured_later_count_though_a_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = cast(DistancePlan, SimpleNamespace(finished={}))
    begun = []
    for hour in (12, 11, 10):
        monkeypatch.setattr("benchmarks.ledger.time.time_ns", lambda hour=hour: hour * 3600 * 10**9)
        with DistanceWriter(tmp_path, plan):
            begun.append(next(p for p in (tmp_path / LEDGER).iterdir() if p not in begun))
    assert begun == sorted(begun)


def test_tasks_that_the_run_did_not_survive_come_last() -> None:
    tasks = tuple(map(task, "abc"))
    plan = Plan(
        round=Round(path=Path("/"), layout="files", models=(), truth={}, notes=()),
        manifest=manifest([], ["nc"]), tasks=tasks, finished={},
        earlier={tasks[0].key: (LOST, LOST), tasks[1].key: (LOST,)},
    )  # fmt: skip
    assert [one.model.name for one in plan.open_tasks] == ["c", "b", "a"]
    assert replace(plan, earlier={}).open_tasks == list(tasks)


def test_examples_may_have_names_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    plain = content_hash(tmp_path)
    Path(f"{tmp_path}/odd\udcff.png").write_bytes(b"2")
    assert content_hash(tmp_path) != plain


def test_names_of_files_fit_and_differ() -> None:
    name = file_name("\u6f22" * 90)
    assert len(name.encode()) <= 100
    words = _file_words(["a:b=1", "a.b=1", "a_b_1", "x" * 300, "\u6f22" * 90])
    assert len(set(words.values())) == 5
    assert max(len(word.encode()) for word in words.values()) <= LONGEST_WORD
    assert words["a:b=1"] == "a_b_1"


def test_the_attempts_at_an_unfinished_task_are_known_whoever_made_them() -> None:
    crash = AttemptRecord(status="crashed", reason="it died", seconds=1.0)

    def line(event: str, key: str, attempt: AttemptRecord | None = None) -> LedgerLine:
        values = {"event": event, "key": key, "model": "m", "scanner": "nc", "attempt": attempt}
        return LedgerLine.model_validate(values)

    lines = [
        line("start", "done"), line("retry", "done", crash), line("start", "done"),
        line("end", "done"),
        line("start", "open"), line("retry", "open", crash), line("start", "open"),
        line("start", "open"),  # the run was killed before, and begun again
        line("start", "again"), line("end", "again"), line("start", "again"),
    ]  # fmt: skip
    assert attempts_of(lines) == {"open": (crash, LOST, LOST), "again": (LOST,)}
