"""What `moth-eval hardening` writes, and how it is read back. No torch here.

A run folder holds::

    run.json                        one HardeningStudyManifest, replaced whole
    cells/                          the hardenings, see `moth_eval.hardening_cells`
    originals/*.jsonl               what was measured of the original models, shared by the cells
    hardening.csv, summary.csv ...  made from the manifest and the cards by `reports`, never read
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from .hardening_cells import CELLS, CellState, read_cell
from .records import ManifestFolder, PlainName, Record


class StudyModel(Record):
    """One model of a study."""

    name: str
    file: str
    """Absolute path of the model file."""
    sha256: str
    """Empty if the file cannot be read."""
    folders: dict[str, dict[int, PlainName]]
    """Method as asked for -> seed -> name of the cell's folder."""


class HardeningStudyManifest(Record):
    """What was asked for: everything needed to repeat it."""

    schema_version: Literal[1] = 1
    kind: Literal["hardening-study"] = "hardening-study"
    created: datetime
    command: tuple[str, ...]
    models: str
    """Absolute path that `--models` named."""
    data: str
    """Absolute path that `--data` named; empty: each model's own clean examples."""
    data_sha256: str
    test: str
    """Absolute path that `--test` named; empty: test images are held out of the data."""
    test_sha256: str
    share: float
    first: int | None
    architecture: str
    """What `--arch` said."""
    normalisation: str = ""
    """What `--normalisation` said; empty: what side-cars state, else found by trial."""
    methods: dict[str, dict[str, Any]]
    """Method as asked for -> its table name as `method`, and all its parameters."""
    seeds: tuple[int, ...]
    distance_pairs: int | None
    """Pairs per model whose distance is measured; null: all."""
    distance_seeds: int
    distance_precision: str
    device: str
    timeout_seconds: float | None
    versions: dict[str, str]
    entries: tuple[StudyModel, ...]


class HardeningStudyFolder(ManifestFolder[HardeningStudyManifest]):
    """The folder of a hardening study."""

    schema = HardeningStudyManifest
    kind = "hardening study"

    def cells(self) -> list[CellState]:
        """How every cell of the manifest stands: by model, then method, then seed.

        Raises:
            RunError: there is no manifest, or it is damaged.
        """
        manifest = self.manifest()
        return [
            read_cell(
                self.path / CELLS / entry.folders[method][seed],
                model=entry.name,
                sha256=entry.sha256,
                method=method,
                seed=seed,
            )
            for entry in manifest.entries
            for method in manifest.methods
            for seed in manifest.seeds
        ]
