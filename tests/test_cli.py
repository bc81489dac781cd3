from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from moth_eval import __version__, cli
from moth_eval.errors import InstallationError


def python(code: str, *, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )  # fmt: skip


def test_help_lists_every_command_and_its_exit_codes() -> None:
    result = CliRunner().invoke(cli.main, ["--help"])
    assert result.exit_code == 0
    assert all(f"  {word} " in result.output for word in cli.COMMANDS)
    assert "0 nothing found, 1 something found, 2 usage or input error" in result.output


def test_help_imports_neither_torch_nor_any_command(repository: Path) -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom moth_eval.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'sklearn', 'benchmarks', 'attacks'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    result = python(code, cwd=repository)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("word", cli.COMMANDS)
def test_help_of_a_command_does_not_import_torch(word: str, repository: Path) -> None:
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom moth_eval.cli import main\n"
        f"result = CliRunner().invoke(main, [{word!r}, '--help'])\n"
        "assert result.exit_code == 0, result.output\nsys.exit('torch' in sys.modules)"
    )
    assert python(code, cwd=repository).returncode == 0


SHARED = (
    "--device", "--seed", "--retry-failed", "--first", "--test", "--share", "--ground-truth",
    "--distance-pairs", "--distance-seeds", "--distance-precision", "--precision",
)  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_an_option_of_several_commands_has_one_wording(name: str) -> None:
    options = [
        option
        for word in cli.COMMANDS
        if word != "inject"  # its data are given in another form
        for option in cli.load_command(word).params
        if isinstance(option, click.Option) and name in option.opts
    ]
    assert len(options) > 1
    # What counts where nothing is said may differ, and is told at the end.
    assert len({(option.help or "").partition("  [default")[0] for option in options}) == 1


def test_what_an_encoding_lacks_is_spelled_out(repository: Path) -> None:
    code = (
        "import click\nfrom moth_eval import cli\n"
        "shown = click.Command('demo', callback=lambda: click.echo('1 – 2'))\n"
        "cli.load_command = lambda word: shown\n"
        "cli.main(['demo'])"
    )
    result = python(code, cwd=repository, PYTHONIOENCODING="latin-1")
    assert (result.returncode, result.stdout) == (0, "1 \\u2013 2\n"), result.stderr


def test_version_is_the_package_version() -> None:
    assert CliRunner().invoke(cli.main, ["--version"]).output.strip().endswith(__version__)


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli.main, ["scan-everything"])
    assert result.exit_code == 2
    assert "No such command 'scan-everything'" in result.output


def test_an_error_made_for_the_user_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, ["report", str(tmp_path)])
    assert result.exit_code == 2
    assert result.output.startswith(f"moth-eval: {tmp_path} is not a run folder")
    assert result.output.count("\n") == 1


def test_rooms_that_are_ours_pass_the_guard() -> None:
    cli.check_rooms()


@pytest.mark.parametrize("room", cli.ROOMS)
def test_a_foreign_package_in_place_of_a_room_is_named(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.partition(".")[0] == room]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InstallationError, match=f"the package '{room}' resolves to {tmp_path}"):
        cli.check_rooms()


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 3), (PermissionError("no"), 2), (ZeroDivisionError("oops"), 3)],
)
def test_no_accident_passes_for_something_found(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "check_rooms", fail)
    result = CliRunner().invoke(cli.main, ["report", "nowhere"])
    assert result.exit_code == code
    assert result.output
