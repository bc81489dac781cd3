from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner, Result

from moth_eval.cli import main
from moth_eval.records import EvidenceRecord, RunFolder, ScanRecord
from moth_eval.scan_calibration import (
    POLICY,
    CalibratedScanner,
    Calibration,
    CalibrationGroup,
    Policy,
    ScanPolicy,
)
from reports.rows import read_run
from reports.verdict_files import Judged, read_verdicts
from tests.support.runs import (
    RULE,
    build_reports,
    entry,
    make_run,
    record,
    sha,
    with_triggers,
)

GROUP = "5 classes, 3x32x32, resnet"
NINETEEN = tuple(float(n) for n in range(19))


def calibrated(*names: str, scores: Sequence[float] = NINETEEN, group: str = GROUP) -> Calibration:
    found = CalibrationGroup(scores=tuple(scores), models=(sha("known"),), unanswered=0)
    return Calibration(
        created=datetime(2026, 3, 4, tzinfo=UTC), command=(), models="/clean", dataset="", seed=0,
        device="cpu", versions={},
        scanners={n: CalibratedScanner(parameters={}, groups={group: found}) for n in names},
    )  # fmt: skip


def judged(
    path: Path,
    records: Sequence[ScanRecord],
    *,
    calibration: Calibration | None = None,
    budgets: tuple[float, float] = (0.05, 0.2),
    scanners: Sequence[str] = ("nc",),
    names: Sequence[str] = (),
    asked: tuple[str, ...] = (),
) -> Judged:
    """The verdicts of a run over models called as the records are."""
    models = names or list(dict.fromkeys(r.model for r in records))
    run = make_run(
        path, [entry(name, architecture="") for name in models], records, scanners=scanners
    )
    policy = ScanPolicy(
        policy=Policy(backdoored=budgets[0], suspicious=budgets[1]), dataset="",
        calibration=calibration, calibration_file="/c.json" if calibration else "",
        scanners=asked,
    )  # fmt: skip
    (run / POLICY).write_text(policy.model_dump_json())
    found = read_verdicts(read_run(run))
    assert found is not None
    return found


def one(name: str, score: float | None = None, **fields: Any) -> ScanRecord:
    return record(name, score, **{"architecture": "resnet18", **fields})


def grades(found: Judged) -> dict[str, str]:
    return {verdict.model: verdict.grade for verdict in found.verdicts}


def test_scores_are_graded_by_their_rank_among_clean_models(tmp_path: Path) -> None:
    # Nineteen clean models: above all of them p is 1/20, above all but three 4/20.
    records = [one("high", 18.5), one("upper", 15.5), one("third", 15.0), one("low", 3.0)]
    found = judged(tmp_path, records, calibration=calibrated("nc"))
    assert grades(found) == {
        "high": "backdoored", "upper": "suspicious", "third": "no evidence found",
        "low": "no evidence found",
    }  # fmt: skip
    assert found.verdicts[0].verdicts[0].p_value == 0.05
    assert found.verdicts[0].verdicts[0].basis == (
        f"score 18.5, p = 0.05 among 19 clean models of {GROUP}; budget 0.05"
    )
    assert found.exit_code == 1


def test_a_calibration_in_which_no_score_could_be_flagged_is_none(tmp_path: Path) -> None:
    """With two clean models no p value is below a third: a gate that never fires is no gate."""
    few = calibrated("nc", scores=(1.0, 2.0))
    above, below = one("above", 99.0, rule=RULE), one("below", 0.5, rule=RULE)
    found = judged(tmp_path / "a", [above, below], calibration=few)
    assert grades(found) == {"above": "suspicious", "below": "no evidence found"}
    verdict = found.verdicts[0].verdicts[0]
    assert verdict.p_value == pytest.approx(1 / 3)
    assert f"; 2 clean models of {GROUP} in the calibration can promise no budget below 0.333" in (
        verdict.basis
    )
    bare = judged(tmp_path / "b", [one("m", 99.0, rule=None)], calibration=few)
    assert grades(bare) == {"m": "not judged"}
    assert bare.exit_code == 3
    enough = calibrated("nc", scores=(1.0, 2.0, 3.0, 4.0))
    assert grades(judged(tmp_path / "c", [above], calibration=enough)) == {"above": "suspicious"}


