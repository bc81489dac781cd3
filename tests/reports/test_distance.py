from __future__ import annotations

import hashlib
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from PIL import Image

from moth_eval.cli import main
from moth_eval.distance_records import DistanceFolder
from moth_eval.errors import RunError
from reports.distance_pictures import read_trigger
from tests.support.distance_runs import make_distance_run

DISTANCES = {
    (0, 1): (40.0, 30.5, None),
    (1, 0): (60.0, 70.0, 65.0),
    (2, 3): (None, None, None),
    (3, 0): (12.25, 90.0, 91.0),
}
FILES = ("distance.csv", "distance.json", "distance.png", "distance.svg", "triggers.png")

SUMMARY = """\
class distances of net: preset fast, 3 seeds, 100 images per source class
3 of 4 pairs have a distance, 1 failed, 0 pending
mean 34.25, median 30.50, smallest 12.25 (3 -> 0), largest 60.00 (1 -> 0); sum of the mask over all channels
failed: 2 -> 3; no seed found a trigger with an ASR of 90%, and no figure counts them
"""  # noqa: E501 - the output is exact


def report(run: Path, *more: str) -> str:
    result = CliRunner().invoke(main, ["report", str(run), *more])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_prints_the_summary_and_what_it_wrote(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path / "run", DISTANCES)
    wrote = "".join(f"wrote {run / name}\n" for name in FILES)
    assert report(run) == f"{SUMMARY}\n{wrote}"


def test_the_table_has_a_row_per_source_and_empty_cells_where_there_is_no_distance(
    tmp_path: Path,
) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    report(run)
    assert (run / "distance.csv").read_text() == (
        "source,0,1,2,3\n0,,30.5,,\n1,60,,,\n2,,,,\n3,12.25,,,\n"
    )


