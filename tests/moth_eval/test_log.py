from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from click.testing import CliRunner

from benchmarks.pool import Pool
from benchmarks.supervisor import Place
from moth_eval.cli import main
from moth_eval.errors import InputError
from moth_eval.log import LogSettings, configure, current_settings, figures
from tests.support.subjects import write_prototype_round
from tests.support.work import misbehave

LOG = logging.getLogger("moth_eval.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = current_settings()
    yield
    configure(before)


def test_a_line_tells_the_figures_and_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(LogSettings(level="info"))
    LOG.debug("not told")
    LOG.info("seen\x1b[2J", extra=figures(model="a\u202eb", score=1.23456789))
    line = capsys.readouterr().err
    assert line[8:] == " info moth_eval.test: seen\\x1b[2J model=a\\u202eb score=1.23457\n"


def test_an_exception_keeps_its_lines_and_cannot_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(LogSettings(level="info"))
    try:
        raise ValueError("odd\x1b[2J")
    except ValueError:
        LOG.exception("failed")
    told = capsys.readouterr().err
    assert told.splitlines()[1] == "Traceback (most recent call last):"
    assert told.splitlines()[-1] == "ValueError: odd\\x1b[2J"


def test_json_lines_hold_the_figures_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(level="debug", form="json"))
    LOG.debug("seen", extra=figures(score=1.5, path=Path("x")))
    try:
        raise ValueError("odd")
    except ValueError:
        LOG.exception("failed")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert {k: first[k] for k in ("level", "logger", "message", "score", "path")} == {
        "level": "debug", "logger": "moth_eval.test", "message": "seen", "score": 1.5, "path": "x",
    }  # fmt: skip
    assert first["time"].endswith("+00:00")
    assert "ValueError: odd" in second["error"]


def test_a_line_is_told_once_however_often_it_was_configured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(3):
        configure(LogSettings(level="info"))
    LOG.info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_workers_tell_as_much_as_their_parent(tmp_path: Path) -> None:
    configure(LogSettings(level="info", form="json"))
    log = tmp_path / "one.log"
    list(Pool(work=misbehave, places=(Place(),), log=lambda task: log).run(["tell"]))
    [line] = log.read_text().splitlines()
    assert json.loads(line)["message"] == "told by the work"


def test_a_run_tells_what_it_does_and_keeps_what_its_tasks_tell(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=1)
    arguments = [
        "--log-level", "debug", "--log-format", "json", "trojai", "--device", "cpu",
        "--models", str(tmp_path / "models"), "--scanner", "nc:max_images=30",
        "--arch", "tests.support.subjects:prototype_network", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (0, 1), result.output
    ours = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert [line["message"] for line in ours] == ["begun", "answered"]
    assert ours[0]["task"] == "model-0 under nc:max_images=30"
    [log] = (tmp_path / "run" / "logs").iterdir()
    told = [json.loads(line) for line in log.read_text().splitlines()]
    messages = [line["message"] for line in told]
    assert messages[0] == "opened"
    assert messages[-1].startswith("scored")
    assert "inverting" in messages
    assert told[0]["format"] == "safetensors"


def test_without_being_asked_nothing_is_told(tmp_path: Path) -> None:
    write_prototype_round(tmp_path / "models", models=1)
    arguments = [
        "trojai", "--models", str(tmp_path / "models"), "--scanner", "nc:max_images=30",
        "--arch", "tests.support.subjects:prototype_network", "--device", "cpu",
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    CliRunner().invoke(main, arguments)
    assert list((tmp_path / "run" / "logs").iterdir()) == []


class Writer:
    """As TensorBoard's own."""

    scalars: ClassVar[list[tuple[str, float, int]]] = []

    def __init__(self, folder: str, flush_secs: int) -> None:
        self.folder = folder

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_figures_become_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", made)
    Writer.scalars.clear()
    configure(LogSettings(level="debug", to=("tensorboard:curves",)))
    LOG.info("hardening", extra=figures(task="m", round=3, loss=0.5, phase="pairs", good=True))
    LOG.info("inverting", extra=figures(rows=4))
    LOG.info("inverting", extra=figures(rows=2))
    assert Writer.scalars == [
        ("m/hardening/loss", 0.5, 3),
        ("moth_eval.test/inverting/rows", 4, 0),
        ("moth_eval.test/inverting/rows", 2, 1),
    ]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("tensorbored:x", "unknown name 'tensorbored' in moth_eval.log_handlers"),
        ("tensorboard:", "expected a folder, got none"),
    ],
)
def test_places_that_are_not_there_are_input_errors(place: str, message: str) -> None:
    result = CliRunner().invoke(main, ["--log-to", place, "runs", "ls"])
    assert result.exit_code == 2
    assert message in result.output


def test_without_tensorboard_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'moth-eval\[tensorboard\]'"):
        configure(LogSettings(to=("tensorboard:x",)))


def test_curves_are_written_where_tensorboard_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    configure(LogSettings(level="info", to=(f"tensorboard:{tmp_path}",)))
    LOG.info("hardening", extra=figures(round=1, loss=0.5))
    configure(LogSettings())
    [file] = tmp_path.iterdir()
    assert b"hardening/loss" in file.read_bytes()
