"""What `moth-eval false-positives` writes, and how it is read back. No torch here.

A run folder holds::

    run.json                        one FalsePositivesManifest, replaced whole
    scan-before/                    a run of `moth-eval trojai` over the models as they came
    scan-again/                     the flagged models as they came, scanned under another seed
    cells/                          the hardenings of the flagged models, see `hardening_cells`
    scan-after/                     the hardened models, scanned by the same scanner
    false_positives.csv ...         made from the above by `reports`, never read back
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from .errors import RunError
from .records import ManifestFolder, Record, ScanRecord

BEFORE = "scan-before"
AGAIN = "scan-again"
AFTER = "scan-after"


class FalsePositivesManifest(Record):
    """What was asked for: everything needed to repeat it. The answers are in `scan-before`."""

    schema_version: Literal[1] = 1
    kind: Literal["false-positives"] = "false-positives"
    created: datetime
    command: tuple[str, ...]
    models: str
    """Absolute path that `--models` named."""
    scanner: str
    """The scanner as it was asked for; its parameters are in the manifest of `scan-before`."""
    threshold: float | None
    """A score above it flags a model; null: the cut that the scanner's own record states."""
    method: str
    """The hardener as it was asked for."""
    parameters: dict[str, Any]
    """Its name in the table as `method`, and all its parameters."""
    data: str
    """Absolute path that `--data` named; empty: each model's own clean examples."""
    data_sha256: str
    share: float
    distance_pairs: int
    architecture: str
    """What `--arch` said."""
    seed: int
    device: str
    timeout_seconds: float | None
    versions: dict[str, str]
    folders: dict[str, str]
    """Model -> name of its cell's folder, should it be hardened."""


class FalsePositivesFolder(ManifestFolder[FalsePositivesManifest]):
    """The folder of a false-positives study."""

    schema = FalsePositivesManifest
    kind = "false-positives study"


def flag(record: ScanRecord, threshold: float | None) -> bool | None:
    """Whether a scan flags its model; None without a score.

    Args:
        record: of the scan.
        threshold: that the user gave; None: the cut counts that the record states.

    Raises:
        RunError: there is a score, but nothing to hold it against.
    """
    if record.score is None:
        return None
    limit = record.cut if threshold is None else threshold
    if limit is None:
        raise RunError(
            "the scanner states no cut, so nothing says which models are flagged: give --threshold "
            "as a number, and another --out"
        )
    return record.score > limit