def test_the_data_hold_every_seed_and_no_made_up_figure(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    printed = json.loads(report(run, "--json"))
    data = json.loads((run / "distance.json").read_text())
    assert data == printed
    assert data["complete"] is True
    assert data["failed_pairs"] == [[2, 3]]
    assert data["summary"]["mean"] == pytest.approx((30.5 + 60 + 12.25) / 3)
    assert data["summary"]["measured"] == 3
    failed = next(pair for pair in data["pairs"] if pair["source"] == 2)
    assert failed["distance"] is None
    assert [seed["distance"] for seed in failed["seeds"]] == [None, None, None]
    first = data["pairs"][0]["seeds"]
    assert [(seed["seed"], seed["distance"], seed["valid"]) for seed in first] == [
        (1, 40.0, True), (2, 30.5, True), (3, None, False),
    ]  # fmt: skip
    assert data["protocol"]["samples"] == 100
    assert data["provenance"]["sha256"] == "ab" * 32
    assert data["seconds"] == 1.5


def test_rebuilding_gives_the_same_bytes_from_the_folder_alone(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    report(run)
    before = {name: (run / name).read_bytes() for name in FILES}
    for name in FILES:
        (run / name).unlink()
    report(run)
    assert {name: (run / name).read_bytes() for name in FILES} == before


def test_the_pictures_are_pictures_and_the_smallest_pair_comes_first(tmp_path: Path) -> None:
    from reports.distance import work_out_distance

    run = make_distance_run(tmp_path, DISTANCES)
    found = work_out_distance(run)
    kept = [(t.record.source, t.record.target, t.record.seed) for t in found.triggers]
    assert kept == [(3, 0, 1), (0, 1, 2), (1, 0, 1)]
    report(run)
    for name in ("distance.png", "triggers.png"):
        with Image.open(run / name) as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 5
    assert ET.parse(run / "distance.svg").getroot().tag.endswith("svg")  # noqa: S314 - made above


def test_the_stamped_picture_is_the_image_under_the_trigger(tmp_path: Path) -> None:
    from reports.distance import work_out_distance

    trigger = work_out_distance(make_distance_run(tmp_path, DISTANCES)).triggers[0]
    image, mask, pattern, stamped = trigger.pictures
    assert image.shape == stamped.shape == (8, 8, 3)
    np.testing.assert_allclose(stamped, image + mask[..., None] * (pattern - image), atol=1e-6)


def test_pairs_that_are_not_finished_are_pending_and_left_out(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, {**DISTANCES, (2, 0): (3.0, 4.0)})
    output = report(run)
    assert "3 of 5 pairs have a distance, 1 failed, 1 pending" in output
    advice = "to measure them, name them with --pairs, or leave --pairs out"
    assert f"pending: 2 -> 0; {advice}" in output
    assert "mean 34.25" in output
    data = json.loads((run / "distance.json").read_text())
    assert (data["complete"], data["pending_pairs"]) == (False, [[2, 0]])


def test_a_run_without_any_distance_is_reported_as_such(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, {(0, 1): (None, None, None)})
    (run / "triggers.png").write_bytes(b"of an earlier report")
    output = report(run)
    assert "0 of 1 pair have a distance, 1 failed, 0 pending" in output
    assert "mean" not in output
    assert not (run / "triggers.png").exists()
    assert json.loads((run / "distance.json").read_text())["summary"]["mean"] is None


def test_fewer_images_and_doubts_are_said_and_cannot_steer_the_terminal(tmp_path: Path) -> None:
    run = make_distance_run(
        tmp_path, DISTANCES, samples=40, name="\x1b]0;owned\x07", doubts=("low accuracy",)
    )
    output = report(run)
    assert "all were used: class 0 (40), 1 (40), 2 (40), 3 (40)" in output
    assert "doubt: low accuracy" in output
    assert "\x1b" not in output


def test_a_trigger_that_is_not_the_one_that_was_written_is_not_drawn(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    (run / "triggers" / "3-0-1.npz").write_bytes(b"something else")
    (run / "triggers" / "0-1-2.npz").unlink()
    output = report(run)
    assert "not drawn: triggers/3-0-1.npz is not the file that the run wrote" in output
    assert "not drawn: triggers/0-1-2.npz cannot be read" in output
    assert (run / "triggers.png").is_file()


def test_a_stability_study_shows_means_and_deviations(tmp_path: Path) -> None:
    run = make_distance_run(
        tmp_path, {(0, 1): (10.0, 14.0), (1, 0): (30.0, 38.0)}, seeds=(7, 8), stability_sets=2
    )
    output = report(run)
    assert "preset fast, 2 sets of images" in output
    assert "mean 23.00" in output
    assert "over 2 sets: one pair moves by 4.24 (standard deviation, mean of all pairs)" in output
    assert (run / "distance.csv").read_text().splitlines()[1] == "0,,12,,"
    assert (run / "distance-std.csv").read_text().splitlines()[1] == "0,,2.82843,,"
    data = json.loads((run / "distance.json").read_text())
    assert data["stability"]["sets"] == 2
    assert data["stability"]["pairs"][1]["deviation"] == pytest.approx(32**0.5)


def test_a_torn_last_line_is_ignored_and_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    from moth_eval.distance_records import DistanceFolder

    torn = make_distance_run(tmp_path / "torn", DISTANCES, tail=b'01234567 {"source":1')
    assert len(DistanceFolder(torn).records()) == 12
    damaged = make_distance_run(tmp_path / "damaged", DISTANCES, tail=b"01234567 {}\n")
    with pytest.raises(RunError, match=r"sitting-0\.jsonl, line 13 is damaged"):
        DistanceFolder(damaged).records()


def test_a_damaged_manifest_is_an_input_error(tmp_path: Path) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    (run / "run.json").write_text('{"kind": "distance"}')
    result = CliRunner().invoke(main, ["report", str(run)])
    assert result.exit_code == 2
    assert "cannot be read as the manifest of a distance run" in result.output


@pytest.mark.parametrize("name", ["DistanceManifest", "ProtocolRecord", "DistanceRecord"])
def test_every_field_of_the_records_is_documented(name: str, repository: Path) -> None:
    from moth_eval import distance_records

    text = (repository / "docs" / "distance.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{name}`\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(getattr(distance_records, name).model_fields)


def test_every_key_of_the_data_is_documented(tmp_path: Path, repository: Path) -> None:
    run = make_distance_run(tmp_path, DISTANCES)
    report(run)
    text = (repository / "docs" / "distance.md").read_text(encoding="utf-8")
    section = text.partition("`distance.json` holds:\n")[2].partition("\n#")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(json.loads((run / "distance.json").read_text()))


@pytest.mark.parametrize(
    "arrays",
    [
        {"mask": np.zeros((1, 4, 8), np.float32)},
        {"pattern": np.zeros((1, 8, 8), np.float32)},
        {"image": np.zeros(3, np.float32)},
        {"image": np.array("text")},
        {},
    ],
)
def test_arrays_that_do_not_fit_are_told_and_not_drawn(
    arrays: dict[str, npt.NDArray[Any]], tmp_path: Path
) -> None:
    run = make_distance_run(tmp_path, {(0, 1): (5.0,)}, seeds=(1,))
    [record] = DistanceFolder(run).records().values()
    fitting = {"mask": (1, 8, 8), "pattern": (3, 8, 8), "image": (3, 8, 8)}
    content = {name: np.zeros(shape, np.float32) for name, shape in fitting.items()}
    np.savez(run / record.trigger_file, **({**content, **arrays} if arrays else {}))
    digest = hashlib.sha256((run / record.trigger_file).read_bytes()).hexdigest()
    with pytest.raises(RunError, match="is malformed"):
        read_trigger(run, record.model_copy(update={"trigger_sha256": digest}))
