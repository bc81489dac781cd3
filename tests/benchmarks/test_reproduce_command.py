from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.reproducing import Cell, Figure
from benchmarks.study_files import line_of_options
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.records import LEDGER, RunFolder
from tests.support.runs import entry, make_run, record
from tests.support.subjects import write_prototype_round

ARCH = "tests.support.subjects:prototype_network"
MOTH = (
    "moth:rounds=2,warm_up_rounds=1,warm_up_steps=20,fresh_steps=20,inversion_images=8,"
    "inversion_batch=8,pairs_per_round=2,stamped=2,clean=10,recipe.shift=0"
)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in arguments])


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reproduced") / "models"
    write_prototype_round(folder, models=2)
    return folder


@pytest.fixture(scope="module")
def scans(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("scans") / "run"
    result = invoke(
        "trojai", "--models", models, "--scanner", "nc:max_images=30", "--arch", ARCH,
        "--device", "cpu", "--seed", 5, "--out", run,
    )  # fmt: skip
    assert result.exit_code == 1, result.output
    return run


def test_a_scan_comes_out_as_the_first_time(scans: Path, models: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in scans.rglob("*") if p.is_file()}
    result = invoke("reproduce", scans, "model-1", "--out", tmp_path / "again", "--trust-run")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == (
        f"$ moth-eval trojai --models={models} --scanner=nc:max_images=30 "
        f"--out={tmp_path / 'again'} --arch={ARCH} --only=model-1 --device=cpu --seed=5"
    )
    assert any(line.startswith("  score ") and " -> " in line for line in lines)
    assert not [line for line in lines if line.startswith("!")]
    assert {p: p.read_bytes() for p in scans.rglob("*") if p.is_file()} == before
    [one] = RunFolder(tmp_path / "again").records().values()
    assert (one.model, one.seed) == ("model-1", 5)
    assert one.key in RunFolder(scans).records()


def test_a_result_that_was_changed_is_noticed(scans: Path, tmp_path: Path) -> None:
    folder = RunFolder(scans)
    changed = [
        one.model_copy(update={"score": 99.0, "target": 1}) for one in folder.records().values()
    ]
    make_run(tmp_path / "run", folder.manifest().entries, changed)
    folder_again = RunFolder(tmp_path / "run")
    folder_again.write_manifest(folder.manifest())
    assert list((tmp_path / "run" / LEDGER).iterdir())
    result = invoke("reproduce", tmp_path / "run", "model-1/nc:max_images=30", "--trust-run")
    assert result.exit_code == 1, result.output
    assert "! score" in result.output
    assert "! suspected target" in result.output
    assert "  clean accuracy" in result.output


def test_a_cell_of_a_hardening_study_comes_out_as_the_first_time(
    models: Path, tmp_path: Path
) -> None:
    study = invoke(
        "hardening", "--models", models, "--only", "model-0", "--data", models / "model-0.npz",
        "--method", MOTH, "--share", 0.5, "--distance-pairs", 1, "--arch", ARCH, "--device", "cpu",
        "--threads", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert study.exit_code == 0, study.output
    result = invoke("reproduce", tmp_path / "run", f"model-0/{MOTH}/0", "--trust-run")
    assert result.exit_code == 0, result.output
    assert "accuracy after" in result.output


def test_a_distance_comes_out_as_the_first_time(models: Path, tmp_path: Path) -> None:
    invoke(
        "distance", models / "model-0.safetensors", "--examples", models / "model-0.npz",
        "--arch", ARCH, "--pairs", "0-1,1-0", "--seeds", "1,2", "--device", "cpu",
        "--out", tmp_path / "run",
    )  # fmt: skip
    result = invoke("reproduce", tmp_path / "run", "1-0", "--trust-run")
    assert result.exit_code == 0, result.output
    assert "  distance under seed 1" in result.output
    assert "  distance under seed 2" in result.output


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("model-9", "has no cell 'model-9'; did you mean 'model-"),
        ("model-1/mc", "has no cell 'model-1/mc'; did you mean"),
    ],
)
def test_a_cell_that_is_not_there_is_an_input_error(cell: str, message: str, scans: Path) -> None:
    result = invoke("reproduce", scans, cell)
    assert result.exit_code == 2
    assert message in result.output


def test_a_cell_without_a_result_and_a_folder_without_a_run_are_input_errors(
    tmp_path: Path,
) -> None:
    call = ("moth-eval", "trojai", "--models", "round")
    run = make_run(tmp_path / "run", [entry("a"), entry("b")], [record("a", 1.0)], command=call)
    result = invoke("reproduce", run, "b")
    assert result.exit_code == 2
    assert "b under nc has no result" in result.output
    assert invoke("reproduce", tmp_path, "b").exit_code == 2


