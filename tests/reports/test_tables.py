from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path

import pytest

from moth_eval.errors import RunError
from moth_eval.records import EvidenceRecord, LedgerLine, TriggerRecord, encode
from reports.rows import read_run
from reports.summary import summary_lines
from reports.tables import TIMING_COLUMNS, as_csv
from tests.support.runs import build_reports, clean, entry, large_run, make_run, poisoned, record


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def small_run(path: Path) -> Path:
    """Two clean and two backdoored models, in order but for one pair."""
    entries = [entry("a", clean()), entry("b", poisoned()), entry("c", clean())]
    entries.append(entry("d", poisoned(targets=(1, 2))))
    scores = {"a": 0.5, "b": 1.75, "c": 2.25, "d": 4.0}
    return make_run(path, entries, [record(name, score) for name, score in scores.items()])


def test_results_have_one_exact_line_per_model(tmp_path: Path) -> None:
    entries = [entry("m-1", poisoned(sources=(2,))), entry("m-2", clean()), entry("m-3")]
    triggers = (
        TriggerRecord(target=1, source=None, size=3.5, asr=0.2, valid=False),
        TriggerRecord(target=1, source=None, size=12.345678, asr=0.995, valid=True),
        TriggerRecord(target=2, source=None, size=9.0, asr=1.0, valid=True),
    )
    records = [
        record(
            "m-1",
            3.14159265,
            target=1,
            triggers=triggers,
            doubts=("one", "two, or so"),
            guards=("landlock", "limits"),
            evidence=(
                EvidenceRecord(what="margin (logits)", value=12.5, target=1, source=None),
                EvidenceRecord(what="=odd", value=0.25, target=1, source=2),
            ),
        ),
        record("m-2", status="timed-out", reason="no answer within 5 s", clean_accuracy=None),
    ]
    build_reports(make_run(tmp_path, entries, records))
    assert (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines() == [
        "model,architecture,classes,scanner,score,probability,status,reason,suspected_target,"
        "suspected_source,smallest_trigger_size,smallest_trigger_asr,evidence,clean_accuracy,"
        "normalisation,poisoned,trigger_type,target,source,errata,doubts,guards,seconds,forward_passes,"
        "backward_passes,peak_memory_mb",
        "m-1,resnet18,5,nc,3.14159,,scored,,1,,12.3457,0.995,"
        '"margin (logits), class 1: 12.5; =odd, 2 → 1: 0.25",0.99,imagenet,True,patch,0,2,,'
        '"one; two, or so",landlock limits,1.25,1000,900,50',
        "m-2,resnet18,5,nc,,,timed-out,no answer within 5 s,,,,,,,imagenet,False,,,,,,,"
        "1.25,1000,900,50",
        "m-3,resnet18,,nc,,,pending,,,,,,,,,,,,,,,,,,,",
    ]


def test_timing_columns_stand_last(tmp_path: Path) -> None:
    build_reports(small_run(tmp_path))
    header = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert tuple(header[-len(TIMING_COLUMNS) :]) == TIMING_COLUMNS


def test_smallest_valid_trigger_is_shown_when_no_target_is_named(tmp_path: Path) -> None:
    triggers = (
        TriggerRecord(target=4, source=None, size=20.0, asr=0.99, valid=True),
        TriggerRecord(target=0, source=None, size=30.0, asr=0.99, valid=True),
    )
    build_reports(make_run(tmp_path, [entry("m")], [record("m", 1.0, triggers=triggers)]))
    assert table(tmp_path / "results.csv")[0]["smallest_trigger_size"] == "20"


def test_bounds_of_resamples_that_all_agree_are_left_out(tmp_path: Path) -> None:
    models = [entry("clean", clean()), entry("bad", poisoned())]
    build_reports(make_run(tmp_path, models, [record("clean", 1.0), record("bad", 5.0)]))
    (row,) = table(tmp_path / "metrics.csv")
    assert (row["roc_auc_bootstrap_low"], row["roc_auc_bootstrap_high"]) == ("", "")
    bands = table(tmp_path / "roc-bands.csv")
    assert {(line["tpr_low"], line["tpr_high"]) for line in bands} == {("", "")}
    assert float(row["roc_auc_low"]) < 0.3
    assert (row["tpr_at_fpr_5"], float(row["tpr_at_fpr_5_low"]) < 0.3) == ("1", True)


def test_metrics_of_a_small_run_are_exact(tmp_path: Path) -> None:
    build_reports(small_run(tmp_path))
    (row,) = table(tmp_path / "metrics.csv")
    expected = {
        "scanner": "nc",
        "trigger_type": "all",
        "scope": "all",
        "n_models": "4",
        "n_clean": "2",
        "n_poisoned": "2",
        "scored": "4",
        "pending": "0",
        "roc_auc": "0.75",
        "roc_auc_interval": "Newcombe score",
        "roc_auc_bootstrap_low": "0",
        "roc_auc_bootstrap_high": "1",
        "roc_auc_failed_as_undecided": "0.75",
        "tpr_at_fpr_5": "0.5",
        "tpr_at_fpr_5_low": "0.0945312",
        "tpr_at_fpr_5_high": "0.905469",
        "cut_origin": "published",
        "cut_threshold": "2",
        "cut_simulated_false_alarm_rate": "0.33",
        "cut_false_positives": "1",
        "cut_true_positives": "1",
        "cut_above": "2",
    }
    assert {name: row[name] for name in expected} == expected


def test_roc_points_are_exact(tmp_path: Path) -> None:
    build_reports(small_run(tmp_path))
    assert (tmp_path / "roc.csv").read_text(encoding="utf-8") == (
        "scanner,threshold,fpr,tpr\nnc,inf,0,0\nnc,4,0,0.5\nnc,2.25,0.5,0.5\nnc,1.75,0.5,1\n"
        "nc,0.5,1,1\n"
    )


def test_confusion_file_has_the_form_trojai_writes(tmp_path: Path) -> None:
    build_reports(small_run(tmp_path))
    lines = (tmp_path / "confusion.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "Threshold, TP, FP, FN, TN, TPR, FPR"
    assert lines[1] == "0.0, 2, 2, 0, 0, 1.0, 1.0"
    assert lines[36].startswith("0.35000000000000003, ")
    assert lines[101] == "1.0, 0, 0, 2, 2, 0.0, 0.0"
    assert len(lines) == 102


def test_second_scanner_has_a_confusion_file_of_its_own(tmp_path: Path) -> None:
    build_reports(large_run(tmp_path, 8, scanners=("nc", "mm/bd")))
    assert (tmp_path / "confusion.csv").is_file()
    assert (tmp_path / "confusion-mm_bd.csv").is_file()


def test_models_without_a_score_are_counted_and_count_as_coin_tosses(tmp_path: Path) -> None:
    entries = [entry(n, clean()) for n in ("a", "b")] + [entry(n, poisoned()) for n in ("c", "d")]
    records = [record("a", 1.0), record("b", 2.0), record("c", 3.0), record("d")]
    build_reports(make_run(tmp_path, entries, records))
    (row,) = table(tmp_path / "metrics.csv")
    assert (row["scored"], row["failed"], row["scored_poisoned"]) == ("3", "1", "1")
    assert row["roc_auc"] == "1"
    # Two of four pairs are decided, both rightly; the other two count one half.
    assert row["roc_auc_failed_as_undecided"] == "0.75"


def test_model_without_a_score_enters_the_cross_entropy_at_one_half(tmp_path: Path) -> None:
    run = small_run(tmp_path / "one")
    build_reports(run)
    whole = float(table(run / "metrics.csv")[0]["cross_entropy"])
    entries = [*read_run(run).manifest.entries, entry("e", clean())]
    known = [row.record for row in read_run(run).rows if row.record]
    more = make_run(tmp_path / "two", entries, [*known, record("e", status="refused", reason="x")])
    build_reports(more)
    together = float(table(more / "metrics.csv")[0]["cross_entropy"])
    assert together == pytest.approx((4 * whole + math.log(2)) / 5, abs=1e-5)


def test_erratum_is_counted_and_changes_no_figure(tmp_path: Path) -> None:
    run = small_run(tmp_path / "one")
    build_reports(run)
    known = [row.record for row in read_run(run).rows if row.record]
    entries = [*read_run(run).manifest.entries, entry("e", clean(errata="unusable"))]
    more = make_run(tmp_path / "two", entries, [*known, record("e", 99.0)])
    build_reports(more)
    before, after = table(run / "metrics.csv")[0], table(more / "metrics.csv")[0]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"n_models", "n_errata", "scored", "cut_above", "cut_applied"}
    assert after["n_errata"] == "1"


def test_pending_models_enter_no_figure(tmp_path: Path) -> None:
    run = small_run(tmp_path / "one")
    build_reports(run)
    known = [row.record for row in read_run(run).rows if row.record]
    entries = [*read_run(run).manifest.entries, entry("e", clean())]
    more = make_run(tmp_path / "two", entries, known)
    build_reports(more)
    before, after = table(run / "metrics.csv")[0], table(more / "metrics.csv")[0]
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"n_models", "n_clean", "pending"}


