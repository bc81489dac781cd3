from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from moth_eval.cli import main
from moth_eval.hardening_cells import CellOutcome
from reports.hardening_study import work_out_hardening
from tests.support.hardening_runs import card, make_hardening_run

FILES = (
    "hardening.csv", "summary.csv", "differences.csv", "hardening.md", "hardening.tex",
    "hardening.png", "hardening.svg",
)  # fmt: skip
HEADER = (
    "model,method,seed,status,reason,accuracy_before,accuracy_after,degradation,degradation_low,"
    "degradation_high,accuracy_p,test_images,distance_before,distance_after,mean_of_ratios,"
    "mean_of_ratios_low,mean_of_ratios_high,ratio_of_means,ratio_of_means_low,"
    "ratio_of_means_high,pairs,pairs_used,failed_pairs_before,failed_pairs_after,images_used,"
    "rounds,forward_passes,backward_passes,seconds,peak_memory_mb,notes"
)
SUMMARY_HEADER = (
    "method,cells,hardened,inapplicable,failed,crashed,timed_out,out_of_memory,refused,unreadable,pending,models,"
    "accuracy_before,accuracy_after,degradation,degradation_low,degradation_high,increase_cells,"
    "mean_of_ratios,mean_of_ratios_low,mean_of_ratios_high,ratio_of_means,ratio_of_means_low,"
    "ratio_of_means_high,failed_pairs_before,failed_pairs_after,seconds,seconds_low,seconds_high,"
    "increase_per_second,interval"
)

DIFFERENCES_HEADER = (
    "method,control,figure,models,difference,difference_low,difference_high,p,p_corrected"
)


def study(path: Path) -> Path:
    """Two models under two methods: one cell timed out, one failed, one is pending."""
    return make_hardening_run(
        path,
        {
            ("a", "moth", 0): card("a", "moth", 0, after=0.85, increase=0.5, seconds=10),
            ("a", "moth", 1): card("a", "moth", 1, after=0.83, increase=0.7, seconds=30),
            ("b", "moth", 0): card("b", "moth", 0, after=0.89, increase=None, notes=("few",)),
            ("b", "moth", 1): CellOutcome(status="timed-out", reason="no result", seconds=5),
            ("a", "universal", 0): card("a", "universal", 0, status="failed", reason="diverged"),
            ("a", "universal", 1): card("a", "universal", 1, after=0.9, increase=0.1),
            ("b", "universal", 0): None,
            ("b", "universal", 1): card("b", "universal", 1, after=0.86, increase=-0.1),
        },
        models=("a", "b"),
        methods=("moth", "universal"),
        seeds=(0, 1),
    )


def report(run: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), *more])
    assert result.exit_code == 0, result.output
    return result.output


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


EXPECTED = """\
2 models under 2 hardeners, 2 seeds: 5 of 8 cells have a new model

method     models  cells  degradation (95 %)  distance (95 %)   seconds  increase/s
moth       2       3/4    +3.5% (too few)     +60.0% (too few)  15.0     +3.00%
universal  2       2/4    +2.0% (too few)     +0.0% (too few)   10.0     +0.00%

degradation: accuracy before minus after; distance: mean over pairs of the relative increase; \
means over models, each the mean of its seeds

against moth, model by model:
method     figure                 models  difference  p  p (corrected)
universal  degradation            1       -7.0%       –  –
universal  distance               1       -60.0%      –  –
universal  distance of the means  1       -30.0%      –  –
universal  seconds                1       -20.0       –  –
without a new model, in no mean: 3 cells
  a under universal, seed 0: failed diverged
  b under moth, seed 1: timed-out no result
  b under universal, seed 0: pending
note: b: few
note: means of moth, universal rest on fewer cells than asked for
"""


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = study(tmp_path / "run")
    wrote = "".join(f"wrote {run / name}\n" for name in FILES)
    assert report(run) == f"{EXPECTED}\n{wrote}"


