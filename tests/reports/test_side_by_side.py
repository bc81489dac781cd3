from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from moth_eval.cli import main
from moth_eval.errors import RunError
from reports.rows import read_run
from reports.side_by_side import SIDE, pair_path, side_by_side
from tests.support.distance_runs import make_distance_run
from tests.support.runs import clean, entry, make_run, poisoned, record, with_triggers


def run_of_two(path: Path) -> Path:
    entries = [entry("natural", clean()), entry("injected", poisoned()), entry("bare", clean())]
    made = [
        with_triggers(path, record(e.name, 3.0, target=2), seed=n)
        for n, e in enumerate(entries[:2])
    ]
    return make_run(path, entries, [*made, record("bare", 1.0)])


def test_two_models_stand_beside_each_other_in_equal_size(tmp_path: Path) -> None:
    run = read_run(run_of_two(tmp_path))
    content = side_by_side(run, ("natural", "injected"))
    assert content == side_by_side(run, ("natural", "injected"))
    drawn = Image.open(io.BytesIO(content))
    assert drawn.height > 3 * SIDE
    assert drawn.width > 2 * SIDE
    other = Image.open(io.BytesIO(side_by_side(run, ("injected", "natural"))))
    assert other.size == drawn.size
    assert other.tobytes() != drawn.tobytes()


def test_the_command_writes_the_picture_and_the_report(tmp_path: Path) -> None:
    run = run_of_two(tmp_path / "run")
    result = CliRunner().invoke(main, ["report", str(run), "--pair", "natural", "injected"])
    assert result.exit_code == 0
    assert result.output.startswith(f"wrote {run / 'pair-natural--injected.png'}\n3 models under")
    again = CliRunner().invoke(main, ["report", str(run)])
    assert again.exit_code == 0
    assert (run / "pair-natural--injected.png").is_file()


def test_pictures_of_long_and_of_similar_names_are_files_of_their_own(tmp_path: Path) -> None:
    run = read_run(run_of_two(tmp_path))
    pairs = [
        ("a b", "c"),
        ("a_b", "c"),
        ("\u6f22" * 78, "\u6f22" * 77 + "a"),
        ("x" * 235, "y" * 235),
    ]
    paths = [pair_path(run, pair) for pair in pairs]
    assert len(set(paths)) == len(pairs)
    for path in paths:
        path.write_bytes(b"a picture")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("natural", "injcted"), "has no model 'injcted'; did you mean 'injected'?"),
        (("natural", "bare"), "left triggers of both 'natural' and 'bare': nothing to show"),
    ],
)
def test_what_cannot_be_shown_is_an_error(
    models: tuple[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=message.replace("?", r"\?")):
        side_by_side(read_run(run_of_two(tmp_path)), models)


def test_other_runs_have_no_triggers_per_model(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path / "run", {(0, 1): [12.0]})
    result = CliRunner().invoke(main, ["report", str(run), "--pair", "a", "b"])
    assert result.exit_code == 2
    assert "is no run of trojai, which alone has triggers per model" in result.output
