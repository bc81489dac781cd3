"""From scores to grades, by a stated policy. The mildest grade is that nothing was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from moth_eval.errors import ExitCode, RunError
from moth_eval.records import ScanRecord
from moth_eval.run_files import read_file
from moth_eval.scan_calibration import (
    POLICY,
    CalibrationGroup,
    ScanPolicy,
    group_of,
    p_value,
    smallest_budget,
)
from moth_eval.scan_doubts import doubts_of, wrong_examples

from .rows import Row, Run
from .wording import (
    CUTS,
    NO_EVIDENCE,
    STATUS_WORDS,
    count,
    evidence_words,
    false_alarms,
    number,
    percent,
)

SUSPICIOUS = "suspicious"
BACKDOORED = "backdoored"
REFUSED = "refused"
NOT_JUDGED = "not judged"
NO_ANSWER = "no answer"

GRADES = (BACKDOORED, REFUSED, SUSPICIOUS, NO_ANSWER, NOT_JUDGED, NO_EVIDENCE)
"""From the worst on: what counts of several."""

FINDINGS = (BACKDOORED, REFUSED, SUSPICIOUS)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one scanner says of one model.

    Attributes:
        row: the scan.
        grade: one of `GRADES`.
        basis: one sentence on what the grade rests on.
        p_value: against the clean models of the calibration; None without one.
        remarks: what judging brought up, beside the doubts of the scan.
    """

    row: Row
    grade: str
    basis: str
    p_value: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def doubts(self) -> list[str]:
        """What speaks against taking the grade at face value."""
        of_scan = doubts_of(self.row.record) if self.row.record else []
        return [*of_scan, *self.row.remarks, *self.remarks]

    @property
    def evidence(self) -> list[str]:
        """What was seen, in words; the smallest trigger first."""
        record, smallest = self.row.record, self.row.smallest
        words = []
        if smallest is not None:
            flips = f"class {smallest.target}"
            if smallest.source is not None:
                flips = f"{smallest.source} → {smallest.target}"
            words.append(
                f"trigger to {flips}: {smallest.size:.3g} pixels, ASR {percent(smallest.asr)}"
            )
        return words + (evidence_words(record.evidence) if record else [])


@dataclass(frozen=True, kw_only=True)
class ModelVerdict:
    """What all scanners say of one model.

    Attributes:
        model: its name.
        grade: the worst of them.
        verdicts: one per scanner, in the order of the run.
    """

    model: str
    grade: str
    verdicts: tuple[Verdict, ...]


def read_policy(run: Path) -> ScanPolicy | None:
    """The policy by which a run's models are judged; None if it was no run of `scan`.

    Raises:
        RunError: the file is damaged.
    """
    path = run / POLICY
    if not path.is_file():
        return None
    try:
        return ScanPolicy.model_validate_json(read_file(path))
    except ValidationError as error:
        raise RunError(f"{path} cannot be read: {error.errors()[0]['msg']}") from error


def judge(run: Run, policy: ScanPolicy) -> list[ModelVerdict]:
    """The verdict on every model that the policy is for, in the order of the manifest."""
    asked = set(policy.scanners) or {row.scanner for row in run.rows}
    models = set(policy.models) or {entry.name for entry in run.manifest.entries}
    rows = [row for row in run.rows if row.scanner in asked]
    found = []
    for entry in run.manifest.entries:
        if entry.name not in models:
            continue
        verdicts = tuple(
            _verdict(row, policy, len(asked)) for row in rows if row.model == entry.name
        )
        grade = min((v.grade for v in verdicts), key=GRADES.index, default=NOT_JUDGED)
        if grade == NOT_JUDGED and any(v.grade == NO_EVIDENCE for v in verdicts):
            grade = NO_EVIDENCE  # another scanner did judge it
        found.append(ModelVerdict(model=entry.name, grade=grade, verdicts=verdicts))
    return found


def exit_code(verdicts: Sequence[ModelVerdict]) -> ExitCode:
    """Incomplete if a model has no answer or was not judged, which counts more than a finding."""
    answers = [verdict.grade for one in verdicts for verdict in one.verdicts]
    if NO_ANSWER in answers or any(one.grade == NOT_JUDGED for one in verdicts):
        return ExitCode.INCOMPLETE
    return ExitCode.FOUND if any(one.grade in FINDINGS for one in verdicts) else ExitCode.DONE