def test_source_specific_backdoors_are_told_from_universal_ones(tmp_path: Path) -> None:
    entries = [entry("a", clean()), entry("b", clean())]
    entries += [entry("u", poisoned()), entry("v", poisoned(sources=()))]
    entries += [entry("s", poisoned(sources=(1,))), entry("t", poisoned(sources=(1, 2)))]
    scores = {"a": 1.0, "b": 2.0, "u": 3.0, "v": 4.0, "s": 0.5, "t": 1.5}
    records = [record(name, score) for name, score in scores.items()]
    build_reports(make_run(tmp_path, entries, records))
    rows = table(tmp_path / "metrics.csv")
    assert [(row["trigger_type"], row["scope"], row["roc_auc"]) for row in rows] == [
        ("all", "all", "0.625"),
        ("all", "universal", "1"),
        ("all", "source-specific", "0.25"),
    ]
    assert {row["n_clean"] for row in rows} == {"2"}
    page = (tmp_path / "report.html").read_text()
    assert "By scope of the trigger, each against all clean models" in page
    assert '<th scope="row">source-specific</th>' in page
    shown = "\n".join(summary_lines(tmp_path))
    assert re.search(r"^nc +source-specific +4/4 +.* 0\.250 ", shown, re.MULTILINE)


def test_one_scope_alone_is_no_split(tmp_path: Path) -> None:
    entries = [entry("a", clean()), entry("s", poisoned(sources=(1,)))]
    build_reports(make_run(tmp_path, entries, [record("a", 1.0), record("s", 2.0)]))
    assert [row["scope"] for row in table(tmp_path / "metrics.csv")] == ["all"]


