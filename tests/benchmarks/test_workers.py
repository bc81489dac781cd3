from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.tasks import Task, execute, file_name, parse_scanner
from benchmarks.workers import run_tasks
from moth_eval.errors import InputError
from moth_eval.loading.rounds import RoundModel
from tests.support.work import answer, misbehave, talkative


def task(name: str, tmp_path: Path) -> Task:
    model = RoundModel(
        name=name, file=tmp_path / f"{name}.pt", examples=None, layout="files", metadata={},
        problems=("no examples: name some with --examples",), usable=False,
    )  # fmt: skip
    return Task(
        model=model, sha256="", data_sha256="", scanner="nc", method="nc", parameters={}, seed=0,
        device="cpu", architecture="", models=tmp_path, run=tmp_path / "run", threads=1,
    )  # fmt: skip


def outcomes(names: list[str], tmp_path: Path, **options: object) -> dict[str, tuple[str, str]]:
    tasks = [task(name, tmp_path) for name in names]
    settings = {"jobs": 2, "timeout": None, "work": misbehave, **options}
    found = run_tasks(tasks, on_start=lambda t: None, **settings)  # type: ignore[arg-type]
    return {record.model: (record.status, record.reason) for record in found}


def test_every_task_gets_its_own_answer(tmp_path: Path) -> None:
    names = [f"m{n}" for n in range(5)]
    assert outcomes(names, tmp_path, work=answer) == {
        name: ("inconclusive", f"seen {name}") for name in names
    }


def test_a_worker_that_dies_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    found = outcomes(["killed", "fine", "segfault", "exit", "good"], tmp_path)
    assert found["killed"] == ("failed", "the worker process was ended by SIGKILL: out of memory?")
    assert found["segfault"] == ("failed", "the worker process was ended by SIGSEGV")
    assert found["exit"] == ("failed", "the worker process ended with exit code 7 and no answer")
    assert found["fine"][0] == found["good"][0] == "inconclusive"


def test_a_worker_that_hangs_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    started = time.monotonic()
    found = outcomes(["hang", "fine"], tmp_path, timeout=8.0)
    assert found["hang"] == ("timed-out", "no answer within 8 s (--timeout)")
    assert found["fine"][0] == "inconclusive"
    assert time.monotonic() - started < 120


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_workers_are_gone_when_the_caller_stops_early(tmp_path: Path) -> None:
    tasks = [task(name, tmp_path) for name in ("fine", "hang", "hang")]
    results = run_tasks(tasks, jobs=2, timeout=None, on_start=lambda t: None, work=misbehave)
    assert next(results).model == "fine"
    deadline = time.monotonic() + 60
    while not (tmp_path / "hanging.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int((tmp_path / "hanging.pid").read_text())
    assert alive(pid)
    results.close()  # type: ignore[attr-defined]
    assert not alive(pid)


def test_an_answer_larger_than_the_pipe_arrives_whole(tmp_path: Path) -> None:
    [record] = run_tasks(
        [task("long", tmp_path)], jobs=1, timeout=None, on_start=lambda t: None, work=talkative
    )  # fmt: skip
    assert len(record.reason) == 1_000_000


def test_a_model_without_a_file_is_a_failed_row(tmp_path: Path) -> None:
    record = execute(task("absent", tmp_path))
    assert record.status == "failed"
    assert "no examples: name some with --examples" in record.reason


def test_the_key_depends_on_what_decides_the_result_and_on_nothing_else(tmp_path: Path) -> None:
    from dataclasses import replace

    one = task("m", tmp_path)
    for change in (
        {"seed": 1},
        {"parameters": {"cut": 3}},
        {"data_sha256": "x"},
        {"device": "cuda"},
    ):
        assert replace(one, **change).key != one.key
    assert replace(one, threads=8, run=tmp_path / "elsewhere").key == one.key


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
        ("nc:cut=inf", "cut finite"),
        ("nc:preset=slow", "--scanner nc:preset=slow: preset must be one of fast, paper"),
    ],
)
def test_a_bad_scanner_specification_is_explained(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_scanner(spec)


def test_names_become_safe_file_names_that_stay_distinct() -> None:
    assert file_name("id-00000001") == "id-00000001"
    names = [
        file_name(n) for n in ("../../etc/passwd", "..\\..\\etc\\passwd", ".hidden", "a" * 300)
    ]
    assert len(set(names)) == 4
    assert all("/" not in n and not n.startswith(".") and len(n) < 120 for n in names)