@pytest.mark.parametrize(("accuracy", "judges"), [(0.3, False), (0.41, True)])
def test_with_images_that_are_not_the_models_nothing_found_says_nothing(
    tmp_path: Path, accuracy: float, judges: bool
) -> None:
    # Five classes: a quarter of the way from guessing, 0.2, to 1 is 0.4.
    low, high = (one(n, s, clean_accuracy=accuracy) for n, s in (("low", 3.0), ("high", 18.5)))
    found = judged(tmp_path, [low, high], calibration=calibrated("nc"))
    assert grades(found) == {
        "low": "no evidence found" if judges else "not judged", "high": "backdoored",
    }  # fmt: skip
    assert found.exit_code == (1 if judges else 3)
    said = f"only {100 * accuracy:.0f} % of the clean examples are classified rightly"
    assert all((said in v.verdicts[0].basis) is not judges for v in found.verdicts)


def test_doubts_are_in_every_form_of_a_verdict(tmp_path: Path) -> None:
    found = judged(
        tmp_path, [one("m", 3.0, clean_accuracy=0.5, doubts=("no example of class 4",))],
        calibration=calibrated("nc"),
    )  # fmt: skip
    doubts = ["50 % of the clean examples are classified rightly", "no example of class 4"]
    assert [line for line in found.lines() if "doubt" in line] == [
        f"    doubt: {doubt}" for doubt in doubts
    ]
    [row] = json.loads(found.files()["verdicts.json"])["models"][0]["scanners"]
    assert (row["clean_accuracy"], row["doubts"]) == (0.5, doubts)
    assert "; ".join(doubts) in found.files()["verdicts.csv"].decode()
    invocation = json.loads(found.sarif())["runs"][0]["invocations"][0]
    [told] = invocation["toolExecutionNotifications"]
    assert (invocation["executionSuccessful"], told["level"]) == (True, "warning")
    assert told["message"]["text"] == f"m, nc: {'; '.join(doubts)}"
    output = ET.fromstring(found.junit()).find(".//system-out")  # noqa: S314 - just made
    assert output is not None
    assert output.text == "\n".join(doubts)


def test_what_a_scanner_remarks_on_its_score_is_in_every_form_of_a_verdict(tmp_path: Path) -> None:
    said = "4 of 5 classes have no images"
    found = judged(tmp_path, [one("m", 3.0, reason=said)], calibration=calibrated("nc"))
    build_reports(tmp_path)
    forms = [
        "\n".join(found.lines()), *(text.decode() for text in found.files().values()),
        found.sarif().decode(), found.junit().decode(), (tmp_path / "report.html").read_text(),
    ]  # fmt: skip
    assert len(forms) == 6
    assert all(f"the scanner remarks: {said}" in form for form in forms)
    unanswered = judged(tmp_path / "b", [one("m", reason="it broke")])
    assert "remarks" not in "".join(unanswered.lines())


@pytest.mark.parametrize(
    ("known", "doubted"), [((), False), ((100,), True), ((40, 100), False), ((10, 20), True)]
)
def test_a_suspect_that_was_scanned_with_other_numbers_of_images_has_a_doubt(
    tmp_path: Path, known: tuple[int, ...], doubted: bool
) -> None:
    scans = calibrated("nc")
    group = scans.scanners["nc"].groups[GROUP].model_copy(update={"examples": known})
    scans = scans.model_copy(
        update={"scanners": {"nc": CalibratedScanner(parameters={}, groups={GROUP: group})}}
    )
    found = judged(tmp_path, [one("m", 3.0, examples=50)], calibration=scans)
    doubts = found.verdicts[0].verdicts[0].doubts
    said = (
        "scanned with 50 clean examples, the clean models of the calibration with "
        f"{' to '.join(map(str, known))}: scores may differ for that alone"
    )
    assert doubts == ([said] if doubted else [])


