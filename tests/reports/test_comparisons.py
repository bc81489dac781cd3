from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moth_eval.metrics import roc_auc
from moth_eval.records import ScanRecord
from reports.build import work_out
from reports.calibration import Example, folds_of
from reports.ensemble import ensemble, judged
from reports.evaluation import scores_by_class
from reports.rows import read_run
from reports.summary import lines_of
from tests.support.runs import build_reports, clean, entry, make_run, poisoned, record


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def two_scanners(
    path: Path,
    *,
    models: int = 40,
    shifts: tuple[float, float] = (3.0, 0.0),
    seed: int = 0,
    missing: frozenset[tuple[str, int]] = frozenset(),
    networks: tuple[str, ...] = ("resnet18",),
) -> Path:
    """Half of the models poisoned; scores are normal, shifted for poisoned ones by scanner."""
    generator = np.random.default_rng(seed)
    entries, records = [], []
    for i in range(models):
        one = entry(f"m{i:03d}", poisoned() if i % 2 else clean())
        entries.append(one)
        for name, shift in zip(("one", "other"), shifts, strict=True):
            score = float(generator.normal() + shift * (i % 2))
            records.append(
                record(
                    one.name, None if (name, i) in missing else score, scanner=name,
                    sha256=one.sha256, architecture=networks[i // 2 % len(networks)],
                )
            )  # fmt: skip
    return make_run(path, entries, records, scanners=("one", "other"))


def test_scanners_are_compared_on_the_models_that_both_scored(tmp_path: Path) -> None:
    missing = frozenset({("one", 0), ("other", 3)})
    run = two_scanners(tmp_path, missing=missing)
    build_reports(run)
    lines = table(run / "comparisons.csv")
    assert [(line["first"], line["second"]) for line in lines] == [
        ("one", "other"), ("one", "ensemble of 2"), ("other", "ensemble of 2"),
    ]  # fmt: skip
    assert (lines[0]["clean"], lines[0]["poisoned"], lines[0]["left_out"]) == ("19", "19", "2")
    scored = {(r.scanner, r.model): r for r in read_run(run).rows if r.score is not None}
    models = [m for s, m in scored if s == "one" and ("other", m) in scored]
    for name, column in (("one", "roc_auc_first"), ("other", "roc_auc_second")):
        area = roc_auc(
            [scored[name, m].score for m in models], [scored[name, m].label for m in models]
        )
        assert float(lines[0][column]) == pytest.approx(area, rel=1e-5)
    assert float(lines[0]["p"]) < 0.001
    # Three tests: the smallest p value counts three times.
    assert float(lines[0]["p_holm"]) == pytest.approx(3 * float(lines[0]["p"]), rel=1e-5)
    assert float(lines[0]["difference_high"]) < 0


def test_the_summary_tells_which_scanner_is_better_and_only_then(tmp_path: Path) -> None:
    far, near = two_scanners(tmp_path / "far"), two_scanners(tmp_path / "near", shifts=(1.0, 1.0))
    said = [line for line in lines_of(work_out(far)) if "tells models apart better" in line]
    assert said[0].startswith("one tells models apart better than other: ROC area 0.9")
    assert "on 40 models, corrected p = 0.0006" in said[0]
    assert not any("better" in line for line in lines_of(work_out(near)))


def test_one_scanner_alone_has_neither_comparison_nor_ensemble(tmp_path: Path) -> None:
    entries = [entry(f"m{i}", poisoned() if i % 2 else clean()) for i in range(6)]
    run = make_run(tmp_path, entries, [record(e.name, float(i)) for i, e in enumerate(entries)])
    build_reports(run)
    assert not (run / "comparisons.csv").exists()
    assert ensemble(read_run(run)) is None


def test_scanners_that_see_different_things_are_better_together(tmp_path: Path) -> None:
    run = read_run(two_scanners(tmp_path, models=120, shifts=(1.5, 1.5)))
    areas = {}
    found = ensemble(run)
    assert found is not None
    for name, rows in (*((n, run.of(n)) for n in run.scanners), (found.name, found.rows)):
        low, high = scores_by_class(rows)
        areas[name] = roc_auc(np.r_[low, high], np.repeat([0, 1], [low.size, high.size]))
    assert areas["ensemble of 2"] > max(areas["one"], areas["other"]) + 0.02
    assert all(0 < p < 1 for p in found.answers.by_name.values())


def test_an_ensemble_of_noise_stays_noise(tmp_path: Path) -> None:
    # A fit that had seen the models that it judges would look better than chance.
    areas = []
    for seed in range(8):
        found = ensemble(read_run(two_scanners(tmp_path / f"{seed}", shifts=(0, 0), seed=seed)))
        assert found is not None
        low, high = scores_by_class(found.rows)
        areas.append(roc_auc(np.r_[low, high], np.repeat([0, 1], [low.size, high.size])))
    assert np.mean(areas) < 0.55


def test_which_models_a_fold_holds_out_does_not_move_their_scores() -> None:
    """A fit without a clean model has a higher intercept: as a score it would count against it."""
    labels = [int(i < 8) for i in range(20)]
    models = [
        Example(name=f"m{i}", sha256=f"{i}", score=0.0, label=y) for i, y in enumerate(labels)
    ]
    scores: list[list[float | None]] = [[1.0, 2.0] for _ in labels]
    found = judged(dict(zip(models, scores, strict=True)), folds_of(models))
    assert {one.score for one in found.values()} == {0.0}
    assert len({one.probability for one in found.values()}) > 1


def test_a_models_own_truth_does_not_move_its_score() -> None:
    generator = np.random.default_rng(0)
    labels = [i % 2 for i in range(20)]
    scores: list[list[float | None]] = [[float(generator.normal() + y), None] for y in labels]
    models = [
        Example(name=f"m{i}", sha256=f"{i}", score=0.0, label=y) for i, y in enumerate(labels)
    ]
    folds = {one.sha256: i // 2 % 5 for i, one in enumerate(models)}
    before = judged(dict(zip(models, scores, strict=True)), folds)
    models[3] = replace(models[3], label=0)
    after = judged(dict(zip(models, scores, strict=True)), folds)
    assert {name for name in before if before[name] == after[name]} == {
        one.name for one in models if folds[one.sha256] == folds["3"]
    }


def test_a_model_that_no_scanner_scored_is_inconclusive_in_the_ensemble(tmp_path: Path) -> None:
    run = read_run(
        two_scanners(tmp_path, missing=frozenset({("one", 0), ("other", 0), ("one", 1)}))
    )
    found = ensemble(run)
    assert found is not None
    records = {r.model: r.record for r in found.rows}
    assert isinstance(records["m000"], ScanRecord)
    assert (records["m000"].status, records["m000"].reason) == (
        "inconclusive", "no scanner has a score",
    )  # fmt: skip
    assert isinstance(records["m001"], ScanRecord)
    assert records["m001"].status == "scored"


def test_the_ensemble_judges_models_that_the_first_scanner_has_not_reached(tmp_path: Path) -> None:
    run = read_run(two_scanners(tmp_path))
    late = {f"m{i:03d}" for i in range(0, 40, 3)}
    for behind in ("one", "other"):
        rows = tuple(
            replace(row, record=None) if row.scanner == behind and row.model in late else row
            for row in run.rows
        )
        found = ensemble(replace(run, rows=rows))
        assert found is not None
        assert [row.model for row in found.rows] == [entry.name for entry in run.manifest.entries]
        assert all(row.score is not None for row in found.rows)
        assert found.answers.by_name.keys() == {row.model for row in found.rows}


def test_the_ensemble_is_a_line_of_the_metrics_and_no_scan(tmp_path: Path) -> None:
    run = two_scanners(tmp_path)
    build_reports(run)
    lines = table(run / "metrics.csv")
    assert [line["scanner"] for line in lines] == ["one", "other", "ensemble of 2"]
    assert "no probability comes from a fit that saw its model" in lines[2]["probability_note"]
    assert {line["scanner"] for line in table(run / "results.csv")} == {"one", "other"}
    assert {line["scanner"] for line in table(run / "roc-bands.csv")} == {
        "one", "other", "ensemble of 2",
    }  # fmt: skip
    assert [line["scanner"] for line in table(run / "costs.csv")] == ["one", "other"]
    page = (run / "report.html").read_text()
    assert "under 2 scanners" in page
    assert "Scanner against scanner" in page


def test_each_architecture_has_lines_of_its_own(tmp_path: Path) -> None:
    run = two_scanners(tmp_path, networks=("resnet18", "googlenet"))
    build_reports(run)
    lines = [line for line in table(run / "metrics.csv") if line["scanner"] == "one"]
    assert [(line["architecture"], line["n_clean"], line["n_poisoned"]) for line in lines] == [
        ("all", "20", "20"), ("googlenet", "10", "10"), ("resnet18", "10", "10"),
    ]  # fmt: skip
    assert "By architecture" in (run / "report.html").read_text()


def test_costs_are_means_over_scored_models_and_a_total_over_all(tmp_path: Path) -> None:
    entries = [entry(f"m{i}", clean()) for i in range(3)]
    records = [
        record("m0", 1.0, seconds=1.0, forward_passes=10, backward_passes=0),
        record("m1", 2.0, seconds=4.0, forward_passes=30, backward_passes=2),
        record("m2", seconds=100.0),
    ]
    run = make_run(tmp_path, entries, records)
    build_reports(run)
    [line] = table(run / "costs.csv")
    assert line == {
        "scanner": "nc", "scored": "2", "seconds_mean": "2.5", "seconds_median": "2.5",
        "seconds_highest": "4", "seconds_total": "105", "forward_passes_mean": "20",
        "backward_passes_mean": "1", "peak_memory_mb": "50",
    }  # fmt: skip


def test_the_smallest_false_positive_rate_that_finds_enough_is_exact(tmp_path: Path) -> None:
    scores = {0: (1.0, 2.0, 3.0, 4.0), 1: (2.5, 3.5, 5.0, 6.0, 7.0)}
    entries, records = [], []
    for label, values in scores.items():
        for value in values:
            one = entry(f"m{value}", poisoned() if label else clean())
            entries.append(one)
            records.append(record(one.name, value, sha256=one.sha256))
    run = make_run(tmp_path, entries, records)
    build_reports(run)
    [line] = table(run / "metrics.csv")
    # Four of five lie above 3.0: one clean model of four does. The fifth costs another one.
    assert (line["fpr_at_tpr_80"], line["fpr_at_tpr_95"]) == ("0.25", "0.5")