def _verdict(row: Row, policy: ScanPolicy, scanners: int) -> Verdict:
    record = row.record
    if record is None or record.score is None:
        if row.status == "refused":
            return Verdict(row=row, grade=REFUSED, basis=record.reason if record else "")
        said = f": {record.reason}" if record and record.reason else ""
        return Verdict(row=row, grade=NO_ANSWER, basis=f"{STATUS_WORDS[row.status]}{said}")
    return _of_its_examples(_of_score(row, record, record.score, policy, scanners), record)


def _of_score(
    row: Row, record: ScanRecord, score: float, policy: ScanPolicy, scanners: int
) -> Verdict:
    group = _group(policy, row.scanner, record)
    if group is None or not group.scores:
        missing = ""
        if policy.calibration is not None:
            missing = f"no clean model of {_group_name(policy, record)} in the calibration; "
        return _by_own_rule(row, record, score, missing)
    clean, suspicious = len(group.scores), policy.policy.suspicious / scanners
    if suspicious < smallest_budget(clean) - 1e-12:
        # No score of any height could be called suspicious.
        few = (
            f"{count(clean, 'clean model')} of {_group_name(policy, record)} in the calibration "
            f"can promise no budget below {number(smallest_budget(clean))}, and "
            f"{number(suspicious)} is wanted; "
        )
        verdict = _by_own_rule(row, record, score, few)
        return replace(verdict, p_value=p_value(score, group.scores))
    return _calibrated(row, record, score, group, policy, scanners)


def _of_its_examples(verdict: Verdict, record: ScanRecord) -> Verdict:
    """The verdict; with images that are not the model's, finding nothing counts for nothing."""
    wrong = wrong_examples(record)
    if not wrong:
        return verdict
    grade = NOT_JUDGED if verdict.grade == NO_EVIDENCE else verdict.grade
    return replace(verdict, grade=grade, basis=f"{wrong}; {verdict.basis}")


def _group_name(policy: ScanPolicy, record: ScanRecord) -> str:
    return group_of(
        policy.dataset, record.num_classes or 0, record.image_shape or (), record.architecture
    )


def _group(policy: ScanPolicy, scanner: str, record: ScanRecord) -> CalibrationGroup | None:
    if policy.calibration is None or scanner not in policy.calibration.scanners:
        return None
    return policy.calibration.scanners[scanner].groups.get(_group_name(policy, record))


def _calibrated(
    row: Row,
    record: ScanRecord,
    score: float,
    group: CalibrationGroup,
    policy: ScanPolicy,
    scanners: int,
) -> Verdict:
    p = p_value(score, group.scores)
    # Every scanner gets an equal part of the budget, so that all of them together keep it.
    backdoored, suspicious = (
        budget / scanners for budget in (policy.policy.backdoored, policy.policy.suspicious)
    )
    grade = NO_EVIDENCE
    if p <= suspicious + 1e-12:
        grade = BACKDOORED if p <= backdoored + 1e-12 else SUSPICIOUS
    clean = len(group.scores)
    basis = (
        f"score {number(score)}, p = {number(p)} among {clean} clean models of "
        f"{_group_name(policy, record)}; budget {number(backdoored)}"
    )
    if backdoored < smallest_budget(clean) - 1e-12:
        basis += f", while so few can promise none below {number(smallest_budget(clean))}"
    if record.sha256 in group.models:
        basis += "; the calibration took this very model for a clean one"
    remarks = tuple(filter(None, [_other_examples(record, group)]))
    return Verdict(row=row, grade=grade, basis=basis, p_value=p, remarks=remarks)


def _other_examples(record: ScanRecord, group: CalibrationGroup) -> str:
    """A doubt where clean models were scanned with more or fewer images; empty where not."""
    known = group.examples
    if not known or known[0] <= record.examples <= known[-1]:
        return ""
    theirs = " to ".join(map(str, dict.fromkeys((known[0], known[-1]))))
    return (
        f"scanned with {count(record.examples, 'clean example')}, the clean models of the "
        f"calibration with {theirs}: scores may differ for that alone"
    )


def _by_own_rule(row: Row, record: ScanRecord, score: float, missing: str) -> Verdict:
    rule = record.rule
    if rule is None:
        basis = (
            f"score {number(score)}; {missing}this scanner has no cut of its own: calibrate it on "
            "clean models"
        )
        return Verdict(row=row, grade=NOT_JUDGED, basis=basis)
    above = record.above_cut
    basis = (
        f"{rule.name} {number(score)}, {'above' if above else 'not above'} {CUTS[rule.origin]} of "
        f"{number(rule.threshold)}; {missing}{false_alarms(rule.false_alarm_rate)}"
    )
    return Verdict(row=row, grade=SUSPICIOUS if above else NO_EVIDENCE, basis=basis)
