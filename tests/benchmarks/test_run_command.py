from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

from benchmarks.study_files import (
    STUDY_COMMANDS,
    as_toml,
    command_line,
    key_of,
    options_model,
    read_study,
    repeated,
)
from moth_eval.cli import load_command, main
from moth_eval.errors import InputError
from moth_eval.records import RunFolder
from reports.tables import TIMING_COLUMNS
from tests.support.runs import entry, make_run, record
from tests.support.subjects import write_prototype_round

STUDY = """
[trojai]
models = "round2"
scanner = [{ name = "nc", statistic = "size" }, "nc"]
jobs = 2
timeout = 600
require_sandbox = true
out = "runs/round2"

[hardening]
models = "nets"
data = "images.npz"
method = { name = "moth", rounds = 3, recipe = { flip = true, largest_gradient = "none" } }
seeds = [0, 1]
out = "runs/table"

[distance]
model = "-net.pt"
pairs = "0-1"
out = "runs/distance"
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def study(tmp_path: Path, text: str) -> Path:
    (tmp_path / "study.toml").write_text(text)
    return tmp_path / "study.toml"


def test_a_file_becomes_the_command_lines_that_it_describes(tmp_path: Path) -> None:
    assert read_study(study(tmp_path, STUDY)) == [
        ("trojai", [
            "--models=round2", "--scanner=nc:statistic=size", "--scanner=nc", "--out=runs/round2",
            "--require-sandbox", "--jobs=2", "--timeout=600.0",
        ]),
        ("hardening", [
            "--models=nets", "--data=images.npz",
            "--method=moth:rounds=3,recipe.flip=true,recipe.largest_gradient=none", "--seeds=0,1",
            "--out=runs/table",
        ]),
        ("distance", ["--pairs=0-1", "--out=runs/distance", "--", "-net.pt"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("seeds", "said"), [("[7]", "7,"), ("[7, 8]", "7,8"), ("3", "3")])
def test_a_list_of_one_seed_is_that_seed_and_no_count(
    seeds: str, said: str, tmp_path: Path
) -> None:
    text = f'[removal]\nmodels = "m"\ndata = "d.npz"\nout = "x"\nseeds = {seeds}\n'
    [(word, line)] = read_study(study(tmp_path, text))
    assert (word, [w for w in line if "seeds" in w]) == ("removal", [f"--seeds={said}"])


def test_a_dry_run_prints_the_commands_and_does_nothing(tmp_path: Path) -> None:
    result = run(study(tmp_path, '[distance]\nmodel = "my net.pt"\nout = "x"\n'), "--dry")
    assert result.exit_code == 0
    assert result.output == "$ moth-eval distance --out=x -- 'my net.pt'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trojan]\n", "trojan is unknown: did you mean 'trojai'?"),
        ("[xyz]\n", "xyz is unknown: expected one of generate, calibrate, scan"),
        ('[trojai]\nmodels = "x"\ntime_out = 3\n', "time_out is unknown: did you mean 'timeout'?"),
        ('[trojai]\nmodels = "x"\nqqqq = 3\n', "qqqq is unknown: expected one of models, scanner"),
        ('[trojai]\nmodels = "x"\njobs = 0\n', "trojai.jobs: .* greater than or equal to 1, got 0"),
        ('[trojai]\nmodels = "x"\njobs = "2"\n', "trojai.jobs: .* valid integer, got '2'"),
        ('[trojai]\nmodels = "x"\nengine = "dask"\n', "trojai.engine: .* 'local' or 'ray'"),
        ("[trojai]\nseed = 1\n", "trojai.models: Field required"),
        ('[trojai]\nmodels = "x"\nscanner = [{ cut = 3 }]\n', "trojai.scanner"),
        ("[trojai\n", "is not valid TOML"),
        ("", "holds no command"),
        ("models = 3\n", "models is unknown"),
    ],
)
def test_a_file_that_cannot_be_meant_is_explained(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_study(study(tmp_path, text))


def test_a_missing_file_and_no_file_are_input_errors(tmp_path: Path) -> None:
    result = run(tmp_path / "absent.toml")
    assert result.exit_code == 2
    assert "no readable study file" in result.output
    assert "expected a study file, got none" in run().output


def test_the_schema_knows_every_option_of_every_command() -> None:
    schema = json.loads(run("--schema").output)
    assert set(schema["properties"]) == set(STUDY_COMMANDS)
    for word in STUDY_COMMANDS:
        own = schema["$defs"][str(load_command(word).name)]
        known = {key_of(p) for p in load_command(word).params} - {"json"}
        assert set(own["properties"]) == known
        assert not own["additionalProperties"]


@pytest.mark.parametrize("word", STUDY_COMMANDS)
def test_a_call_comes_back_from_the_file_that_repeats_it(word: str, tmp_path: Path) -> None:
    command = load_command(word)
    line = []
    for parameter in command.params:
        if parameter.required and isinstance(parameter, click.Option):
            line += [max(parameter.opts, key=len), "3"]
    line += ["3" for p in command.params if isinstance(p, click.Argument)]
    before = command.make_context(word, list(line)).params
    text = repeated(["moth-eval", word, *line])
    [(again, call)] = read_study(study(tmp_path, text))
    assert again == word
    assert command.make_context(word, call).params == before


def test_odd_text_survives_the_file(tmp_path: Path) -> None:
    odd = 'a "quoted"\\ \x7f\x1b name\nwith é, 中, 😀, \x9b and \u202e'
    text = as_toml("distance", {"model": odd, "out": Path("x")})
    assert tomllib.loads(text)["distance"]["model"] == odd
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}  # none of it steers a terminal


def test_only_calls_of_commands_are_repeated() -> None:
    with pytest.raises(InputError, match="expected a call of one of generate, calibrate"):
        repeated(["moth-eval", "demo"])
    with pytest.raises(InputError, match="is no call of today's commands"):
        repeated(["moth-eval", "trojai", "--no-such-option"])


def test_a_run_tells_the_file_that_repeats_it(tmp_path: Path) -> None:
    call = ("moth-eval", "trojai", "--models", "round", "--jobs", "2", "--scanner", "nc:cut=3")
    make_run(tmp_path / "run", [entry("a")], [record("a", 1.0)], command=call)
    result = CliRunner().invoke(main, ["runs", "toml", str(tmp_path / "run")])
    assert result.output == (
        '[trojai]\nmodels = "round"\nscanner = ["nc:cut=3"]\njobs = 2\n'
    )  # fmt: skip


def test_values_of_the_wrong_kind_are_not_bent_into_shape() -> None:
    model = options_model(load_command("harden"))
    with pytest.raises(ValidationError):
        model.model_validate({"model": 3, "data": "x", "out": "y"})
    good = model.model_validate({"model": "m", "data": "x", "out": "y", "share": 1})
    assert command_line("harden", good) == ["--data=x", "--share=1.0", "--out=y", "--", "m"]


def test_a_study_is_carried_out_and_goes_on(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=2)
    path = study(tmp_path, f"""
