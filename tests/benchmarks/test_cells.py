from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.budget import Budget
from benchmarks.cells import Cell, folder_names, harden_cell, is_open, run_cells
from benchmarks.harden_plan import HardenStudy
from benchmarks.supervisor import Place
from moth_eval.hardening_cells import CellOutcome, outcome_path, write_outcome
from tests.support.cell_work import misbehave
from tests.support.hardening_runs import card, digest, write_card


def cell(folder: Path, model: str, *, problem: str = "") -> Cell:
    return Cell(
        model=model,
        sha256=digest(model),
        method="moth",
        study=HardenStudy(model=folder / "m.pt", data=folder / "d.npz", run=folder / model),
        originals=folder / "originals",
        problem=problem,
    )


def test_a_worker_that_dies_or_raises_is_a_status_and_the_next_cell_goes_on(tmp_path: Path) -> None:
    names = ("killed", "exit", "refused", "defect", "good")
    told: list[tuple[str, str]] = []
    states = list(
        run_cells(
            [cell(tmp_path, name) for name in names],
            Budget(jobs=2),
            "cpu",
            tell=lambda one, stage, share, line: told.append((stage, line)),
            work=misbehave,
        )
    )
    assert {state.model: (state.status, state.reason) for state in states} == {
        "killed": ("crashed", "the worker process was ended by SIGKILL: out of memory?"),
        "exit": ("crashed", "the worker process ended with exit code 7 and no answer"),
        "refused": ("refused", "not opened"),
        "defect": ("failed", "ZeroDivisionError: a defect"),
        "good": ("hardened", ""),
    }
    assert ("training", "seen good") in told


def test_a_worker_that_hangs_is_given_up(tmp_path: Path) -> None:
    budget = Budget(jobs=1, timeout=1.5)
    one = cell(tmp_path, "hang")
    [state] = run_cells([one], budget, "cpu", tell=lambda *_: None, work=misbehave)
    assert (state.status, state.reason) == ("timed-out", "no answer within 1.5 s")


def test_a_cell_that_cannot_be_planned_says_why(tmp_path: Path) -> None:
    outcome = harden_cell(cell(tmp_path, "a"), Place(), lambda *told: None)
    assert outcome is not None
    assert outcome.status == "failed"
    assert "does not exist" in outcome.reason


def test_what_is_known_of_a_cell_stays_until_it_is_begun_again(tmp_path: Path) -> None:
    cells = [cell(tmp_path, name) for name in ("good", "hang", "later")]
    for one in cells:
        write_outcome(one.study.run, CellOutcome(status="failed", reason="x", seconds=1.0))
    running = run_cells(cells, Budget(jobs=1), "cpu", tell=lambda *_: None, work=misbehave)
    assert next(iter(running)).status == "hardened"
    running.close()  # type: ignore[attr-defined]
    assert cells[2].state.status == "failed"


def test_the_attempts_at_a_cell_are_kept(tmp_path: Path) -> None:
    one = cell(tmp_path, "killed")
    list(run_cells([one], Budget(jobs=1), "cpu", tell=lambda *_: None, work=misbehave))
    outcome = CellOutcome.model_validate_json(outcome_path(one.study.run).read_bytes())
    assert [attempt.status for attempt in outcome.attempts] == ["crashed", "crashed"]


def test_a_model_with_a_known_problem_costs_no_process(tmp_path: Path) -> None:
    [state] = run_cells(
        [cell(tmp_path, "a", problem="a cannot be opened: no file")],
        Budget(),
        "cpu",
        tell=lambda *_: None,
        work=misbehave,
    )
    assert (state.status, state.reason) == ("failed", "a cannot be opened: no file")


@pytest.mark.parametrize(
    ("status", "is_wanted", "is_wanted_on_retry"),
    [
        ("pending", True, True),
        ("timed-out", False, True),
        ("failed", False, True),
        ("crashed", False, True),
        ("hardened", False, False),
    ],
)
def test_what_has_a_result_is_not_done_again_unless_asked(
    status: str, is_wanted: bool, is_wanted_on_retry: bool, tmp_path: Path
) -> None:
    one = cell(tmp_path, "a")
    if status == "hardened":
        write_card(one.study.run, card("a", "moth", 0))
    elif status != "pending":
        values = {"status": status, "reason": "x", "seconds": 1}
        write_outcome(one.study.run, CellOutcome.model_validate(values))
    assert (is_open(one, retry=False), is_open(one, retry=True)) == (is_wanted, is_wanted_on_retry)


def test_folders_are_safe_as_file_names_and_differ() -> None:
    names = folder_names(["../a", "__a"], ["moth", "moth:rounds=8"], [0, 1])
    flat = [name for methods in names.values() for seeds in methods.values()
            for name in seeds.values()]  # fmt: skip
    assert len(set(flat)) == 8
    assert not [name for name in flat if set(name) & set("/:\\") or name.startswith(".")]
