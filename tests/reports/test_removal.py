from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from moth_eval.cli import main
from moth_eval.hardening_cells import CellOutcome
from reports.removal import FIGURES, Line, work_out_removal
from tests.support.removal_runs import Made, effectiveness, make_removal_run, repaired, variant

FILES = (
    "results.csv", "methods.csv", "attacks.csv", "controls.csv", "differences.csv", "removal.md",
    "removal.tex", "summary.json", "removal.png", "removal.svg",
)  # fmt: skip
ORACLE = "anp:selection=oracle"
METHODS = ("fine-tuning", "nad", "moth", ORACLE)


def study(path: Path) -> Path:
    """Two attacked models, one whose gate failed, one clean; MOTH lacks a cell."""
    cells: dict[tuple[str, str, int], Made] = {}
    for model, shift in (("a", 0.0), ("b", 0.1)):
        for seed in (0, 1):
            teacher = variant(0.87, 0.4 + shift, 0.5, name="teacher")
            cells[model, "fine-tuning", seed] = repaired(model, 0.88, 0.5 + shift, 0.4, seed=seed)
            cells[model, "nad", seed] = repaired(
                model, 0.86, 0.2 + shift, 0.6, seed=seed, more=(teacher,), seconds=30
            )
            cells[model, "moth", seed] = repaired(model, 0.89, 0.1 + 0.02 * seed, 0.7, seed=seed)
            cells[model, ORACLE, seed] = repaired(
                model, 0.82, 0.02, 0.8, seed=seed, oracle="selection"
            )
    cells["b", "moth", 1] = CellOutcome(status="timed-out", reason="no answer", seconds=5)
    for method, accuracy in (("fine-tuning", 0.91), ("nad", 0.88), ("moth", 0.92)):
        for seed in (0, 1):
            cells["clean", method, seed] = repaired("clean", accuracy, seed=seed)
    for seed in (0, 1):
        cells["clean", ORACLE, seed] = CellOutcome(
            status="inapplicable", reason="no truth", seconds=0
        )
    weak = "its own gate refused the model: ASR 0.1"
    for method in METHODS:
        for seed in (0, 1):
            cells["weak", method, seed] = CellOutcome(
                status="not-implanted", reason=weak, seconds=0
            )
    return make_removal_run(
        path,
        cells,
        models={"a": "patch", "b": "blended", "clean": "none", "weak": "sig"},
        methods=METHODS,
        seeds=(0, 1),
        not_implanted={"weak": weak},
    )


def report(run: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), *more])
    assert result.exit_code == 0, result.output
    return result.output


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


EXPECTED = """\
2 attacked models, 1 clean control, 1 not implanted; 4 methods, 2 seeds, 0.05 of the clean images
means over the 2 models (of 2) and 3 repairs per method that every method has a result for, each \
model the mean of its seeds, with 95 % intervals

method                         models  cells  ACC    ASR    RA     DER    seconds
before                         2       3      90.0%  96.0%  2.0%   –      –
fine-tuning                    2       3/4    88.0%  55.0%  40.0%  0.695  10.0
nad                            2       3/4    86.0%  25.0%  60.0%  0.835  30.0
nad / teacher                  2       3/4    87.0%  45.0%  50.0%  0.740  30.0
moth                           2       3/4    89.0%  10.5%  70.0%  0.923  10.0
anp:selection=oracle (oracle)  2       3/4    82.0%  2.0%   80.0%  0.930  10.0
clean model                    2       –      –      1.0%   –      –      –

against fine-tuning:
method  figure  models  difference  p    p (corrected)
nad     ACC     2       -2.0%       0.5  0.5
moth    ACC     2       +1.0%       0.5  0.5
nad     ASR     2       -30.0%      0.5  0.5
moth    ASR     2       -44.5%      0.5  0.5
nad     RA      2       +20.0%      0.5  0.5
moth    RA      2       +30.0%      0.5  0.5
nad     DER     2       +0.140      0.5  0.5
moth    DER     2       +0.228      0.5  0.5

clean controls:
method       models  ACC    lost   seconds
before       1       92.0%  –      –
fine-tuning  1       91.0%  +1.0%  10.0
nad          1       88.0%  +4.0%  10.0
moth         1       92.0%  +0.0%  10.0

ACC: accuracy on clean test images; ASR: stamped ones classified as the target; RA: stamped ones \
classified rightly; DER: 0.5 is no change
not implanted, never scored: weak: its own gate refused the model: ASR 0.1
without a result, in no mean: 1 cell
  b under moth, seed 1: timed-out no answer
note: anp:selection=oracle (oracle): looks at the trigger or its target class; a bound, not a method
"""


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = study(tmp_path / "run")
    wrote = "".join(f"wrote {run / name}\n" for name in FILES)
    assert report(run) == f"{EXPECTED}\n{wrote}"


