"""Verdicts for people and machines: lines, CSV, JSON, SARIF 2.1.0 and JUnit XML."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from moth_eval import __version__
from moth_eval.scan_calibration import ScanPolicy
from moth_eval.text import visible

from .rows import Run
from .tables import Cell, as_csv
from .verdicts import (
    BACKDOORED,
    FINDINGS,
    GRADES,
    NO_ANSWER,
    NOT_JUDGED,
    REFUSED,
    SUSPICIOUS,
    ModelVerdict,
    Verdict,
    exit_code,
    judge,
    read_policy,
)
from .wording import count

CSV, JSON = "verdicts.csv", "verdicts.json"

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

_LEVELS = {BACKDOORED: "error", REFUSED: "error", SUSPICIOUS: "warning"}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts of a run, in every form."""

    run: Run
    policy: ScanPolicy
    verdicts: tuple[ModelVerdict, ...]

    @property
    def by_scan(self) -> dict[tuple[str, str], Verdict]:
        """Model and scanner -> verdict."""
        return {(v.row.model, v.row.scanner): v for one in self.verdicts for v in one.verdicts}

    @property
    def exit_code(self) -> int:
        """0 nothing found, 1 something found, 3 a model without an answer."""
        return exit_code(self.verdicts)

    def lines(self) -> list[str]:
        """For a terminal."""
        return lines_of(self.run, self.verdicts)

    def data(self) -> dict[str, object]:
        """For JSON."""
        return verdicts_json(self.run, self.policy, self.verdicts)

    def files(self) -> dict[str, bytes]:
        """What the run folder gets: name -> content."""
        text = json.dumps(self.data(), indent=2, allow_nan=False) + "\n"
        return {CSV: verdicts_csv(self.run, self.verdicts), JSON: text.encode()}

    def sarif(self) -> bytes:
        """For a code scanning service."""
        return sarif(self.run, self.verdicts)

    def junit(self) -> bytes:
        """For a service that shows tests."""
        return junit(self.run, self.verdicts)


def read_verdicts(run: Run) -> Judged | None:
    """The verdicts of a run of `scan`; None for any other.

    Raises:
        RunError: its policy is damaged.
    """
    policy = read_policy(run.path)
    if policy is None:
        return None
    return Judged(run=run, policy=policy, verdicts=tuple(judge(run, policy)))


def lines_of(run: Run, verdicts: Sequence[ModelVerdict]) -> list[str]:
    """A line per model with its grade, below it what each scanner's verdict rests on."""
    lines = []
    for one in sorted(verdicts, key=lambda v: (GRADES.index(v.grade), v.model)):
        lines.append(f"{visible(one.model)}: {one.grade}")
        for verdict in one.verdicts:
            lines.append(f"  {visible(verdict.row.scanner)}: {visible(verdict.basis)}")
            lines += [f"    doubt: {visible(doubt)}" for doubt in verdict.doubts]
            if verdict.grade in FINDINGS:
                lines += [f"    {words}" for words in verdict.evidence]
                picture = _picture(run, verdict)
                lines += [f"    see {visible(str(run.path / picture))}"] if picture else []
    grades = Counter(one.grade for one in verdicts)
    said = ", ".join(f"{grades[grade]} {grade}" for grade in GRADES if grades[grade])
    return [*lines, "", f"{count(len(verdicts), 'model')}: {said}"]


def verdict_rows(run: Run, verdicts: Sequence[ModelVerdict]) -> list[dict[str, Cell]]:
    """A line per model and scanner as column -> value."""
    return [_row(run, one, verdict) for one in verdicts for verdict in one.verdicts]


def _row(run: Run, one: ModelVerdict, verdict: Verdict) -> dict[str, Cell]:
    record = verdict.row.record
    return {
        "model": one.model,
        "grade": one.grade,
        "scanner": verdict.row.scanner,
        "scanner_grade": verdict.grade,
        "score": verdict.row.score,
        "p_value": verdict.p_value,
        "suspected_target": record.target if record else None,
        "suspected_source": record.source if record else None,
        "basis": verdict.basis,
        "evidence": "; ".join(verdict.evidence),
        "clean_accuracy": record.clean_accuracy if record else None,
        "doubts": "; ".join(verdict.doubts),
        "file": str(_file(verdict, run)),
        "sha256": verdict.row.entry.sha256,
    }


def verdicts_csv(run: Run, verdicts: Sequence[ModelVerdict]) -> bytes:
    """One line per model and scanner."""
    return as_csv(verdict_rows(run, verdicts))


def verdicts_json(
    run: Run, policy: ScanPolicy, verdicts: Sequence[ModelVerdict]
) -> dict[str, object]:
    """The verdicts as data that JSON can hold; figures that do not exist are null."""
    return {
        "schema_version": 1,
        "policy": policy.policy.model_dump(),
        "calibration": policy.calibration_file or None,
        "grades": dict(Counter(one.grade for one in verdicts)),
        "models": [
            {
                "model": one.model,
                "grade": one.grade,
                "scanners": [
                    {
                        key: value
                        for key, value in _row(run, one, verdict).items()
                        if key not in ("model", "grade", "evidence", "doubts")
                    }
                    | {
                        "evidence": verdict.evidence,
                        "doubts": verdict.doubts,
                        "picture": _picture(run, verdict),
                    }
                    for verdict in one.verdicts
                ],
            }
            for one in verdicts
        ],
    }


def _picture(run: Run, verdict: Verdict) -> str | None:
    """The picture of the inverted triggers, relative to the run folder, if it was drawn."""
    record = verdict.row.record
    if record is None or not record.triggers_file:
        return None
    path = re.sub(r"\.npz$", ".png", record.triggers_file)
    return path if (run.path / path).is_file() else None