def test_verdicts_are_printed_even_if_their_file_cannot_be_written(tmp_path: Path) -> None:
    judged(tmp_path, [one("m", 3.0, rule=RULE)])
    result = report(tmp_path, "--sarif", "/proc/none/log.sarif")
    assert result.exit_code == 2
    assert "m: suspicious" in result.stdout
    assert "--sarif: /proc/none/log.sarif cannot be written: " in result.stderr


def test_the_file_of_a_single_model_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, [entry("m", file=".")], [one("m", 1.0)], models="/data/m.pt")
    policy = ScanPolicy(
        policy=Policy(backdoored=0.05, suspicious=0.2), dataset="", calibration=None,
        calibration_file="",
    )  # fmt: skip
    (run / POLICY).write_text(policy.model_dump_json())
    found = read_verdicts(read_run(run))
    assert found is not None
    [row] = json.loads(found.files()["verdicts.json"])["models"][0]["scanners"]
    assert row["file"] == "/data/m.pt"


def test_several_scanners_share_the_budget(tmp_path: Path) -> None:
    names = ("nc", "other")
    records = [one("m", 18.5), one("m", 1.0, scanner="other")]
    half = judged(tmp_path / "a", records, calibration=calibrated(*names), scanners=names)
    assert grades(half) == {"m": "suspicious"}
    assert "budget 0.025, while so few can promise none below 0.05" in (
        half.verdicts[0].verdicts[0].basis
    )
    whole = judged(
        tmp_path / "b", records, calibration=calibrated(*names), scanners=names,
        budgets=(0.1, 0.2),
    )  # fmt: skip
    assert grades(whole) == {"m": "backdoored"}


def test_scanners_of_earlier_calls_neither_judge_nor_take_from_the_budget(tmp_path: Path) -> None:
    names = ("nc", "other")
    records = [one("m", 18.5), one("m", 19.5, scanner="other")]
    found = judged(tmp_path, records, calibration=calibrated(*names), scanners=names, asked=("nc",))
    [only] = found.verdicts[0].verdicts
    assert (only.row.scanner, only.grade) == ("nc", "backdoored")
    assert only.basis.endswith("budget 0.05")


def test_without_a_calibration_the_published_cut_makes_suspects_at_most(tmp_path: Path) -> None:
    found = judged(tmp_path, [one("above", 99.0), one("below", 2.0)])
    assert grades(found) == {"above": "suspicious", "below": "no evidence found"}
    assert found.verdicts[0].verdicts[0].basis == (
        "anomaly index 99, above the published cut of 2; by simulation 33 % of clean models are "
        "above it"
    )


@pytest.mark.parametrize(
    ("origin", "rate", "words"),
    [
        ("ours", 0.05, "our cut of 2; by simulation 5 % of clean models are above it"),
        ("given", 0.1, "the given cut of 2; by simulation 10 % of clean models are above it"),
        ("published", None, "the published cut of 2; how many clean models are above it is not "
         "known"),
    ],
)  # fmt: skip
def test_a_grade_says_whose_cut_it_rests_on_and_what_that_is_worth(
    origin: str, rate: float | None, words: str, tmp_path: Path
) -> None:
    rule = RULE.model_copy(update={"origin": origin, "false_alarm_rate": rate})
    found = judged(tmp_path, [one("m", 99.0, rule=rule)])
    assert grades(found) == {"m": "suspicious"}
    assert found.verdicts[0].verdicts[0].basis == f"anomaly index 99, above {words}"


def test_models_of_another_group_fall_back_on_the_published_cut_and_say_so(tmp_path: Path) -> None:
    other = calibrated("nc", group="43 classes, 3x32x32, resnet")
    found = judged(tmp_path, [one("m", 99.0)], calibration=other)
    assert grades(found) == {"m": "suspicious"}
    assert f"no clean model of {GROUP} in the calibration" in found.verdicts[0].verdicts[0].basis


