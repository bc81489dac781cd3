"""The documentation, held against the code: blocks run, tables are complete, links lead somewhere.

Every fenced block of README.md and docs/ is of a known kind. `console` blocks are lines `$ command`
with the output that follows; they are run in a folder that holds `suspects/` (weights, examples and
truth.csv) and `runs/trojai-suspects/` (a finished run). A block under `<!-- test: parse-only -->`
trains, scans or installs: its command lines are parsed and checked, but not carried out. `python`
blocks of a page run one after the other in one namespace; `print(...)  # text` must print `text`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from doctest import ELLIPSIS, OutputChecker
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from attacks import ATTACKS
from attacks.attack_records import AttackRecord, GateRecord, PoisoningRecord
from attacks.generate_command import generate
from attacks.inject import parse_attack
from attacks.inject_command import inject
from attacks.injector import Injector
from attacks.plan import RoundSpec
from attacks.training import Recipe
from benchmarks.study_files import STUDY_COMMANDS
from benchmarks.tasks import parse_scanner
from moth_eval import records, scan_calibration
from moth_eval.cli import COMMANDS, ROOMS, load_command, main
from moth_eval.hardeners import HARDENERS
from moth_eval.hardeners.trainer import Recipe as HardeningRecipe
from moth_eval.inversion import presets
from moth_eval.inversion.schedule import Schedule
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.plugins import resolve
from scanners import SCANNERS
from scanners.neural_cleanse import SCHEDULES
from tests.support.runs import build_reports, large_run
from tests.support.subjects import write_prototype_round

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
KINDS = {"console", "python", "text", "toml", "json", "csv"}
PARSE_ONLY = "<!-- test: parse-only -->"
RECORDS = [
    kind.__name__
    for kind in records.Record.__subclasses__()
    if kind.__module__ == records.__name__  # the others have pages of their own
]

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    kind: str
    text: str
    marker: str


def read_blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        assert line.startswith("```"), f"{page.name}:{number + 1}: fences are not indented"
        if start is None:
            start = number
            continue
        above = next((text for text in reversed(lines[:start]) if text), "")
        yield Block(
            page=page,
            line=start + 1,
            kind=lines[start].removeprefix("```"),
            text="\n".join(lines[start + 1 : number]),
            marker=above if above.startswith("<!--") else "",
        )
        start = None
    assert start is None, f"{page.name}:{(start or 0) + 1}: the block is not closed"


BLOCKS = [block for page in PAGES for block in read_blocks(page)]


def of_kind(kind: str, *, marked: bool = False) -> list[Any]:
    return [
        pytest.param(block, id=f"{block.page.name}:{block.line}")
        for block in BLOCKS
        if block.kind == kind and bool(block.marker) == marked
    ]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages talk about: a folder of suspects, and a finished run over models."""
    folder = tmp_path_factory.mktemp("docs")
    write_prototype_round(folder / "suspects")
    build_reports(large_run(folder / "runs" / "trojai-suspects", models=8))
    return folder