def sarif(run: Run, verdicts: Sequence[ModelVerdict]) -> bytes:
    """A SARIF 2.1.0 log: a result per finding, a notification per model without an answer.

    Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0.
    """
    found = [v for one in verdicts for v in one.verdicts if v.grade in FINDINGS]
    open_ones = [v for one in verdicts for v in one.verdicts if _is_open(one, v)]
    doubted = [v for one in verdicts for v in one.verdicts if v.doubts]
    rules = [*run.scanners, REFUSED]
    log = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "moth-eval",
                        "semanticVersion": __version__,
                        "rules": [_rule(name) for name in rules],
                    }
                },
                "invocations": [
                    {
                        "executionSuccessful": not open_ones,
                        "toolExecutionNotifications": [
                            *(_notification(v, run) for v in open_ones),
                            *(_warning(v, run) for v in doubted),
                        ],
                    }
                ],
                "results": [_result(v, run, rules) for v in found],
            }
        ],
    }
    return (json.dumps(log, indent=2, allow_nan=False) + "\n").encode()


def _is_open(model: ModelVerdict, verdict: Verdict) -> bool:
    """Whether a model lacks this scanner's answer: one without a cut may leave it to others."""
    if verdict.grade == NOT_JUDGED:
        return model.grade == NOT_JUDGED
    return verdict.grade == NO_ANSWER


def _rule(name: str) -> dict[str, object]:
    text = (
        "The model file was not opened, or its network not run, as that would not be safe."
        if name == REFUSED
        else f"The scanner {visible(name)} scores the model as a backdoored one."
    )
    return {"id": visible(name), "shortDescription": {"text": text}}


def _result(verdict: Verdict, run: Run, rules: Sequence[str]) -> dict[str, object]:
    rule = REFUSED if verdict.grade == REFUSED else verdict.row.scanner
    said = "; ".join([verdict.basis, *verdict.evidence])
    entry = verdict.row.entry
    return {
        "ruleId": visible(rule),
        "ruleIndex": rules.index(rule),
        "level": _LEVELS[verdict.grade],
        "message": {"text": f"{visible(entry.name)} is graded {verdict.grade}: {visible(said)}"},
        "locations": [_location(verdict, run)],
        "partialFingerprints": {"sha256": entry.sha256 or "none"},
    }


def _notification(verdict: Verdict, run: Run) -> dict[str, object]:
    name = visible(verdict.row.model)
    return {
        "level": "error",
        "message": {"text": f"{name}: {verdict.grade}, {visible(verdict.basis)}"},
        "locations": [_location(verdict, run)],
    }


def _warning(verdict: Verdict, run: Run) -> dict[str, object]:
    said = visible(f"{verdict.row.model}, {verdict.row.scanner}: {'; '.join(verdict.doubts)}")
    return {
        "level": "warning",
        "message": {"text": said},
        "locations": [_location(verdict, run)],
    }


def _file(verdict: Verdict, run: Run) -> Path:
    """Where the model file lies, absolute."""
    # A record of others may hold any path.
    return Path(os.path.normpath(Path.cwd() / run.manifest.models / verdict.row.entry.file))


def _location(verdict: Verdict, run: Run) -> dict[str, object]:
    file, here = _file(verdict, run), Path.cwd()
    # Services that show the log beside the code want paths from its root.
    uri = file.as_uri()
    if here in file.parents:
        uri = uri.removeprefix(here.as_uri()).removeprefix("/")
    return {"physicalLocation": {"artifactLocation": {"uri": uri}}}


def junit(run: Run, verdicts: Sequence[ModelVerdict]) -> bytes:
    """JUnit XML: a suite per scanner, a case per model.

    A finding is a failure, a missing answer an error. A scanner that has no cut is skipped where
    others judged the model.
    """
    suites = ET.Element("testsuites", name="moth-eval")
    for scanner in run.scanners:
        own = [
            (v, _outcome(m, v)) for m in verdicts for v in m.verdicts if v.row.scanner == scanner
        ]
        counts = Counter(outcome for _, outcome in own)
        suite = ET.SubElement(
            suites,
            "testsuite",
            name=_xml(scanner),
            tests=str(len(own)),
            failures=str(counts["failure"]),
            errors=str(counts["error"]),
            skipped=str(counts["skipped"]),
            time=f"{sum(v.row.record.seconds for v, _ in own if v.row.record):.3f}",
        )
        for verdict, outcome in own:
            _case(suite, verdict, outcome)
    ET.indent(suites)
    return bytes(ET.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def _outcome(model: ModelVerdict, verdict: Verdict) -> str:
    """What JUnit calls a verdict; empty: passed."""
    if verdict.grade in FINDINGS:
        return "failure"
    if _is_open(model, verdict):
        return "error"
    return "skipped" if verdict.grade == NOT_JUDGED else ""


def _case(suite: ET.Element, verdict: Verdict, outcome: str) -> None:
    record = verdict.row.record
    case = ET.SubElement(
        suite,
        "testcase",
        name=_xml(verdict.row.model),
        classname=_xml(verdict.row.scanner),
        time=f"{record.seconds if record else 0:.3f}",
    )
    if outcome == "skipped":
        ET.SubElement(case, outcome, message=_xml(verdict.basis))
    elif outcome:
        told = ET.SubElement(case, outcome, message=_xml(verdict.basis), type=verdict.grade)
        told.text = "\n".join(map(_xml, verdict.evidence)) or None
    if verdict.doubts:
        ET.SubElement(case, "system-out").text = "\n".join(map(_xml, verdict.doubts))


def _xml(text: str) -> str:
    """The text without what XML 1.0 cannot hold."""
    return re.sub("[\ufffe\uffff]", "\ufffd", visible(text))