def test_a_score_that_nothing_can_judge_is_no_acquittal(tmp_path: Path) -> None:
    found = judged(tmp_path, [one("m", 5.0, rule=None)])
    assert grades(found) == {"m": "not judged"}
    assert found.exit_code == 3
    names = ("nc", "other")
    records = [one("m", 1.0), one("m", 5.0, rule=None, scanner="other")]
    both = judged(tmp_path / "both", records, scanners=names)
    assert (grades(both), both.exit_code) == ({"m": "no evidence found"}, 0)


@pytest.mark.parametrize(
    ("status", "grade", "code"),
    [("refused", "refused", 1), ("timed-out", "no answer", 3), ("inconclusive", "no answer", 3)],
)
def test_models_without_a_score_are_findings_or_have_no_answer(
    status: str, grade: str, code: int, tmp_path: Path
) -> None:
    found = judged(tmp_path, [one("m", status=status, reason="so it was")])
    assert (grades(found), found.exit_code) == ({"m": grade}, code)
    assert "so it was" in found.verdicts[0].verdicts[0].basis


def test_a_model_not_scanned_yet_has_no_answer_whatever_the_others_are(tmp_path: Path) -> None:
    found = judged(tmp_path, [one("bad", 99.0)], names=["bad", "later"])
    assert grades(found) == {"bad": "suspicious", "later": "no answer"}
    assert found.exit_code == 3


def test_a_suspect_that_the_calibration_took_for_clean_is_pointed_out(tmp_path: Path) -> None:
    found = judged(tmp_path, [one("known", 18.5)], calibration=calibrated("nc"))
    assert (
        found.verdicts[0]
        .verdicts[0]
        .basis.endswith("; the calibration took this very model for a clean one")
    )


def report(run: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["report", str(run), *more])


def hostile_run(path: Path) -> Judged:
    evidence = (EvidenceRecord(what="largest <margin>", value=4.0, target=1, source=None),)
    bad = with_triggers(path, one("m<b>&\x1b[31m", 99.0, target=2, evidence=evidence))
    records = [
        bad,
        one("fine", 1.0),
        one("broken"),
        one("shut", status="refused", reason="a pickle"),
    ]
    return judged(path, records)


def test_lines_show_the_worst_first_with_evidence_and_picture(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    result = report(tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.rpartition(": ")[2] for line in lines if not line.startswith(" ")][:4] == [
        "refused", "suspicious", "no answer", "no evidence found",
    ]  # fmt: skip
    assert "    trigger to class 2: 31.5 pixels, ASR 99 %" in lines
    assert "    largest <margin>, class 1: 4" in lines
    assert any(line.startswith(f"    see {tmp_path}/triggers/") for line in lines)
    assert "4 models: 1 refused, 1 suspicious, 1 no answer, 1 no evidence found" in lines
    assert "safe" not in result.output


def test_sarif_has_a_result_per_finding_and_a_notification_per_missing_answer(
    tmp_path: Path,
) -> None:
    hostile_run(tmp_path / "run")
    result = report(tmp_path / "run", "--sarif", str(tmp_path / "deep" / "log.sarif"))
    assert result.exit_code == 0, result.output
    log = json.loads((tmp_path / "deep" / "log.sarif").read_text())
    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["nc", "refused"]
    found = {r["ruleId"]: r for r in run["results"]}
    assert {name: r["level"] for name, r in found.items()} == {"nc": "warning", "refused": "error"}
    assert all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in run["results"])
    assert found["nc"]["message"]["text"].startswith("m<b>&\\x1b[31m is graded suspicious: anomaly")
    uri = found["nc"]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri.startswith("file:///data/round/m%3Cb%3E%26%1B")
    assert run["invocations"][0]["executionSuccessful"] is False
    [told] = run["invocations"][0]["toolExecutionNotifications"]
    assert told["message"]["text"] == "broken: no answer, failed: it broke"