def test_the_tables_have_these_columns(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    assert (run / "hardening.csv").read_text().splitlines()[0] == HEADER
    assert (run / "summary.csv").read_text().splitlines()[0] == SUMMARY_HEADER
    assert (run / "differences.csv").read_text().splitlines()[0] == DIFFERENCES_HEADER


def test_every_cell_is_a_row_and_so_is_every_original(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    found = [(r["model"], r["method"], r["seed"], r["status"]) for r in table(run / FILES[0])]
    assert found == [
        ("a", "none", "0", "original"),
        ("a", "none", "1", "original"),
        ("a", "moth", "0", "hardened"),
        ("a", "moth", "1", "hardened"),
        ("a", "universal", "0", "failed"),
        ("a", "universal", "1", "hardened"),
        ("b", "none", "0", "original"),
        ("b", "none", "1", "original"),
        ("b", "moth", "0", "hardened"),
        ("b", "moth", "1", "timed-out"),
        ("b", "universal", "0", "pending"),
        ("b", "universal", "1", "hardened"),
    ]


def test_a_row_holds_the_figures_of_its_card_and_nothing_where_there_is_none(
    tmp_path: Path,
) -> None:
    run = study(tmp_path)
    report(run)
    rows = {(r["model"], r["method"], r["seed"]): r for r in table(run / "hardening.csv")}
    first = rows["a", "moth", "0"]
    assert [first[n] for n in ("accuracy_before", "accuracy_after")] == ["0.9", "0.85"]
    bounds = [float(first[n]) for n in ("degradation_low", "degradation", "degradation_high")]
    assert bounds == pytest.approx([-0.05, 0.05, 0.15])
    assert [first[n] for n in ("distance_before", "distance_after")] == ["20", "30"]
    assert [first[n] for n in ("mean_of_ratios", "ratio_of_means")] == ["0.5", "0.25"]
    assert (first["seconds"], first["images_used"]) == ("10", "25")
    original = rows["a", "none", "0"]
    assert (original["accuracy_before"], original["distance_before"]) == ("0.9", "20")
    assert original["accuracy_after"] == original["seconds"] == ""
    no_trigger = rows["b", "moth", "0"]
    assert (no_trigger["mean_of_ratios"], no_trigger["failed_pairs_after"]) == ("", "2")
    late = rows["b", "moth", "1"]
    assert late["reason"] == "no result"
    assert late["accuracy_before"] == late["degradation"] == late["seconds"] == ""


def test_missing_cells_are_counted_and_not_averaged(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    moth, universal = table(run / "summary.csv")
    assert (moth["cells"], moth["hardened"], moth["timed_out"]) == ("4", "3", "1")
    # Model a lost 5 and 7 points, model b 1 point: the mean of the models' means.
    assert float(moth["degradation"]) == pytest.approx((0.06 + 0.01) / 2)
    assert (moth["increase_cells"], float(moth["mean_of_ratios"])) == ("2", pytest.approx(0.6))
    assert float(moth["increase_per_second"]) == pytest.approx((0.5 + 0.7) / 40, rel=1e-5)
    assert moth["failed_pairs_after"] == "2"
    assert (universal["failed"], universal["pending"]) == ("1", "1")
    assert float(universal["degradation"]) == pytest.approx((0 + 0.04) / 2)


def test_intervals_appear_with_enough_models(tmp_path: Path) -> None:
    names = "abcdef"
    cells = {
        (name, "moth", 0): card(name, "moth", 0, after=0.9 - 0.01 * place, increase=0.1 * place)
        for place, name in enumerate(names)
    }
    run = make_hardening_run(tmp_path, cells, models=names, methods=("moth",), seeds=(0,))
    output = report(run)
    [line] = table(run / "summary.csv")
    assert line["interval"] == "expanded percentile bootstrap over 6 models"
    low, high = float(line["degradation_low"]), float(line["degradation_high"])
    assert 0 <= low < 0.025 < high <= 0.05
    assert f"+2.5% ({low:+.1%} to {high:+.1%})" in output


def test_methods_are_held_against_the_first_on_the_models_and_seeds_that_both_have(
    tmp_path: Path,
) -> None:
    names = "abcdef"
    cells = {}
    for place, name in enumerate(names):
        spread = 0.2 * place
        cells[name, "moth", 0] = card(name, "moth", 0, increase=0.5 + spread, seconds=100)
        cells[name, "moth", 1] = card(name, "moth", 1, increase=9.0, seconds=100)
        less = 0.4 + spread + 0.004 * (place % 2) - 0.002
        cells[name, "pairwise", 0] = card(name, "pairwise", 0, increase=less, seconds=900)
        cells[name, "universal", 0] = card(name, "universal", 0, status="failed", reason="no")
    run = make_hardening_run(
        tmp_path, cells, models=names, methods=("moth", "pairwise", "universal"), seeds=(0, 1)
    )
    output = report(run)
    rows = {(r["method"], r["figure"]): r for r in table(run / "differences.csv")}
    assert {method for method, _ in rows} == {"pairwise"}
    assert {r["control"] for r in rows.values()} == {"moth"}
    far = rows["pairwise", "mean_of_ratios"]
    assert (float(far["difference"]), far["models"]) == (pytest.approx(-0.1), "6")
    # The spread over models, 0 to 1, is not in it: each is held against itself.
    assert -0.105 < float(far["difference_low"]) < -0.1 < float(far["difference_high"]) < -0.095
    assert float(far["p"]) == float(far["p_corrected"]) == pytest.approx(2 / 2**6)
    assert rows["pairwise", "seconds"]["difference"] == "800"
    assert rows["pairwise", "degradation"]["p"] == "1"
    assert re.search(r"pairwise +distance +6 +-10\.0% \(-10\.\d% to -9\.\d%\)", output)


def test_one_method_alone_is_held_against_nothing(tmp_path: Path) -> None:
    cells = {("a", "moth", 0): card("a", "moth", 0)}
    run = make_hardening_run(tmp_path, cells, models="a", methods=("moth",), seeds=(0,))
    assert "against" not in report(run)
    assert not (run / "differences.csv").exists()


def test_markdown_and_latex_hold_every_model_and_the_notes(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    text = (run / "hardening.md").read_text()
    assert "| a | moth | 2 | 90.0% | 84.0% | +6.0% | 20.0 | 32.0 | +60.0% | 20.0 |" in text
    assert "| b | moth | 1 | 90.0% | 89.0% | +1.0% | 20.0 | – | – | 10.0 |" in text
    assert "## Against moth" in text
    assert "* b under moth, seed 1: timed-out no result" in text
    latex = (run / "hardening.tex").read_text()
    assert r"a & moth & 2 & 90.0\% & 84.0\% & +6.0\% & 20.0 & 32.0 & +60.0\% & 20.0 \\" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3


def test_names_do_not_act_in_markdown_or_latex(tmp_path: Path) -> None:
    name = r"x|y\input{z}"
    cells = {(name, "moth", 0): card(name, "moth", 0)}
    run = make_hardening_run(tmp_path, cells, models=(name,), methods=("moth",), seeds=(0,))
    report(run)
    assert r"\input" not in (run / "hardening.tex").read_text()
    assert r"x\|y" in (run / "hardening.md").read_text()


def test_rebuilding_gives_the_same_bytes_from_the_folder_alone(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    before = {name: (run / name).read_bytes() for name in FILES}
    for name in FILES:
        (run / name).unlink()
    report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_the_figure_shows_a_point_per_cell_in_the_colour_of_its_method(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    with Image.open(run / "hardening.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3).astype(int)
    # The dots of the legend alone are fewer pixels than with the points of both panels.
    for colour in ((0x1F, 0x5F, 0xBF), (0xC2, 0x41, 0x0C)):
        faded = np.array(colour) * 0.85 + 255 * 0.15
        assert (np.abs(pixels - faded).max(axis=1) < 4).sum() > 500


def test_a_run_in_which_nothing_is_done_is_reported_as_such(tmp_path: Path) -> None:
    run = make_hardening_run(tmp_path, {}, models=("a",), methods=("moth",), seeds=(0,))
    assert "0 of 1 cell have a new model" in report(run)
    first, second = table(run / "hardening.csv")
    assert (first["status"], second["status"]) == ("not measured", "pending")
    [line] = table(run / "summary.csv")
    assert line["degradation"] == line["mean_of_ratios"] == line["increase_per_second"] == ""


def test_a_damaged_card_and_one_of_another_model_are_rows_with_a_reason(tmp_path: Path) -> None:
    run = study(tmp_path)
    (run / "cells" / "a--moth--0" / "card.json").write_text("{}")
    (run / "cells" / "a--moth--1" / "card.json").write_text(card("b", "moth", 1).model_dump_json())
    report(run)
    rows = {(r["model"], r["method"], r["seed"]): r for r in table(run / "hardening.csv")}
    for seed, reason in (("0", "cannot be read"), ("1", "is of another model file or seed")):
        row = rows["a", "moth", seed]
        assert (row["status"], row["accuracy_after"]) == ("unreadable", "")
        assert reason in row["reason"]
    assert work_out_hardening(run).lines[0].counts()["unreadable"] == 2


def test_the_data_are_what_the_tables_hold(tmp_path: Path) -> None:
    run = study(tmp_path)
    data = json.loads(report(run, "--json"))
    assert (data["complete"], data["missing"]) == (False, 3)
    assert [line["method"] for line in data["summary"]] == ["moth", "universal"]
    assert len(data["cells"]) == 12
    assert data["provenance"]["share"] == 0.05


def test_names_cannot_steer_a_terminal_or_a_spreadsheet(tmp_path: Path) -> None:
    name = "=\x1b]0;owned\x07"
    outcome = CellOutcome(status="failed", reason="=1+1", seconds=0)
    run = make_hardening_run(
        tmp_path, {(name, "moth", 0): outcome}, models=(name,), methods=("moth",), seeds=(0,)
    )
    assert "\x1b" not in report(run)
    row = table(run / "hardening.csv")[1]
    assert (row["model"][:2], row["reason"]) == ("'=", "'=1+1")


def test_a_damaged_manifest_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"kind": "hardening-study"}')
    result = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert "cannot be read as the manifest of a hardening study" in result.output


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("hardening_study_records", "HardeningStudyManifest"),
        ("hardening_study_records", "StudyModel"),
        ("hardening_cells", "CellOutcome"),
    ],
)
def test_every_field_of_the_records_is_documented(module: str, name: str, repository: Path) -> None:
    from importlib import import_module

    kind = getattr(import_module(f"moth_eval.{module}"), name)
    text = (repository / "docs" / "hardening.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{name}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(kind.model_fields)


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("hardening.csv", HEADER),
        ("summary.csv", SUMMARY_HEADER),
        ("differences.csv", DIFFERENCES_HEADER),
    ],
)
def test_every_column_is_documented(file: str, header: str, repository: Path) -> None:
    text = (repository / "docs" / "hardening.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{file}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+) \|", section, re.M)))
    assert documented == header.split(",")