FOREIGN = {
    "detector": (["--detector", "touch {flag}"], "detector: touch {flag}"),
    "arch": (["--arch", "foreign_run.evil"], "nc"),
    "beside": (["--arch=classification:resnet18"], "nc"),
    "factory": (["--arch", "moth_eval.networks:torch.hub.load"], "nc"),
    "engine": (["--engine", "ray"], "nc"),
    "address": (["--address", "evil.example:6379"], "nc"),
}
"""Kind -> what the command line of a run from elsewhere asks for, and its scanner."""


def foreign_run(folder: Path, models: Path, kind: str) -> tuple[Path, str]:
    """A run folder that somebody else made, with code of theirs inside; and its scanner."""
    words, scanner = FOREIGN[kind]
    flag = str(folder / "ran")
    scanner = scanner.format(flag=flag)
    call = ("moth-eval", "trojai", "--models", str(models), *(w.format(flag=flag) for w in words))
    run = folder / "foreign_run"
    made = record("model-1", 1.0, scanner=scanner)
    make_run(
        run, [entry("model-1", keys={scanner: made.key})], [made],
        command=call, models=str(models), scanners=(scanner,),
    )  # fmt: skip
    for place in (run / "evil.py", folder / "classification.py"):
        place.write_text(f"open({flag!r}, 'w').close()\ndef net(): ...\ndef resnet18(): ...\n")
    return run, scanner


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_run_from_elsewhere_runs_no_program_or_code_and_reaches_no_machine(
    kind: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scanner = foreign_run(tmp_path, models, kind)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    result = invoke("reproduce", run, f"model-1/{scanner}")
    assert result.exit_code == 2, result.output
    asked = " ".join(FOREIGN[kind][0]).format(flag=tmp_path / "ran").replace("=", " ")
    assert f"the record of the run asks for {asked}: " in result.output
    assert result.output.startswith("$ moth-eval trojai ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_code_inside_a_run_is_not_imported_although_the_run_is_trusted(
    inside: bool, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, scanner = foreign_run(tmp_path, models, "arch")
    monkeypatch.chdir(run if inside else tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    result = invoke("reproduce", run, f"model-1/{scanner}", "--trust-run")
    assert result.exit_code == 2, result.output
    assert ("lies in the run folder" if inside else "lies in the untrusted folder") in result.output
    assert not (tmp_path / "ran").exists()


def test_networks_that_come_with_us_need_no_trust() -> None:
    for name in ("resnet18", "vit_base_patch32_224", "moth_eval.networks:small_vgg"):
        Cell(command="trojai", options={"arch": name}, figures=dict).require_ours()


@pytest.mark.parametrize("option", ["data", "test", "examples"])
def test_data_sets_that_torchvision_unpickles_need_trust(option: str) -> None:
    options = {"models": "m", option: "torchvision:LSUN:/run/of/others"}
    with pytest.raises(InputError, match=f"--{option} torchvision:LSUN:/run/of/others: "):
        Cell(command="removal", options=options, figures=dict).require_ours()
    Cell(command="removal", options={option: "data.npz"}, figures=dict).require_ours()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (("moth-eval", "trojai", "--help"), "carries nothing out"),
        (("moth-eval", "harden", "--help"), "carries nothing out"),
        (("moth-eval", "runs", "rm"), "expected a call of one of"),
    ],
)
def test_a_record_that_is_no_call_is_an_input_error(
    call: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", [entry("a")], [record("a", 1.0)], command=call)
    result = invoke("reproduce", run, "a")
    assert result.exit_code == 2
    assert message in result.output


def test_options_of_another_command_are_an_input_error() -> None:
    with pytest.raises(InputError, match="generate_so_many is no option of moth-eval trojai"):
        line_of_options("trojai", {"models": "x", "generate_so_many": 3})


def test_only_models_that_are_there_are_asked_for(models: Path, tmp_path: Path) -> None:
    result = invoke("trojai", "--models", models, "--only", "model-7", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--only: there is no model 'model-7'; did you mean 'model-" in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("before", "now", "agrees"),
    [
        (1.0, 1.009, True), (1.0, 1.02, False), (0.0, 0.0, True), (-1.0, 1.0, False), (3, 4, False),
        (None, 1.0, False), (None, None, True), ("a", "a", True), (1.0, "1.0", False),
    ],
)  # fmt: skip
def test_numbers_agree_up_to_the_tolerance(before: object, now: object, agrees: bool) -> None:
    figure = Figure(name="x", before=before, now=now)  # type: ignore[arg-type]
    assert figure.agrees(0.01) is agrees
