from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from moth_eval.cli import main
from moth_eval.errors import RunError
from tests.support.honesty_runs import ATTACK, CHECKS, make_honesty_run

TABLES = ("honesty.csv", "growth.csv", "robust-accuracy.csv", "patches.csv")
FIGURES = tuple(
    f"{name}.{kind}" for name in ("growth", "robust-accuracy", "patches") for kind in ("png", "svg")
)
FILES = (*TABLES, "honesty.json", *FIGURES)

SUMMARY = """\
net before, new after: 3 pairs of classes, 2 restarts, 20 images per source class
accuracy 90.00% -> 85.00% on 100 images, difference -10.0% to +0.0%, p = 0.12
mask-and-pattern: distances x 4 (mean increase +300.0%) over 2 pairs; without a trigger: 0 before, 1 after, of 3 pairs
  counting triggers of the other network: x 4 (mean increase +300.0%) over 2 pairs
  ASR on the other network: 40% of triggers found before, 50% of those found after
  median / smallest of the restarts: 1.1 before, 1.12 after
signed-pixels: distances x 2 (mean increase +100.0%) over 3 pairs; without a trigger: 0 before, 0 after, of 3 pairs
  counting triggers of the other network: x 2 (mean increase +100.0%) over 3 pairs
  ASR on the other network: 40% of triggers found before, 0% of those found after
  median / smallest of the restarts: 1.1 before, 1 after
growth under mask-and-pattern / growth under signed-pixels: 2
robust accuracy, epsilon 8/255: 10.0% (5.5% to 17.4%) -> 25.0% (17.5% to 34.3%)
ASR of solid patches by side in pixels: 2: 20% -> 0%, 6: 90% -> 60%
ASR of crop patches by side in pixels: 2: 20% -> 0%, 6: 90% -> 60%
note: no pairs were named: every ordered pair
"""  # noqa: E501 - the output is exact


def report(run: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), *more])
    assert result.exit_code == 0, result.output
    return result.output


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path / "run")
    wrote = "".join(f"wrote {run / name}\n" for name in FILES)
    assert report(run) == f"{SUMMARY}\n{wrote}"