@pytest.fixture
def here(material: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(material)
    return material


def commands_of(block: Block) -> Iterator[tuple[list[str], str]]:
    """Each command of a console block as words, with the output shown for it."""
    text = block.text.replace("\\\n", " ")
    assert text.startswith("$ "), f"{block.page.name}:{block.line}: expected `$ command`"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield shlex.split(line), output.strip("\n")


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert [(b.page.name, b.line, b.kind) for b in BLOCKS if b.kind not in KINDS] == []
    marks = {(b.marker, b.kind) for b in BLOCKS if b.marker}
    assert marks == {(PARSE_ONLY, "console")}


@each_page
def test_markers_stand_right_above_a_block(page: Path) -> None:
    comments = re.findall(r"^<!--.*-->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(comments) == sum(bool(b.marker) for b in BLOCKS if b.page == page)


@pytest.mark.parametrize("block", of_kind("console"))
def test_console_block_runs_and_prints_what_it_shows(block: Block, here: Path) -> None:
    code = 0
    for words, expected in commands_of(block):
        if words == ["echo", "$?"]:
            assert expected == str(code)
            code = 0
            continue
        assert code == 0, f"the command before `{shlex.join(words)}` ended with {code}"
        assert words[0] == "moth-eval", "mark blocks with other programs as parse-only"
        result = CliRunner().invoke(main, words[1:], prog_name="moth-eval", terminal_width=88)
        code = result.exit_code
        if expected:
            agrees = OutputChecker().check_output(expected + "\n", result.output, ELLIPSIS)
            assert agrees, f"expected\n{expected}\n\ngot\n{result.output}"
    assert code == 0


@pytest.mark.parametrize("block", of_kind("console", marked=True))
def test_command_lines_of_a_block_that_is_not_run_are_right(block: Block, here: Path) -> None:
    for words, _ in commands_of(block):
        check_command(Path(words[0]).name, words[1:])


def check_command(program: str, arguments: list[str]) -> None:
    if program == "moth-eval":
        check_moth_eval(arguments)
    elif program == "make":
        targets = [word for word in arguments if "=" not in word]
        assert set(targets) <= set(make_targets())
    elif program in ("python", "python3"):
        check_python(arguments)
    else:
        pytest.fail(f"no check is known for the program {program!r}")


def check_moth_eval(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        return
    command = load_command(arguments[0])
    given = command.make_context(arguments[0], arguments[1:]).params
    for spec in given.get("scanners", ()):
        parse_scanner(spec)
    if command is inject:
        parse_attack(given["attack"])
    if given.get("architecture"):
        ArchitectureSource.parse(given["architecture"])
    if command is generate:
        same = {f.name: given[f.name] for f in fields(RoundSpec) if f.name in given}
        lists = {
            "architectures": given["arch"].split(","),
            "triggers": given["triggers"].split(","),
        }
        RoundSpec(**same | {name: tuple(words) for name, words in lists.items()})


def check_python(arguments: list[str]) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]), f"there is no module {arguments[1]}"
    else:
        assert (REPOSITORY / arguments[0]).is_file()
    named = [REPOSITORY / word for word in arguments if word.endswith((".py", ".txt"))]
    assert all(path.is_file() for path in named)


PYTHON_PAGES = sorted({block.page for block in BLOCKS if block.kind == "python"})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
def test_python_blocks_run_and_print_what_they_say(
    page: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in BLOCKS:
        if block.page != page or block.kind != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, vars(module))  # noqa: S102 - the pages are ours
        shown = re.findall(r"^ *print\(.*\)  # (.*)$", block.text, re.MULTILINE)
        assert printed.getvalue().splitlines() == shown, f"{page.name}:{block.line}"


@pytest.mark.parametrize("block", [*of_kind("json"), *of_kind("toml")])
def test_data_blocks_can_be_read(block: Block) -> None:
    read = {"json": json.loads, "toml": tomllib.loads}[block.kind]
    assert read(block.text)


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to by."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


@each_page
def test_every_internal_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = target.is_file() and target.is_relative_to(REPOSITORY)
        if not inside or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_leads_to_every_page() -> None:
    links = set(re.findall(r"\]\(([\w-]+\.md)\)", prose(DOCS / "index.md")))
    assert links == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


def section(page: str, title: str) -> str:
    """The text under the heading that holds this code word, down to the next of its level."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) .*`{re.escape(title)}`.*$", text, re.MULTILINE)
    assert found, f"docs/{page} has no heading with `{title}`"
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> dict[str, list[str]]:
    """Tables of a text: code word in the first cell -> the other cells, without back-ticks."""
    lines = re.findall(r"^\| `([^`]+)`(?:, `[^`]+`)* \| (.+) \|$", text, re.MULTILINE)
    return {name: [cell.strip("` ") for cell in rest.split(" | ")] for name, rest in lines}


def names_of(text: str) -> list[str]:
    """Every code word in the first cells of the tables of a text, in order."""
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def as_text(value: object) -> str:
    """A default as the tables write it."""
    if value == "":
        return "empty"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple) and all(isinstance(part, float) for part in value):
        return f"({', '.join(f'{part:.3g}' for part in value)})"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def default_of(field: Field[Any]) -> str | None:
    """Default of a dataclass field as text; None where a table may say what it likes."""
    if field.default is not MISSING:
        return as_text(field.default)
    return "required" if field.default_factory is MISSING else None


def check_fields(text: str, kind: type) -> None:
    table = rows(text)
    for field in fields(kind):
        assert field.name in table, f"{kind.__name__}.{field.name} is not documented"
        assert default_of(field) in (None, table[field.name][0]), field.name


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_has_a_page_with_every_option_and_its_default(word: str) -> None:
    table = rows((DOCS / f"{word}.md").read_text(encoding="utf-8"))
    command = load_command(word)
    for parameter in command.params:
        option = isinstance(parameter, click.Option)
        name = parameter.opts[0] if option else parameter.human_readable_name
        assert name in table, f"docs/{word}.md has no row for {name}"
        default = parameter.to_info_dict()["default"]
        if parameter.required:
            assert table[name][0] == "required"
        elif parameter.to_info_dict().get("is_flag"):
            assert table[name][0] == "off"
        elif default not in (None, ""):
            assert table[name][0] == as_text(default)
    documented = {name for name in table if name.startswith("--")}
    assert documented <= {option for p in command.params for option in p.opts}
    if isinstance(command, click.Group):
        calls = " ".join(table)
        for inner, one in command.commands.items():
            assert f"moth-eval {word} {inner} " in calls
            text = (DOCS / f"{word}.md").read_text(encoding="utf-8")
            assert all(o in text for p in one.params for o in p.opts if o.startswith("--"))


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_is_introduced_in_the_words_of_its_help(word: str) -> None:
    help_text = COMMANDS[word][1]
    assert f"| [`moth-eval {word}`](docs/{word}.md) | {help_text} |\n" in README.read_text()
    assert (DOCS / f"{word}.md").read_text().startswith(f"# moth-eval {word}\n\n{help_text}\n")


def test_the_page_of_help_texts_is_what_the_commands_say(tmp_path: Path) -> None:
    # In a process of its own: click remembers the help option of an earlier call in this one.
    made = tmp_path / "cli.md"
    subprocess.run([sys.executable, DOCS / "make_cli.py", made], cwd=REPOSITORY, check=True)
    assert (DOCS / "cli.md").read_text() == made.read_text(), "run `python docs/make_cli.py`"


@pytest.mark.parametrize("name", SCANNERS)
def test_every_scanner_has_a_section_with_every_parameter(name: str) -> None:
    kind = resolve(name, SCANNERS, "none")
    assert isinstance(kind, type)
    text = section("scanners.md", name)
    check_fields(text, kind)
    assert all(word in text for word in ("Source", "Differs from the reference", "Cost"))


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_has_a_section_with_every_parameter(name: str) -> None:
    kind = resolve(name, ATTACKS, "none")
    assert isinstance(kind, type)
    check_fields(section("attacks.md", name), kind)


@pytest.mark.parametrize("name", HARDENERS)
def test_every_hardener_has_a_section_with_every_parameter(name: str) -> None:
    text = section("hardeners.md", name)
    kind = resolve(name, HARDENERS, "none")
    if isinstance(kind, type):
        check_fields(text, kind)
    else:  # a preset of another one
        assert "any field can still be set" in " ".join(text.split())


def test_the_recipe_of_the_hardeners_is_documented_with_its_defaults() -> None:
    check_fields(section("hardeners.md", HardeningRecipe.__name__), HardeningRecipe)


@pytest.mark.parametrize("kind", [Injector, Recipe])
def test_the_injector_is_documented_with_its_defaults(kind: type) -> None:
    check_fields(section("attacks.md", kind.__name__), kind)


def test_schedules_are_documented_with_their_figures() -> None:
    table = rows(section("inversion.md", "Schedule"))
    check_fields(section("inversion.md", "Schedule"), Schedule)
    schedules = {**SCHEDULES, "SHORT": presets.SHORT, "distance, fast": presets.FAST}
    for place, name in enumerate(schedules, start=1):
        shown = {key: cells[place] for key, cells in table.items()}
        expected = {f.name: as_text(getattr(schedules[name], f.name)) for f in fields(Schedule)}
        assert shown == expected, name


def of_columns(file: Path) -> list[str]:
    return [name.strip() for name in file.read_text().splitlines()[0].split(",")]


@pytest.mark.parametrize(
    "file", ["results.csv", "metrics.csv", "roc.csv", "roc-bands.csv", "costs.csv", "confusion.csv"]
)
def test_every_column_is_documented(file: str, material: Path) -> None:
    columns = of_columns(material / "runs" / "trojai-suspects" / file)
    assert names_of(section("metrics.md", file)) == columns


def test_every_column_of_the_comparison_of_scanners_is_documented(tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", models=8, scanners=("nc", "other"))
    build_reports(run)
    columns = of_columns(run / "comparisons.csv")
    assert names_of(section("metrics.md", "comparisons.csv")) == columns


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_the_records_is_documented(name: str) -> None:
    model: type[records.Record] = getattr(records, name)
    assert list(rows(section("run-folder.md", name))) == list(model.model_fields)


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("calibrate.md", scan_calibration.Calibration),
        ("calibrate.md", scan_calibration.CalibratedScanner),
        ("calibrate.md", scan_calibration.CalibrationGroup),
        ("scan.md", scan_calibration.ScanPolicy),
    ],
)
def test_every_field_of_a_calibration_is_documented(page: str, kind: type[records.Record]) -> None:
    assert list(rows(section(page, kind.__name__))) == list(kind.model_fields)


def test_every_column_of_the_verdicts_is_documented(tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", models=2)
    policy = scan_calibration.ScanPolicy(
        policy=scan_calibration.parse_policy("0.05"), dataset="", calibration=None,
        calibration_file="",
    )  # fmt: skip
    (run / scan_calibration.POLICY).write_text(policy.model_dump_json())
    build_reports(run)
    columns = of_columns(run / "verdicts.csv")
    assert names_of(section("scan.md", "verdicts.csv")) == columns


@pytest.mark.parametrize("kind", [AttackRecord, PoisoningRecord, GateRecord])
def test_every_field_of_an_attack_record_is_documented(kind: type[BaseModel]) -> None:
    assert list(rows(section("attacks.md", kind.__name__))) == list(kind.model_fields)


def make_targets() -> list[str]:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert phony
    return phony[1].split()


def test_every_command_of_a_study_file_is_documented() -> None:
    listed = re.search(r"\* Commands of a file: (.*?);", (DOCS / "run.md").read_text(), re.DOTALL)
    assert listed is not None
    assert tuple(re.findall("`(.*?)`", listed[1])) == STUDY_COMMANDS


def test_every_make_target_and_every_room_is_documented() -> None:
    table = rows((DOCS / "development.md").read_text(encoding="utf-8"))
    wanted = {f"make {target}" for target in make_targets()}
    wanted |= {f"{room}/" for room in ("moth_eval", *ROOMS)}
    assert wanted <= set(table)


def test_the_changelog_tells_outcomes_in_few_words() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text().partition("\n## Unreleased\n")[2]
    entries = [" ".join(e.split()) for e in re.findall(r"^- (.+(?:\n  .+)*)", text, re.MULTILINE)]
    assert entries
    assert [e for e in entries if not re.match(r"[a-z]+: ", e) or len(e.split()) > 25] == []


@each_page
def test_no_page_calls_a_model_safe(page: Path) -> None:
    said = re.findall(r"[^.]*\bmodels? (?:is|are) safe\b", prose(page))
    assert [sentence for sentence in said if " not " not in sentence] == []
