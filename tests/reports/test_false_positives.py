from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from moth_eval.cli import main
from moth_eval.errors import RunError
from moth_eval.false_positive_records import FalsePositivesManifest, flag
from moth_eval.intervals import wilson
from tests.support.false_positive_runs import Case, make_false_positives_run
from tests.support.runs import clean, poisoned, record

FILES = ("false_positives.csv", "summary.csv", "false_positives.png", "false_positives.svg")
HEADER = (
    "model,poisoned,errata,verdict,status_before,score_before,flagged_before,score_again,"
    "flagged_again,hardening,status_after,score_after,flagged_after,test_images,accuracy_before,"
    "accuracy_after,change,change_low,change_high,examples_accuracy_before,distance_increase,"
    "images_used,reason,seconds"
)
SUMMARY_HEADER = (
    "group,models,answered,without_answer,flagged_before,rate_before,rate_before_low,"
    "rate_before_high,flagged_after,rate_after,rate_after_low,rate_after_high,cleared,flagged_again,"
    "rate_again,rate_again_low,rate_again_high,"
    "looked_again,cleared_by_second_look,p_value_against_second_look,hardened,accuracy_before,"
    "accuracy_after,untouched,change_of_all"
)
CASES = {
    "quiet": Case(truth=clean(), before=1.0),
    "cleared": Case(truth=clean(), before=2.5, again=2.4, after=1.1, hardening="hardened"),
    "chance": Case(truth=clean(), before=2.1, again=1.9, after=0.5, hardening="hardened"),
    "late": Case(truth=clean(), before=3.0, again=3.1, hardening="timed-out"),
    "mute": Case(truth=clean(), before=3.5, again=3.1, hardening="hardened"),
    "broken": Case(truth=clean()),
    "caught": Case(truth=poisoned(), before=9.0, again=8.0, after=7.0, hardening="hardened"),
    "missed": Case(truth=poisoned(), before=0.4),
    "wrong": Case(truth=clean(errata="mislabelled"), before=0.3),
}


def report(run: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), *more])
    assert result.exit_code == 0, result.output
    return result.output


def table(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {next(iter(row.values())): row for row in csv.DictReader(file)}


EXPECTED = """\
9 models under nc, flagged ones hardened with moth
threshold 2, published cut of nc (anomaly index, simulated, 10 classes), fixed before the scan
images: each model's own clean examples; 0.05 of each class of what is not held out
new models are scanned on the same examples as before, those that they were trained on among \
them

clean, false positives: 2/3 (21% to 94%) before, 0/3 (0% to 56%) after hardening
  a second look under another seed, without hardening, clears 1 of 2 and leaves 1/3 (6% to \
79%); hardening against that: p = 1 (exact McNemar)
  accuracy of 3 hardened models on held-out images: 90.00% before, 88.00% after; change over \
these and 1 untouched: -1.50%
backdoored, true positives: 1/2 (9% to 91%) before, 1/2 (9% to 91%) after hardening
  a second look under another seed, without hardening, clears 0 of 1 and leaves 1/2 (9% to \
91%); hardening against that: p = 1 (exact McNemar)
  accuracy of 1 hardened model on held-out images: 90.00% before, 88.00% after; change over \
these and 1 untouched: -1.00%
unknown, flagged: 0/1 (0% to 79%) before, 0/1 (0% to 79%) after hardening
all, flagged: 3/6 (19% to 81%) before, 1/6 (3% to 56%) after hardening
  a second look under another seed, without hardening, clears 1 of 3 and leaves 2/6 (10% to \
70%); hardening against that: p = 1 (exact McNemar)
  accuracy of 4 hardened models on held-out images: 90.00% before, 88.00% after; change over \
these and 3 untouched: -1.14%
no first answer, in no rate: broken
not hardened, in no rate: late
no second answer, in no rate: mute
"""


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path / "run", CASES)
    wrote = "".join(f"wrote {run / name}\n" for name in FILES)
    assert report(run) == f"{EXPECTED}\n{wrote}"


def test_the_tables_have_these_columns(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, CASES)
    report(run)
    assert (run / "false_positives.csv").read_text().splitlines()[0] == HEADER
    assert (run / "summary.csv").read_text().splitlines()[0] == SUMMARY_HEADER


def test_every_model_has_a_verdict_and_no_answer_is_never_a_mild_one(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, CASES)
    report(run)
    rows = table(run / "false_positives.csv")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "quiet": "not flagged",
        "cleared": "cleared",
        "chance": "cleared",
        "late": "not hardened",
        "mute": "no second answer",
        "broken": "no first answer",
        "caught": "still flagged",
        "missed": "not flagged",
        "wrong": "not flagged",
    }
    after = {name: row["flagged_after"] for name, row in rows.items()}
    assert after["late"] == after["mute"] == after["broken"] == ""
    assert (after["quiet"], after["caught"], after["cleared"]) == ("False", "True", "False")
    assert rows["broken"]["reason"] == "it broke"
    assert rows["late"]["reason"] == "no result"


