"""The plan of the house, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from moth_eval.cli import COMMANDS, load_command

REPOSITORY = Path(__file__).resolve().parent.parent

MAY_IMPORT = {
    "moth_eval": set[str](),
    "attacks": {"moth_eval"},
    "scanners": {"moth_eval"},
    "reports": {"moth_eval"},
    "benchmarks": {"moth_eval", "attacks", "scanners"},
}

FILES = sorted(
    (room, path) for room in MAY_IMPORT for path in (REPOSITORY / room).rglob("*.py")
)  # fmt: skip

each_file = pytest.mark.parametrize(
    ("room", "path"), FILES, ids=[str(path.relative_to(REPOSITORY)) for _, path in FILES]
)


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@each_file
def test_a_room_imports_only_the_rooms_that_it_may(room: str, path: Path) -> None:
    roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert (roots & MAY_IMPORT.keys()) - {room} <= MAY_IMPORT[room]


@each_file
def test_inside_a_room_imports_are_relative(room: str, path: Path) -> None:
    if path.name in ("preload.py", "__main__.py"):
        pytest.skip("names modules for a process of their own")
    own = [n for n in imports(ast.parse(path.read_text())) if n.partition(".")[0] == room]
    assert own == []


@each_file
def test_reports_and_records_know_neither_torch_nor_an_algorithm(room: str, path: Path) -> None:
    if room != "reports" and path.name not in ("records.py", "errors.py", "cli.py"):
        pytest.skip("may use torch")
    roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert not roots & {"torch", "torchvision", "scanners", "attacks", "benchmarks"}


@each_file
def test_no_model_file_reaches_a_loader_that_can_run_it(room: str, path: Path) -> None:
    forbidden = {"torch.load", "torch.jit.load", "torch.export.load", "pickle.load", "pickle.loads"}
    found = {name for name, _ in calls(ast.parse(path.read_text()))}
    assert not found & forbidden
    assert "torch.hub" not in path.read_text()


@each_file
def test_devices_are_chosen_at_the_door_and_nothing_is_printed(room: str, path: Path) -> None:
    names = {name for name, _ in calls(ast.parse(path.read_text()))}
    assert not [name for name in names if name.endswith(".cuda") or name == "print"]


@each_file
def test_nothing_talks_to_a_network(room: str, path: Path) -> None:
    roots = {name.partition(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert not roots & {"requests", "urllib", "http", "socket", "httpx", "ftplib"}


@each_file
def test_exit_codes_have_names(room: str, path: Path) -> None:
    for name, call in calls(ast.parse(path.read_text())):
        if name in ("ctx.exit", "click.exceptions.Exit"):
            assert not isinstance(call.args[0], ast.Constant), ast.unparse(call)


@each_file
def test_files_and_functions_are_short(room: str, path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 80, f"{node.name} has {lines} lines"


@each_file
def test_every_public_thing_says_what_it_is(room: str, path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


def internal_graph() -> dict[str, set[str]]:
    """Module of moth_eval -> modules of moth_eval that it imports when it is itself imported."""
    root = REPOSITORY / "moth_eval"
    names = {
        ".".join(("moth_eval", *path.relative_to(root).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in root.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                module = f"{base}.{node.module}" if node.module else base
                targets |= {f"{module}.{a.name}" for a in node.names} | {module}
        graph[name] = (targets & names.keys()) - {name}
    return graph


def test_there_are_no_import_cycles_on_the_ground_floor() -> None:
    graph = internal_graph()
    assert sum(map(len, graph.values())) > 20
    state: dict[str, str] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != "open", " -> ".join((*trail, name))
        if name not in state:
            state[name] = "open"
            for target in graph[name]:
                visit(target, (*trail, name))
            state[name] = "done"

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("word", COMMANDS)
def test_every_row_of_the_front_door_leads_to_a_command(word: str) -> None:
    command = load_command(word)
    assert command.name == word
    assert command.get_short_help_str(limit=200) == COMMANDS[word][1]


def test_the_project_speaks_of_itself_alone() -> None:
    words = ("../shared", "/work/", "issue #", "pypi.org", "files.pythonhosted")
    texts = [p for p in REPOSITORY.rglob("*") if p.suffix in (".py", ".md", ".toml", ".txt", ".j2")]
    ours = [p for p in texts if not {".venv", "tests", "demo", "runs", "build"} & set(p.parts)]
    assert len(ours) > 40
    guilty = [(p.name, w) for p in ours for w in words if w in p.read_text(errors="replace")]
    assert guilty == []