[trojai]
models = "{tmp_path / "models"}"
arch = "tests.support.subjects:prototype_network"
scanner = {{ name = "nc", max_images = 30 }}
device = "cpu"
out = "{tmp_path / "scan"}"

[distance]
model = "{tmp_path / "models" / "model-0.safetensors"}"
arch = "tests.support.subjects:prototype_network"
examples = "{tmp_path / "models" / "model-0.npz"}"
pairs = "0-1"
seeds = "1"
device = "cpu"
out = "{tmp_path / "distance"}"
""")  # fmt: skip
    result = run(path)
    assert result.exit_code == 1, result.output
    with (tmp_path / "scan" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["scanner"] for row in rows] == ["nc:max_images=30"] * 2
    assert (tmp_path / "distance" / "distance.csv").is_file()
    assert RunFolder(tmp_path / "scan").manifest().command[:2] == ("moth-eval", "trojai")
    again = run(path)
    assert "2 of 2 tasks are done" in again.output
    assert again.exit_code == 1
    assert set(TIMING_COLUMNS) <= set(rows[0])


def test_after_an_input_error_nothing_more_is_done(tmp_path: Path) -> None:
    path = study(tmp_path, f"""
[trojai]
models = "{tmp_path / "absent"}"
out = "{tmp_path / "scan"}"

[distance]
model = "{tmp_path / "absent"}"
out = "{tmp_path / "distance"}"
""")  # fmt: skip
    result = run(path)
    assert result.exit_code == 2
    assert "moth-eval distance" not in result.output


def test_a_zero_that_was_asked_for_is_repeated() -> None:
    line = ["moth-eval", "harden", "m", "--data", "d", "--out", "o", "--distance-pairs", "0"]
    assert "distance_pairs = 0\n" in repeated(line)
    assert "seed" not in repeated([*line, "--seed", "0"])  # it is the default
