from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reports.evaluation import UNNAMED
from reports.rows import read_run
from reports.summary import summary_lines
from tests.support.runs import build_reports, clean, entry, large_run, make_run, poisoned, record

ROC = ("roc.csv", "roc.png", "roc.svg")


def files(run: Path) -> dict[str, bytes]:
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def two_classes(path: Path) -> Path:
    entries = [entry(f"c{i}", clean()) for i in range(3)]
    entries += [entry(f"p{i}", poisoned()) for i in range(3)]
    return make_run(path, entries, [record(e.name, float(i)) for i, e in enumerate(entries)])


def no_truth(path: Path) -> Path:
    return make_run(path, [entry("a"), entry("b")], [record("a", 1.0), record("b", 3.0)])


def only_failures(path: Path) -> Path:
    return make_run(path, [entry("a", clean()), entry("b", poisoned())], [record("a"), record("b")])


def one_class(path: Path) -> Path:
    entries = [entry("a", clean()), entry("b", clean())]
    return make_run(path, entries, [record("a", 1.0), record("b", 3.0)])


def nothing_yet(path: Path) -> Path:
    return make_run(path, [entry("a", clean()), entry("b", poisoned())], [])


def no_models(path: Path) -> Path:
    return make_run(path, [], [])


@pytest.mark.parametrize(
    "make", [two_classes, no_truth, only_failures, one_class, nothing_yet, no_models]
)
def test_rebuilding_changes_no_byte(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    run = make(tmp_path / "run")
    written = build_reports(run)
    first = files(run)
    for path in written:
        path.unlink()
    assert build_reports(run) == written
    assert files(run) == first


ELSEWHERE = """
import sys
from pathlib import Path
from reports.build import work_out, write_reports
write_reports(work_out(Path(sys.argv[1])))
banned = {"torch", "torchvision", "scanners", "attacks", "benchmarks"} & set(sys.modules)
sys.exit(f"imported {banned}" if banned else 0)
"""


def test_another_process_writes_the_same_bytes_without_torch_or_an_algorithm(
    tmp_path: Path, repository: Path
) -> None:
    run = large_run(tmp_path / "run", 4)
    copy = Path(shutil.copytree(run, tmp_path / "elsewhere" / "copy"))
    build_reports(run)
    command = [sys.executable, "-c", ELSEWHERE, str(copy)]
    done = subprocess.run(command, cwd=repository, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert files(copy) == files(run)


def test_everything_written_is_named_and_the_page_comes_last(tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", 6)
    before = set(files(run))
    written = [path.relative_to(run).as_posix() for path in build_reports(run)]
    assert set(files(run)) - before == set(written)
    assert written[-1] == "report.html"
    assert {"results.csv", "metrics.csv", "confusion.csv", *ROC} < set(written)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (no_truth, "there are 0 clean and 0 poisoned"),
        (only_failures, "there are 0 clean and 0 poisoned"),
        (one_class, "there are 2 clean and 0 poisoned"),
        (nothing_yet, "there are 0 clean and 0 poisoned"),
    ],
)
def test_without_both_classes_there_is_no_roc_and_the_summary_says_why(
    tmp_path: Path, make: Callable[[Path], Path], why: str
) -> None:
    run = make(tmp_path / "run")
    build_reports(run)
    assert not any((run / name).exists() for name in (*ROC, "confusion.csv"))
    assert any("no ROC" in line and why in line for line in summary_lines(run))
    assert why in (run / "report.html").read_text(encoding="utf-8")


def test_files_that_no_longer_belong_are_removed(tmp_path: Path) -> None:
    run = two_classes(tmp_path / "run")
    build_reports(run)
    assert (run / "roc.png").is_file()
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    no_truth(run)
    build_reports(run)
    assert not any((run / name).exists() for name in (*ROC, "confusion.csv"))
    assert (run / "notes.txt").is_file()


def test_figures_carry_no_date(tmp_path: Path) -> None:
    run = two_classes(tmp_path / "run")
    build_reports(run)
    assert b"tEXt" not in (run / "roc.png").read_bytes()
    assert b"dc:date" not in (run / "roc.svg").read_bytes()


def test_poisoned_models_without_a_named_type_are_a_type_of_their_own(tmp_path: Path) -> None:
    entries = [entry("a", clean()), entry("b", poisoned("")), entry("c", poisoned("patch"))]
    run = make_run(tmp_path, entries, [record(e.name, 1.0) for e in entries])
    build_reports(run)
    lines = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[1] for line in lines] == ["all", "patch", UNNAMED]


def test_rows_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    entries = [entry("z"), entry("a"), entry("m")]
    run = make_run(tmp_path, entries, [record("a", 1.0)], scanners=("nc", "other"))
    assert [(r.model, r.scanner) for r in read_run(run).rows] == [
        (name, scanner) for name in "zam" for scanner in ("nc", "other")
    ]
