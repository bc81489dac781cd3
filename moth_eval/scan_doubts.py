"""What speaks against taking a scan at face value, whoever tells of it. No torch here."""

from __future__ import annotations

from .records import ScanRecord
from .text import percent

LOW_ACCURACY = 0.8
"""A classifier below it on its own clean examples is not the network that was trained, or is fed
wrongly: whatever a scanner says of it is about something else."""

LEAST_SKILL = 0.25
"""Share of the way from guessing to all clean examples right below which they are not the model's.

Source: ours. That nothing was found then says nothing of the model.
"""


def doubts_of(record: ScanRecord) -> list[str]:
    """Every doubt about a scan: its accuracy, its model's, and what a scanner with a score says."""
    accuracy, found = record.clean_accuracy, list(record.doubts)
    if accuracy is not None and accuracy < LOW_ACCURACY:
        found.insert(0, f"{percent(accuracy)} of the clean examples are classified rightly")
    if record.score is not None and record.reason:
        found.append(f"the scanner remarks: {record.reason}")
    return found


def wrong_examples(record: ScanRecord) -> str:
    """Why the clean examples cannot be those of the model; empty where nothing says so."""
    accuracy, classes = record.clean_accuracy, record.num_classes
    if accuracy is None or not classes:
        return ""
    guessed = 1 / classes
    if accuracy >= guessed + LEAST_SKILL * (1 - guessed):
        return ""
    return (
        f"only {percent(accuracy)} of the clean examples are classified rightly, so they are not "
        "of the kind that the model was made for, or not prepared as it wants"
    )
