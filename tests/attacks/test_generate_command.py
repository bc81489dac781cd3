from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attacks import generator
from moth_eval.cli import main


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["generate", *words])


def test_an_unknown_architecture_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "round"), "--models", "2", "--arch", "resnet19")
    assert result.exit_code == 2
    assert result.output == (
        "moth-eval: unknown architecture 'resnet19': expected a torchvision classification "
        "network, such as resnet18, mobilenet_v2 or shufflenet_v2_x1_0\n"
    )
    assert not (tmp_path / "round").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--arch", "none", "expected at least one architecture, such as resnet18"),
        ("--arch", "resnet18,", "unknown architecture ''"),
        ("--triggers", "none", "expected at least one kind of trigger of "),
        ("--triggers", "patch, moss", "cannot draw a trigger 'moss'"),
        ("--arch", "vit_b_16", "vit_b_16 cannot be run on images of 64 pixels (Wrong image"),
        ("--training-per-class", "1", "poisons none: raise training_per_class (--training-per-"),
    ],
)
def test_what_cannot_be_generated_is_exit_code_2_before_anything_is_made(
    option: str, value: str, message: str, tmp_path: Path
) -> None:
    result = run("--out", str(tmp_path / "round"), "--models", "2", option, value)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "round").exists()


def test_an_unknown_device_is_exit_code_2(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "round"), "--models", "2", "--device", "abacus")
    assert result.exit_code == 2
    assert "device 'abacus' cannot be used here" in result.output
    assert not (tmp_path / "round").exists()


def test_models_that_do_not_learn_are_named_and_exit_code_3(tmp_path: Path) -> None:
    result = run(
        "--out", str(tmp_path / "round"), "--models", "1", "--image-size", "32", "--classes", "3",
        "--arch", "squeezenet1_1", "--poisoned-share", "0", "--training-per-class", "1",
        "--jobs", "1", "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 3
    lines = result.output.splitlines()
    assert lines[0].startswith("id-00000000  squeezenet1_1  clean: clean accuracy ")
    assert "FAILED: clean accuracy 0." in lines[0]
    assert lines[-1] == (
        "1 of 1 models did not pass and are left out: id-00000000. Repeat the command to try "
        "them with other seeds."
    )
    assert list((tmp_path / "round" / "models").iterdir()) == []


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_says_what_is_kept(
    sign: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told_to_end(*_: object, **__: object) -> None:
        os.kill(os.getpid(), sign)

    monkeypatch.setattr(generator, "make_model", told_to_end)
    # A process that a script started in the background ignores SIGINT.
    usual = signal.default_int_handler if sign == signal.SIGINT else signal.SIG_DFL
    found = signal.signal(sign, usual)
    before = signal.getsignal(sign)
    out = tmp_path / "round"
    try:
        result = run("--out", str(out), "--models", "1", "--device", "cpu")
        assert signal.getsignal(sign) is before
    finally:
        signal.signal(sign, found)
    assert result.exit_code == 3
    assert result.output == (
        f"moth-eval: stopped; {out} holds what was finished, the same command continues\n"
    )


def is_alive(pid: str) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_command_that_is_told_to_end_gives_up_trainings_under_way(
    tmp_path: Path, repository: Path
) -> None:
    out = tmp_path / "round"
    line = [sys.executable, "-m", "moth_eval.cli", "generate", "--out", str(out), "--models", "3"]
    quick = ["--image-size", "32", "--classes", "3", "--training-per-class", "9000", "--jobs", "2"]
    with subprocess.Popen(
        [*line, *quick, "--device", "cpu"], cwd=repository, stderr=subprocess.PIPE, text=True
    ) as process:
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers.read_text().split()) < 3:  # one of them tracks resources
            time.sleep(0.1)
        children = workers.read_text().split()
        time.sleep(10)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said.splitlines()[-1]) == (
        3, f"moth-eval: stopped; {out} holds what was finished, the same command continues"
    )  # fmt: skip
    deadline = time.monotonic() + 30  # what tracks resources ends after the command
    while living := [pid for pid in children if is_alive(pid)]:
        assert time.monotonic() < deadline, f"{living} live on"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_clean_and_a_poisoned_model_are_made_from_end_to_end(tmp_path: Path) -> None:
    words = (
        "--out", str(tmp_path / "round"), "--models", "2", "--image-size", "32",
        "--arch", "resnet18", "--triggers", "patch", "--source-specific-share", "0",
        "--jobs", "1", "--device", "cpu",
    )  # fmt: skip
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.output.count("passed") == 2
    truths = [
        (tmp_path / "round" / "models" / name / "ground_truth.csv").read_text()
        for name in ("id-00000000", "id-00000001")
    ]
    assert sorted(truths) == ["0", "1"]
    again = run(*words)
    assert again.exit_code == 0
    assert again.output.count("(kept)") == 2