def test_rebuilding_gives_the_same_bytes_from_the_folder_alone(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    before = {name: (run / name).read_bytes() for name in FILES}
    for name in FILES:
        (run / name).unlink()
    report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_a_report_needs_no_torch(tmp_path: Path, repository: Path) -> None:
    run = make_honesty_run(tmp_path)
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom moth_eval.cli import main\n"
        f"result = CliRunner().invoke(main, ['report', {str(run)!r}])\n"
        "assert result.exit_code == 0, result.output\nsys.exit('torch' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=repository, check=False)
    assert made.returncode == 0
    assert (run / "patches.svg").is_file()


def test_growth_has_a_line_per_inverter_and_pair_and_empty_cells_without_a_trigger(
    tmp_path: Path,
) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    lines = (run / "growth.csv").read_text().splitlines()
    assert lines[1:4] == [
        "mask-and-pattern,0,1,10,40,4,4,2,2,0.2,2,2,0.9",
        "mask-and-pattern,1,2,20,80,4,4,2,2,0.4,2,1,0.1",
        "mask-and-pattern,2,0,30,,,,2,2,0.6,2,0,",
    ]
    assert len(lines) == 7


def test_robust_accuracy_has_a_line_for_all_images_and_one_per_class_with_images(
    tmp_path: Path,
) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    lines = lines_of(run / "robust-accuracy.csv")
    assert [(line["class"], line["n"], line["before"], line["after"]) for line in lines] == [
        ("", "100", "0.1", "0.25"), ("0", "40", "0.1", "0.25"), ("1", "60", "0.1", "0.25"),
    ]  # fmt: skip
    assert float(lines[0]["before_low"]) == pytest.approx(0.0552, abs=1e-3)
    assert float(lines[0]["before_high"]) == pytest.approx(0.1744, abs=1e-3)


def test_patches_have_a_line_per_size_and_one_per_pair_without_bounds(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    lines = lines_of(run / "patches.csv")
    assert len(lines) == 2 * 2 * (1 + 3)
    total, *pairs = lines[4:8]
    assert (total["kind"], total["size"], total["source"], total["n"]) == ("solid", "6", "", "30")
    assert (total["before"], total["after"]) == ("0.9", "0.6")
    assert [(p["source"], p["target"], p["n"], p["after"], p["after_low"]) for p in pairs] == [
        ("0", "1", "10", "0.3", ""), ("1", "2", "10", "0.6", ""), ("2", "0", "10", "0.9", ""),
    ]  # fmt: skip


def test_the_headline_table_sums_every_check_up(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    found = {
        (line["check"], line["measure"]): (line["value"], line["n"])
        for line in lines_of(run / "honesty.csv")
    }
    assert found["accuracy", "accuracy_after"] == ("0.85", "100")
    assert found["accuracy", "difference"] == ("-0.05", "100")
    assert found["mask-and-pattern", "growth_factor"] == ("4", "2")
    assert found["mask-and-pattern", "missed_after"] == ("1", "3")
    assert found["inverters", "growth_ratio"] == ("2", "")
    assert found["pgd 8/255", "robust_accuracy_after"] == ("0.25", "100")
    assert found["patches crop", "asr_6_after"] == ("0.6", "30")


def test_the_data_hold_every_restart_and_the_provenance(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path)
    printed = json.loads(report(run, "--json"))
    assert json.loads((run / "honesty.json").read_text()) == printed
    assert printed["complete"] is True
    assert printed["growth_ratio"] == pytest.approx(2)
    first = printed["inverters"][0]
    assert first["pairs"][1]["after"]["sizes"] == [80.0, None]
    assert first["derived"]["growth"]["left_out"] == 1
    assert printed["seconds"] == 9.0
    assert (printed["forward_passes"], printed["backward_passes"]) == (1200, 600)
    assert printed["provenance"]["before"]["sha256"] == "ab" * 32
    assert printed["provenance"]["after"]["sha256"] == "cd" * 32


def test_an_unfinished_run_is_told_and_has_no_files_of_open_checks(tmp_path: Path) -> None:
    run = make_honesty_run(tmp_path, finished=CHECKS)
    report(run)
    for name in ("signed-pixels", "pgd-0", "patches-solid", "patches-crop"):
        (run / "checks" / f"{name}.json").unlink()
    text = report(run)
    open_checks = "signed-pixels, pgd-0, patches-solid, patches-crop"
    assert f"pending: {open_checks}; the same command makes them\n" in text
    assert {p.name for p in run.iterdir()} == {
        "run.json", "checks", "honesty.csv", "honesty.json", "growth.csv", "growth.png",
        "growth.svg",
    }  # fmt: skip
    data = json.loads((run / "honesty.json").read_text())
    assert (data["complete"], data["growth_ratio"]) == (False, None)


def test_the_figures_are_pictures_and_show_what_differs(tmp_path: Path) -> None:
    from reports.honesty import work_out_honesty
    from reports.honesty_pictures import curves_figure

    run = make_honesty_run(tmp_path)
    report(run)
    for name in FIGURES:
        if name.endswith(".svg"):
            assert ET.parse(run / name).getroot().tag.endswith("svg")  # noqa: S314 - made above
        else:
            with Image.open(run / name) as picture:
                assert len(np.unique(np.asarray(picture.convert("L")))) > 5
    [curve, _] = work_out_honesty(run).curves
    swapped = curve.model_copy(update={"before": curve.after, "after": curve.before})
    assert curves_figure([curve], kind="png") != curves_figure([swapped], kind="png")


def test_names_in_records_are_drawn_as_they_are(tmp_path: Path) -> None:
    from reports.honesty import work_out_honesty
    from reports.honesty_pictures import curves_figure, growth_figure

    found = work_out_honesty(make_honesty_run(tmp_path))
    name = r"$\frac$"  # an error where it is taken for a formula
    assert growth_figure([replace(one, inverter=name) for one in found.inverters], kind="svg")
    curves = [one.model_copy(update={"kind": name}) for one in found.curves]
    assert curves_figure(curves, kind="svg")


@pytest.mark.parametrize(
    ("epsilon", "name"), [(8 / 255, "8/255"), (0.5, "0.5"), (1.0, "1"), (0.0123456, "0.01235")]
)
def test_attacks_are_called_as_they_are_asked_for(epsilon: float, name: str) -> None:
    from moth_eval.honesty_records import AttackRecord
    from reports.honesty_tables import attack_name

    assert attack_name(AttackRecord.model_validate({**ATTACK, "epsilon": epsilon})) == name


def test_a_name_that_acts_on_a_terminal_is_spelled_out(tmp_path: Path) -> None:
    from tests.support.honesty_runs import manifest

    after = manifest().after.model_copy(update={"name": "new\x1b[2J", "doubts": ("odd\u202e",)})
    text = report(make_honesty_run(tmp_path, after=after))
    assert r"new\x1b[2J after" in text
    assert r"doubt about after: odd\u202e" in text


def test_damaged_files_are_errors_that_name_them(tmp_path: Path) -> None:
    from moth_eval.honesty_records import HonestyFolder

    run = make_honesty_run(tmp_path)
    file = run / "checks" / "pgd-0.json"
    whole = file.read_text()
    file.write_text(whole.replace('"pgd-0"', '"pgd-1"'))
    with pytest.raises(RunError, match=r"pgd-0\.json holds the check 'pgd-1', expected 'pgd-0'"):
        HonestyFolder(run).records()
    file.write_text(whole[:-20])
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 2
    assert "pgd-0.json cannot be read as a CheckRecord" in result.output
    (run / "run.json").write_text('{"kind": "honesty"}')
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 2
    assert "cannot be read as the manifest of a run of honesty checks" in result.output


def section(repository: Path, title: str) -> list[str]:
    """Code words in the first column of the table under a heading of the page."""
    text = (repository / "docs" / "honesty.md").read_text(encoding="utf-8")
    part = text.partition(f"\n### `{title}`\n")[2].partition("\n#")[0]
    return re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)


@pytest.mark.parametrize(
    "name", ["HonestyManifest", "NetworkRecord", "ChecksRecord", "CheckRecord"]
)
def test_every_field_of_the_records_is_documented(name: str, repository: Path) -> None:
    from moth_eval import honesty_records

    assert section(repository, name) == list(getattr(honesty_records, name).model_fields)


@pytest.mark.parametrize("name", TABLES)
def test_every_column_is_documented(name: str, tmp_path: Path, repository: Path) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    assert section(repository, name) == (run / name).read_text().splitlines()[0].split(",")


def test_every_key_of_the_data_is_documented(tmp_path: Path, repository: Path) -> None:
    run = make_honesty_run(tmp_path)
    report(run)
    text = (repository / "docs" / "honesty.md").read_text(encoding="utf-8")
    part = text.partition("`honesty.json` holds:\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert documented == list(json.loads((run / "honesty.json").read_text()))
