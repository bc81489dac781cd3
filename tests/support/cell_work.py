"""What workers do in tests of cells."""

from __future__ import annotations

import os
import signal
import sys
import time

from benchmarks.cells import Cell
from benchmarks.supervisor import Place, Tell
from moth_eval.hardening_cells import CellOutcome
from moth_eval.hardening_records import CARD
from moth_eval.records import write_whole
from tests.support.hardening_runs import card


def misbehave(cell: Cell, place: Place, tell: Tell) -> CellOutcome | None:
    """Do what the model's name says; leave a card where it says nothing."""
    tell("training", 0.5, f"seen {cell.model}")
    if cell.model == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.model == "exit":
        sys.exit(7)
    if cell.model == "hang":
        time.sleep(600)
    if cell.model == "refused":
        return CellOutcome(status="refused", reason="not opened", seconds=0.1)
    if cell.model == "defect":
        raise ZeroDivisionError("a defect")
    made = card(cell.model, cell.method, cell.study.seed)
    write_whole(cell.study.run / CARD, made.model_dump_json().encode())
    return None
