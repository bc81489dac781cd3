from __future__ import annotations

import io

from rich.console import Console

from benchmarks.progress import scan_line
from benchmarks.study_progress import StagesProgress
from moth_eval.hardening_cells import CellState
from tests.support.runs import record


def test_a_line_about_a_scan_says_what_came_of_it() -> None:
    assert scan_line(record("a", 2.0, target=3)) == (
        "a  nc  score 2.00, suspected target 3  (1 s)"
    )  # fmt: skip
    assert scan_line(record("a", 2.0)) == "a  nc  score 2.00  (1 s)"
    assert scan_line(record("a\x1b[2J")) == "a\\x1b[2J  nc  failed: it broke  (1 s)"


def test_stages_are_shown_one_after_the_other() -> None:
    stream = io.StringIO()
    with StagesProgress(Console(file=stream, width=20)) as stages:
        stages.begin("scanning", 2, 1)
        stages.scanned(record("a", 2.0, target=3))
        stages.begin("hardening", 1, 0)
        stages.hardened(CellState(model="a", method="moth", seed=0, status="failed", reason="no"))
        stages.begin("scanning hardened", 0, 0)
    assert stream.getvalue().splitlines() == [
        "scanning: 1 of 2 done",
        "2/2  a  nc  score 2.00, suspected target 3  (1 s)  [0 s left]",
        "hardening: 0 of 1 done",
        "1/1  a under moth, seed 0: failed: no",
        "scanning hardened: 0 of 0 done",
    ]