def test_models_without_an_answer_are_counted_but_in_no_rate(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, CASES)
    report(run)
    line = table(run / "summary.csv")["clean"]
    assert (line["models"], line["answered"], line["without_answer"]) == ("6", "3", "3")
    bounds = wilson(2, 3)
    assert float(line["rate_before"]) == pytest.approx(2 / 3, rel=1e-5)
    assert float(line["rate_before_low"]) == pytest.approx(bounds.low, rel=1e-5)
    assert float(line["rate_before_high"]) == pytest.approx(bounds.high, rel=1e-5)
    assert float(line["change_of_all"]) == pytest.approx(-0.06 / 4, rel=1e-5)


def test_a_model_that_was_not_flagged_keeps_its_verdict_whatever_lies_in_the_folder(
    tmp_path: Path,
) -> None:
    stray = Case(truth=clean(), before=1.0, again=9.0, after=9.0, hardening="hardened")
    run = make_false_positives_run(tmp_path, {"a": stray})
    report(run)
    row = table(run / "false_positives.csv")["a"]
    assert (row["verdict"], row["flagged_after"], row["hardening"]) == ("not flagged", "False", "")


def test_enough_cleared_models_are_more_than_chance(tmp_path: Path) -> None:
    cleared = Case(truth=clean(), before=3.0, again=3.0, after=1.0, hardening="hardened")
    run = make_false_positives_run(tmp_path, {f"m{n}": cleared for n in range(8)})
    report(run)
    line = table(run / "summary.csv")["clean"]
    assert (line["flagged_again"], line["rate_again"]) == ("8", "1")
    assert float(line["p_value_against_second_look"]) == pytest.approx(2 / 2**8, rel=1e-5)
    assert line["cleared_by_second_look"] == "0"


def test_a_threshold_that_was_given_counts_instead_of_the_published_one(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, CASES, threshold=4.0)
    output = report(run)
    assert "threshold 4, given by the user, fixed before the scan" in output
    assert "clean, false positives: 0/5" in output
    assert table(run / "false_positives.csv")["cleared"]["verdict"] == "not flagged"


def test_without_ground_truth_only_flagged_models_are_counted(tmp_path: Path) -> None:
    cases = {"a": Case(before=3.0, again=3.0, after=1.0, hardening="hardened"), "b": Case(before=1)}
    output = report(make_false_positives_run(tmp_path, cases))
    assert "positives" not in output.replace("false_positives", "").partition("\n")[2]
    assert "all, flagged: 1/2" in output
    assert "no ground truth" in output


def test_another_normalisation_after_hardening_is_said(tmp_path: Path) -> None:
    case = Case(
        before=3.0, again=3, after=1.0, hardening="hardened", fields={"normalisation": "unit"}
    )
    output = report(make_false_positives_run(tmp_path, {"a": case}))
    assert "note: a: normalisation imagenet before, unit after" in output


def test_a_study_that_has_just_begun_is_reported_as_pending(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, {"a": Case(before=3.0)})
    output = report(run)
    assert "not hardened, in no rate: a" in output
    assert "pending: 1 model; the same command goes on" in output
    assert json.loads(report(run, "--json"))["complete"] is False


def test_the_data_are_what_the_tables_hold(tmp_path: Path) -> None:
    data = json.loads(report(make_false_positives_run(tmp_path, CASES), "--json"))
    assert [line["group"] for line in data["summary"]] == ["clean", "backdoored", "unknown", "all"]
    assert data["threshold"] == [2.0]
    assert len(data["models"]) == 9
    assert data["provenance"]["scanner"] == "nc"


def test_rebuilding_gives_the_same_bytes_and_pictures(tmp_path: Path) -> None:
    run = make_false_positives_run(tmp_path, CASES)
    report(run)
    before = {name: (run / name).read_bytes() for name in FILES}
    for name in FILES:
        (run / name).unlink()
    report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before
    with Image.open(run / "false_positives.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_score_without_any_cut_to_hold_it_against_is_an_error() -> None:
    at, above, bare = record("m", 2.0), record("m", 2.1), record("m", 1.0, rule=None)
    assert flag(record("m"), None) is None
    assert (flag(at, None), flag(above, None), flag(above, 3.0)) == (False, True, False)
    assert flag(bare, 0.5) is True
    with pytest.raises(RunError, match="states no cut"):
        flag(bare, None)


def test_a_damaged_manifest_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"kind": "false-positives"}')
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "cannot be read as the manifest of a false-positives study" in result.output


def test_every_field_of_the_manifest_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "false-positives.md").read_text(encoding="utf-8")
    section = text.partition("\n### `FalsePositivesManifest`\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(FalsePositivesManifest.model_fields)


@pytest.mark.parametrize("file", ["false_positives.csv", "summary.csv"])
def test_every_column_is_documented(file: str, repository: Path) -> None:
    text = (repository / "docs" / "false-positives.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{file}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+) \|", section, re.M)))
    assert documented == (HEADER if file != "summary.csv" else SUMMARY_HEADER).split(",")