def test_rebuilding_gives_the_same_bytes_from_the_folder_alone(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    before = {name: (run / name).read_bytes() for name in FILES}
    for name in FILES:
        (run / name).unlink()
    report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_every_cell_and_variant_is_a_row_and_missing_ones_have_no_figures(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    rows = table(run / "results.csv")
    assert len(rows) == 4 * 4 * 2 + 4  # cells, and a teacher per cell of NAD on attacked models
    late = [r for r in rows if (r["model"], r["method"], r["seed"]) == ("b", "moth", "1")]
    assert [(r["status"], r["reason"], r["asr_after"], r["compared"]) for r in late] == [
        ("timed-out", "no answer", "", "False")
    ]
    first = next(r for r in rows if (r["model"], r["method"], r["seed"]) == ("a", "nad", "0"))
    assert [first[n] for n in ("accuracy_before", "asr_before", "ra_before", "asr_floor")] == [
        "0.9", "0.96", "0.02", "0.01",
    ]  # fmt: skip
    assert [first[n] for n in ("accuracy_after", "accuracy_fall", "asr_after", "ra_after")] == [
        "0.86", "0.04", "0.2", "0.6",
    ]  # fmt: skip
    assert float(first["der"]) == pytest.approx(effectiveness(0.86, 0.2))
    assert (first["compared"], first["figures"], first["seconds"]) == ("True", "pruned=7", "30")


def test_methods_are_compared_on_the_same_models_and_seeds(tmp_path: Path) -> None:
    # Averaged over what each method has, fine-tuning would rest on a cell that MOTH lacks.
    run = study(tmp_path)
    report(run)
    rows = {(r["method"], r["variant"]): r for r in table(run / "methods.csv")}
    assert {(r["models"], r["cells_compared"]) for r in rows.values()} == {("2", "3")}
    # Model a: seeds 0 and 1; model b: seed 0 alone.
    assert float(rows["moth", ""]["asr"]) == pytest.approx(((0.1 + 0.12) / 2 + 0.1) / 2)
    assert (rows["moth", ""]["cells"], rows["moth", ""]["timed_out"]) == ("4", "1")
    left_out = [r for r in table(run / "results.csv") if (r["model"], r["seed"]) == ("b", "1")]
    assert {r["compared"] for r in left_out} == {"False"}


def test_a_method_that_lacks_an_attack_empties_neither_its_table_nor_other_differences(
    tmp_path: Path,
) -> None:
    names = [f"m{number}" for number in range(6)]
    cells: dict[tuple[str, str, int], Made] = {}
    for model in names:
        cells[model, "fine-tuning", 0] = repaired(model, 0.88, 0.5, 0.3)
        cells[model, "nad", 0] = repaired(model, 0.88, 0.2, 0.3)
        cells[model, "anp", 0] = (
            CellOutcome(status="inapplicable", reason="no BatchNorm", seconds=1)
            if model == "m0"
            else repaired(model, 0.88, 0.1, 0.3)
        )
    run = make_removal_run(
        tmp_path, cells, models={**dict.fromkeys(names, "patch"), "m0": "sig"},
        methods=("fine-tuning", "nad", "anp"),
    )  # fmt: skip
    report(run)
    rows = {(r["attack"], r["method"]): r for r in table(run / "attacks.csv")}
    assert (rows["sig", "nad"]["asr"], rows["sig", "anp"]["asr"]) == ("0.2", "")
    differences = {(r["method"], r["figure"]): r for r in table(run / "differences.csv")}
    assert [differences[m, "asr"]["models"] for m in ("nad", "anp")] == ["6", "5"]
    assert {r["models"] for r in table(run / "methods.csv")} == {"5"}


def test_held_out_test_images_that_models_may_know_are_a_note(tmp_path: Path) -> None:
    cells = {("a", "fine-tuning", 0): repaired("a", 0.9, 0.5, 0.4)}
    known = {"models": {"a": "patch"}, "methods": ("fine-tuning",)}
    for test, told in (("", True), ("/t.npz", False)):
        run = make_removal_run(tmp_path / str(told), cells, **known, test=test)
        note = "note: test images were held out of --data: where models were trained on --data"
        assert (note in report(run)) is told


def test_a_method_without_any_result_empties_no_comparison(tmp_path: Path) -> None:
    cells: dict[tuple[str, str, int], Made] = {
        ("a", "fine-tuning", 0): repaired("a", 0.9, 0.5, 0.4),
        ("a", "nad", 0): CellOutcome(status="failed", reason="no tap", seconds=1),
    }
    run = make_removal_run(tmp_path, cells, models={"a": "patch"}, methods=("fine-tuning", "nad"))
    output = report(run)
    assert "means over the 1 model (of 1) and 1 repair per method" in output
    assert "note: nad: no result at all, so in no comparison" in output
    rows = {r["method"]: r for r in table(run / "methods.csv")}
    assert (rows["nad"]["models"], rows["nad"]["asr"], rows["nad"]["failed"]) == ("0", "", "1")
    assert not (run / "controls.csv").exists()


def test_a_model_whose_attack_did_not_take_is_listed_and_in_no_figure(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    data = json.loads((run / "summary.json").read_text())
    assert data["not_implanted"] == {"weak": "its own gate refused the model: ASR 0.1"}
    assert {row["attack"] for row in data["attacks"]} == {"patch", "blended"}
    assert (data["models"], data["models_compared"]) == (2, 2)
    rows = [r for r in table(run / "results.csv") if r["model"] == "weak"]
    assert {(r["status"], r["asr_after"]) for r in rows} == {("not-implanted", "")}


def test_clean_controls_have_a_table_of_their_own_and_no_success_rate(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    rows = table(run / "controls.csv")
    assert [r["method"] for r in rows] == ["none", "fine-tuning", "nad", "moth"]
    assert float(rows[2]["accuracy_fall"]) == pytest.approx(0.04)
    assert not [name for name in rows[0] if "asr" in name]
    own = [r for r in table(run / "results.csv") if r["model"] == "clean"]
    assert {r["asr_after"] for r in own} == {""}


def test_a_method_that_is_told_of_the_truth_is_an_oracle_before_its_first_result(
    tmp_path: Path,
) -> None:
    methods = ("fine-tuning", "nad", "nad:beta=1,target=truth", ORACLE)
    found = work_out_removal(make_removal_run(tmp_path, {}, models={"m": "patch"}, methods=methods))
    assert [line.oracle for line in found.lines] == [False, False, True, True]


def test_what_an_oracle_chose_says_so_everywhere_and_is_not_tested(tmp_path: Path) -> None:
    run = study(tmp_path)
    report(run)
    for name in ("results.csv", "methods.csv", "attacks.csv"):
        told = {r["method"]: r["oracle"] for r in table(run / name)}
        assert told[ORACLE] == "True", name
        assert told["nad"] == "False", name
    for name in ("removal.md", "removal.tex"):
        lines = [line for line in (run / name).read_text().splitlines() if "anp" in line]
        assert lines
        assert all("(oracle)" in line for line in lines), name
    assert "anp" not in {r["method"] for r in table(run / "differences.csv")}
    labels = [line.label for line in work_out_removal(run).lines]
    assert labels[-1] == f"{ORACLE} (oracle)"


def test_differences_are_paired_by_model_and_corrected_for_all_methods(tmp_path: Path) -> None:
    names = [f"m{number}" for number in range(6)]
    cells: dict[tuple[str, str, int], Made] = {}
    for place, model in enumerate(names):
        cells[model, "fine-tuning", 0] = repaired(model, 0.88, 0.5 + 0.05 * place, 0.3)
        uneven = 0.004 * (place % 2) - 0.002
        cells[model, "nad", 0] = repaired(model, 0.88, 0.4 + 0.05 * place + uneven, 0.3)
        cells[model, "moth", 0] = repaired(model, 0.87, 0.1 + 0.05 * place, 0.6)
    run = make_removal_run(
        tmp_path, cells, models=dict.fromkeys(names, "patch"),
        methods=("fine-tuning", "nad", "moth"),
    )  # fmt: skip
    report(run)
    rows = {(r["method"], r["figure"]): r for r in table(run / "differences.csv")}
    nad = rows["nad", "asr"]
    assert (float(nad["difference"]), nad["models"]) == (pytest.approx(-0.1), "6")
    assert float(nad["p"]) == pytest.approx(2 / 2**6)
    assert float(nad["p_corrected"]) == pytest.approx(2 / 2**6)
    # Far more certain than the spread over models would allow without pairing.
    assert -0.1 < float(nad["difference_high"]) < -0.095
    assert rows["nad", "accuracy"]["difference_high"] == ""  # all the same: nothing to draw from
    assert rows["nad", "accuracy"]["p_corrected"] == "1"
    [line] = [r for r in table(run / "methods.csv") if r["method"] == "moth"]
    assert line["interval"] == "expanded percentile bootstrap over 6 models"
    assert float(line["asr_low"]) < float(line["asr"]) < float(line["asr_high"])


def test_a_repair_that_breaks_the_model_shows_beside_its_low_success_rate(tmp_path: Path) -> None:
    cells: dict[tuple[str, str, int], Made] = {
        ("a", "fine-tuning", 0): repaired("a", 0.9, 0.0, 0.05)
    }
    run = make_removal_run(tmp_path, cells, models={"a": "patch"}, methods=("fine-tuning",))
    lines = report(run).splitlines()
    [head] = [line for line in lines if line.startswith("method ")]
    [row] = [line for line in lines if line.startswith("fine-tuning ")]
    assert head.split()[4:6] == ["ASR", "RA"]
    assert row.split()[4:6] == ["0.0%", "5.0%"]


def test_the_reactivation_check_is_a_column_with_its_settings(tmp_path: Path) -> None:
    cells: dict[tuple[str, str, int], Made] = {
        ("a", "fine-tuning", 0): repaired("a", 0.9, 0.1, 0.7, again=0.8)
    }
    run = make_removal_run(
        tmp_path, cells, models={"a": "patch"}, methods=("fine-tuning",), reactivation=5
    )
    output = report(run)
    assert "ASR again" in output
    assert "80.0%" in output
    assert "5 of them stamped and relabelled; SGD 0.01, 5 epochs, batch 128" in output
    [row] = table(run / "results.csv")
    assert (row["reactivated_asr"], row["reactivated_accuracy"]) == ("0.8", "0.8")


def test_names_cannot_steer_a_terminal_a_spreadsheet_or_a_document(tmp_path: Path) -> None:
    name = "=\x1b]0;owned\x07"
    outcome = CellOutcome(status="failed", reason="|x|\n# y", seconds=0)
    run = make_removal_run(
        tmp_path, {(name, "fine-tuning", 0): outcome},
        models={name: r"\input{x}"}, methods=("fine-tuning",),
    )  # fmt: skip
    assert "\x1b" not in report(run)
    assert table(run / "results.csv")[0]["model"].startswith("'=")
    text = (run / "removal.tex").read_text()
    assert r"\input" not in "\n".join(x for x in text.splitlines() if not x.startswith("%"))
    assert "\n# y" not in (run / "removal.md").read_text()


def test_a_run_in_which_nothing_is_done_is_reported_as_such(tmp_path: Path) -> None:
    run = make_removal_run(tmp_path, {}, models={"a": "patch"}, methods=("fine-tuning",))
    assert "a under fine-tuning, seed 0: pending" in report(run)
    assert json.loads((run / "summary.json").read_text())["complete"] is False


def test_a_damaged_card_and_one_of_another_model_are_rows_with_a_reason(tmp_path: Path) -> None:
    run = study(tmp_path)
    (run / "cells" / "a--nad--0" / "removal.json").write_text("{}")
    (run / "cells" / "a--nad--1" / "removal.json").write_text(
        repaired("b", 0.9, 0.1, 0.2, seed=1).model_dump_json()
    )
    report(run)
    rows = [r for r in table(run / "results.csv") if (r["model"], r["method"]) == ("a", "nad")]
    assert [r["status"] for r in rows] == ["unreadable", "unreadable"]
    assert "cannot be read" in rows[0]["reason"]
    assert "is of another model file or seed" in rows[1]["reason"]


def test_the_mean_of_a_line_is_over_models_each_the_mean_of_its_seeds(tmp_path: Path) -> None:
    found = work_out_removal(study(tmp_path))
    results = found.results(Line(method="moth"), found.compared(found.scored))
    assert found.average(results, FIGURES["asr"]).value == pytest.approx(0.105)


@pytest.mark.parametrize(
    "name",
    [
        "RemovalManifest", "AttackedModel", "ReactivationRecord", "RemovalCard", "BeforeRecord",
        "FloorRecord", "RatesRecord", "VariantRecord", "VariantList", "VariantFile",
    ],
)  # fmt: skip
def test_every_field_of_the_records_is_documented(name: str, repository: Path) -> None:
    from moth_eval import removal_records

    text = (repository / "docs" / "removal.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{name}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(getattr(removal_records, name).model_fields)


@pytest.mark.parametrize("file", [name for name in FILES if name.endswith(".csv")])
def test_every_column_is_documented(file: str, tmp_path: Path, repository: Path) -> None:
    run = study(tmp_path)
    report(run)
    header = (run / file).read_text().splitlines()[0].split(",")
    text = (repository / "docs" / "removal.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{file}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`[^|]+) \|", section, re.M)))
    assert documented == header