def test_each_trigger_type_is_set_against_all_clean_models(tmp_path: Path) -> None:
    build_reports(large_run(tmp_path, 12))
    rows = table(tmp_path / "metrics.csv")
    assert [row["trigger_type"] for row in rows] == ["all", "instagram", "patch"]
    assert {row["n_clean"] for row in rows} == {rows[0]["n_clean"]}
    assert int(rows[1]["n_poisoned"]) + int(rows[2]["n_poisoned"]) == int(rows[0]["n_poisoned"])


def test_every_model_has_exactly_one_status(tmp_path: Path) -> None:
    build_reports(large_run(tmp_path, 6))
    for row in table(tmp_path / "metrics.csv"):
        statuses = (
            "scored", "inconclusive", "refused", "timed_out", "failed", "crashed",
            "out_of_memory", "pending",
        )  # fmt: skip
        assert sum(int(row[status]) for status in statuses) == int(row["n_models"])


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", "\n\r"])
def test_a_name_with_the_end_of_a_line_in_it_stays_one_cell(end: str) -> None:
    lines = [{"model": f"a{end}=HYPERLINK(A1)", "grade": "backdoored"}]
    text = as_csv(lines).decode()
    assert list(csv.DictReader(io.StringIO(text, newline=""))) == lines
    assert text.startswith("model,grade\n")


def test_a_type_of_trigger_that_is_called_all_is_no_line_of_the_whole(tmp_path: Path) -> None:
    kinds = ["all", "patch", "polygon"]
    entries = [entry("a", clean(), architecture="all"), entry("b", clean())]
    entries += [entry(kind, poisoned(kind)) for kind in kinds]
    records = [record(one.name, float(n)) for n, one in enumerate(entries)]
    build_reports(make_run(tmp_path, entries, records))
    parts = [
        (line["trigger_type"], line["scope"], line["architecture"])
        for line in table(tmp_path / "metrics.csv")
    ]
    assert len(set(parts)) == len(parts)
    assert parts.count(("all", "all", "all")) == 1
    assert ("all (stated)", "all", "all") in parts
    assert ("all", "all", "all (stated)") in parts


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-2", "@x", "'quoted", "\t=1"])
def test_text_that_a_spreadsheet_would_run_gets_one_apostrophe(tmp_path: Path, name: str) -> None:
    build_reports(make_run(tmp_path, [entry(name)], [record(name, 1.0)]))
    assert table(tmp_path / "results.csv")[0]["model"] == f"'{name}"


def test_negative_scores_stay_numbers(tmp_path: Path) -> None:
    build_reports(make_run(tmp_path, [entry("m")], [record("m", -1.5)]))
    assert table(tmp_path / "results.csv")[0]["score"] == "-1.5"


def test_a_torn_last_line_costs_only_its_own_result(tmp_path: Path) -> None:
    entries = [entry("a", clean()), entry("b", clean())]
    last = record("b", 2.0)
    line = encode(LedgerLine(event="end", key=last.key, model="b", scanner="nc", record=last))
    build_reports(make_run(tmp_path, entries, [record("a", 1.0)], tail=line[: len(line) // 2]))
    assert [r["status"] for r in table(tmp_path / "results.csv")] == ["scored", "pending"]


def test_a_scan_that_was_started_and_left_nothing_says_so(tmp_path: Path) -> None:
    line = encode(LedgerLine(event="start", key="k", model="a", scanner="nc"))
    build_reports(make_run(tmp_path, [entry("a")], [], tail=line))
    (row,) = table(tmp_path / "results.csv")
    assert row["status"] == "pending"
    assert row["doubts"] == "a scan was started but left no result"


def test_result_of_another_version_of_the_file_is_not_used(tmp_path: Path) -> None:
    build_reports(make_run(tmp_path, [entry("a")], [record("a", 9.0, sha256="0" * 64)]))
    (row,) = table(tmp_path / "results.csv")
    assert (row["status"], row["score"]) == ("pending", "")
    assert "another version of the model file" in row["doubts"]


def test_the_last_of_several_results_counts_and_the_others_are_mentioned(tmp_path: Path) -> None:
    records = [record("a", 1.0, key="x"), record("a", 2.0, key="y"), record("a", 3.0, key="x")]
    build_reports(make_run(tmp_path, [entry("a")], records))
    (row,) = table(tmp_path / "results.csv")
    assert row["score"] == "3"
    assert "2 different settings" in row["doubts"]


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        build_reports(tmp_path)
