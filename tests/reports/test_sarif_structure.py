from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from moth_eval.cli import main
from moth_eval.scan_calibration import POLICY, Policy, ScanPolicy
from tests.support.runs import entry, make_run, record
from tests.support.sarif_schema import SARIF

HOSTILE = '../<script>&"\x1b[31m\u202e\ufffe %41]]>'


def log_of(folder: Path, models: Path) -> dict[str, Any]:
    """The log of a run with a hostile name, a refused file and a scan without an answer."""
    names = (HOSTILE, "plain", "refused", "odd")
    records = [
        record(HOSTILE, 9.0, target=3, reason=f"seen {HOSTILE}"),
        record("plain", 0.5),
        record("refused", status="refused", reason=f"pickle calls {HOSTILE}"),
        record("odd", status="timed-out", reason="10 s"),
    ]
    entries = [entry(name, file=f"{name}.pt") for name in names]
    run = make_run(folder / "run", entries, records, models=str(models))
    policy = ScanPolicy(
        policy=Policy(backdoored=0.05, suspicious=0.2),
        dataset="",
        calibration=None,
        calibration_file="",
    )
    (run / POLICY).write_text(policy.model_dump_json())
    file = folder / "log.sarif"
    result = CliRunner().invoke(main, ["report", str(run), "--sarif", str(file)])
    assert result.exit_code == 0, result.output
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def test_a_log_has_the_structure_of_the_standard_even_with_hostile_names(tmp_path: Path) -> None:
    log = log_of(tmp_path, Path("/data/round"))
    jsonschema.validate(log, SARIF)
    assert len(log["runs"][0]["results"]) == 2


def test_files_below_the_present_folder_are_named_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = log_of(tmp_path, tmp_path / "my models")
    jsonschema.validate(log, SARIF)
    places = [
        result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in log["runs"][0]["results"]
    ]
    assert "my%20models/refused.pt" in places
    assert any("%1B%5B31m" in place and "%2541" in place for place in places)


@pytest.mark.parametrize("broken", ["a b", "a<b", "a\u202eb", ""])
def test_the_structure_does_not_let_any_address_pass(broken: str, tmp_path: Path) -> None:
    log = log_of(tmp_path, Path("/data/round"))
    place = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    place["artifactLocation"]["uri"] = broken
    with pytest.raises(jsonschema.ValidationError, match="does not match"):
        jsonschema.validate(log, SARIF)