def test_a_relative_folder_of_models_in_a_run_of_others_is_no_crash(tmp_path: Path) -> None:
    hostile_run(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.write_manifest(folder.manifest().model_copy(update={"models": "round"}))
    result = report(tmp_path / "run", "--sarif", str(tmp_path / "log.sarif"))
    assert result.exit_code == 0, result.output
    assert '"uri": "round/m%3Cb%3E' in (tmp_path / "log.sarif").read_text()


def test_junit_is_well_formed_and_counts_failures_and_errors(tmp_path: Path) -> None:
    hostile_run(tmp_path / "run")
    result = report(tmp_path / "run", "--junit", str(tmp_path / "tests.xml"))
    assert result.exit_code == 0, result.output
    [suite] = ET.parse(tmp_path / "tests.xml").getroot()  # noqa: S314 - just written
    assert {k: suite.get(k) for k in ("name", "tests", "failures", "errors", "time")} == {
        "name": "nc", "tests": "4", "failures": "2", "errors": "1", "time": "5.000",
    }  # fmt: skip
    cases = {case.get("name"): [part.tag for part in case] for case in suite}
    assert cases == {
        "m<b>&\\x1b[31m": ["failure"], "fine": [], "broken": ["error"], "shut": ["failure"],
    }  # fmt: skip


def test_a_scanner_without_a_cut_leaves_models_to_others_in_every_output(tmp_path: Path) -> None:
    records = [record("m", 1.0), record("m", 5.0, scanner="pixel", rule=None)]
    found = judged(
        tmp_path / "run", records, scanners=("nc", "pixel"), calibration=calibrated("nc")
    )
    assert [v.grade for v in found.verdicts[0].verdicts] == ["no evidence found", "not judged"]
    result = report(
        tmp_path / "run", "--sarif", str(tmp_path / "s"), "--junit", str(tmp_path / "j.xml")
    )
    assert result.exit_code == 0, result.output
    [log] = json.loads((tmp_path / "s").read_text())["runs"]
    assert log["invocations"][0] == {"executionSuccessful": True, "toolExecutionNotifications": []}
    suites = ET.parse(tmp_path / "j.xml").getroot()  # noqa: S314 - just written
    counts = {s.get("name"): (s.get("errors"), s.get("skipped")) for s in suites}
    assert counts == {"nc": ("0", "0"), "pixel": ("0", "1")}


def test_json_holds_every_grade_with_its_basis(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    data = json.loads(report(tmp_path, "--json").output)
    assert data == json.loads((tmp_path / "verdicts.json").read_text())
    assert data["grades"] == {
        "suspicious": 1, "no evidence found": 1, "no answer": 1, "refused": 1,
    }  # fmt: skip
    [scan] = data["models"][0]["scanners"]
    assert scan["picture"].startswith("triggers/")
    assert (tmp_path / scan["picture"]).is_file()
    assert scan["suspected_target"] == 2


def test_the_page_shows_grades_and_their_basis(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    build_reports(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<span class="chip above">suspicious</span>' in page
    assert "by simulation 33 % of clean models are above it" in page
    assert "m&lt;b&gt;&amp;\\x1b[31m" in page


def test_rebuilding_changes_no_byte(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    written = build_reports(tmp_path)
    before = {path: path.read_bytes() for path in written}
    assert {path.name for path in written} >= {"verdicts.csv", "verdicts.json"}
    build_reports(tmp_path)
    assert {path: path.read_bytes() for path in written} == before


def test_runs_that_were_no_scan_have_no_verdicts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [entry("m")], [record("m", 1.0)])
    result = report(run, "--sarif", str(tmp_path / "log.sarif"))
    assert result.exit_code == 2
    assert "is no run of scan, which alone has verdicts" in result.output
    assert not (tmp_path / "log.sarif").exists()


def test_a_damaged_policy_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, [entry("m")], [record("m", 1.0)])
    (run / POLICY).write_text("{}")
    result = report(run)
    assert result.exit_code == 2
    assert "policy.json cannot be read" in result.output
