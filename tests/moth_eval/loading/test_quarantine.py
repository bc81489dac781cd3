from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moth_eval.errors import InputError, RefusedFile
from moth_eval.loading import quarantine
from moth_eval.loading.files import load_network
from moth_eval.loading.handover import decode, encode
from moth_eval.loading.inert_tree import (
    Instance,
    Named,
    Opaque,
    Partial,
    StorageRecord,
    tensor_record,
)
from moth_eval.loading.kernel_guards import ALL_GUARDS
from moth_eval.loading.quarantine import handed_over

ROOT = Path(__file__).resolve().parents[3]


def test_folders_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "gettempdir", lambda: str(tmp_path))
    old = time.time() - 2 * quarantine.LONGEST_SECONDS
    for name in ("left", "used", "fresh"):
        folder = tmp_path / f"{quarantine.PREFIX}{name}"
        folder.mkdir()
        (folder / quarantine.IN_USE).touch()
        if name != "fresh":
            os.utime(folder, (old, old))
    with (tmp_path / f"{quarantine.PREFIX}used" / quarantine.IN_USE).open("w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        quarantine._remove_left_behind()
    left = {path.name.removeprefix(quarantine.PREFIX) for path in tmp_path.iterdir()}
    assert left == {"used", "fresh"}


PROBE = """
import json, os, socket, sys, ctypes
sys.path.append({root!r})
from moth_eval.loading.loader_child import Ceilings, confine
out = os.fdopen(int(sys.argv[1]), "w")
limits = Ceilings(cpu_seconds=20, memory_bytes=1 << 30, file_bytes=1 << 20)
held = confine(limits)
result = "nothing"
try:
    {deed}
except BaseException as error:
    result = type(error).__name__
json.dump([held, str(result)], out)
"""


def confined(deed: str, tmp_path: Path) -> tuple[list[str], str]:
    """Guards that held and what came of an attempt, by a process that gave everything up."""
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", PROBE.format(root=str(ROOT), deed=deed),
             str(out.fileno())],
            check=True, pass_fds=[out.fileno()], timeout=60,
        )  # fmt: skip
    held, result = json.loads((tmp_path / "out").read_text())
    return held, result


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return confined("pass", tmp_path_factory.mktemp("probe"))[0]


@pytest.mark.parametrize(
    "deed",
    [
        "result = open('/etc/hostname').read()",
        "result = open({canary!r}, 'w').write('x')",
        "result = os.listdir('/')",
        "os.unlink({canary!r})",
        "os.rename({canary!r}, {canary!r} + '2')",
        "if os.system('true'): raise OSError",
        "os.execv('/bin/true', ['true'])",
        "result = os.fork()",
        "result = socket.socket()",
        "os.kill(os.getppid(), 0)",
        "import csv",
    ],
)
def test_a_confined_process_can_do_nothing_but_use_what_is_open(
    deed: str, held: list[str], tmp_path: Path
) -> None:
    if "seccomp" not in held and "landlock" not in held:
        pytest.skip("this kernel offers neither Landlock nor seccomp")
    canary = tmp_path / "canary"
    canary.write_text("here")
    _, result = confined(deed.replace("{canary!r}", repr(str(canary))), tmp_path)
    assert result in ("PermissionError", "OSError", "ModuleNotFoundError", "ImportError")
    assert canary.read_text() == "here"


def test_memory_that_may_hold_code_is_refused(held: list[str], tmp_path: Path) -> None:
    if "seccomp" not in held:
        pytest.skip("this kernel offers no seccomp")
    deed = "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)"
    # The import itself finds its module: it is built into Python or was loaded before.
    assert confined(deed, tmp_path)[1] in ("PermissionError", "ModuleNotFoundError", "ImportError")


def test_limits_hold(tmp_path: Path) -> None:
    guards, result = confined("bytearray(2 << 30)", tmp_path)
    assert result == "MemoryError"
    assert "limits" in guards


def test_a_model_is_read_by_a_process_that_the_kernel_holds(
    held: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 3).state_dict(), path)
    with handed_over(path) as handed:
        assert sorted(handed.guards) == sorted(held)
        assert handed.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert handed.weights.is_file()
    assert not handed.weights.exists()


def test_what_is_insisted_on_has_to_be_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.ones(3)}, path)
    monkeypatch.setattr(quarantine, "ALL_GUARDS", (*ALL_GUARDS, "a moat"))
    message = "--require-sandbox: this system does not offer a moat"
    with pytest.raises(InputError, match=message), handed_over(path, insist=True):
        pass
    with handed_over(path) as handed:
        assert handed.format == "zip"


def test_a_reader_that_dies_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(3)}, path)
    for program, message in (
        ("import os; os.kill(os.getpid(), 11)", "the process that read it was ended by SIGSEGV"),
        ("raise SystemExit('no room')", "ended with exit code 1: no room"),
        ("raise SystemExit('x' * 9000 + chr(27))", r"code 1: x{200}\.\.\.$"),
        ("raise SystemExit(chr(27) + '[2J')", r"code 1: \\x1b\[2J$"),
    ):
        monkeypatch.setattr(quarantine, "_PROGRAM", program)
        with pytest.raises(RefusedFile, match=message):
            load_network(path)


def test_a_model_that_would_fill_the_disk_is_not_copied(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    monkeypatch.setattr("moth_eval.loading.formats.SPARE_BYTES", 1 << 60)
    with pytest.raises(InputError, match=r"a copy of [\d,]+ bytes is needed in .* set TMPDIR"):
        load_network(tmp_path / "model.pt")


def test_a_reader_that_hangs_is_a_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(3)}, path)
    monkeypatch.setattr(quarantine, "_PROGRAM", "import time; time.sleep(60)")
    monkeypatch.setattr(quarantine, "LONGEST_SECONDS", 0.5)
    with pytest.raises(RefusedFile, match=r"reading it took more than 0\.5 s"):
        load_network(path)


def sample() -> tuple[dict[str, Any], StorageRecord]:
    storage = StorageRecord("0", "float32", 12)
    shared = tensor_record(storage, None, 2, (2, 3), (3, 1))
    loop: list[object] = [1, True, None, 2.5, float("inf"), b"\x00\xff", "text", shared]
    loop.append(loop)
    tree = {
        "loop": loop,
        "again": shared,
        "pair": (("inner", shared), loop),
        "ordered": OrderedDict([("b", 1), ("a", (2,))]),
        "set": {"x", "y"},
        "part": Partial(Named("torch.nn.functional.relu"), (1,), {"inplace": True}),
        "odd": Opaque("numpy scalar"),
        "made": Instance("torch.nn.Linear", {"weight": shared, 3: loop}, built=True),  # type: ignore[dict-item]
    }
    return tree, storage


def test_a_tree_comes_back_as_it_was_and_what_was_one_object_stays_one() -> None:
    tree, storage = sample()
    nodes, root, storages = encode(tree)
    table = json.loads(json.dumps([nodes, root]))
    back, again = decode(*table)
    assert storages == [storage]
    assert [(s.key, s.dtype, s.numel) for s in again] == [("0", "float32", 12)]
    assert isinstance(back, dict)
    assert list(back) == list(tree)
    loop = back["loop"]
    assert loop[:7] == [1, True, None, 2.5, float("inf"), b"\x00\xff", "text"]
    assert [type(value) for value in loop[:3]] == [int, bool, type(None)]
    assert loop[8] is loop is back["pair"][1] is back["made"].state[3]
    assert loop[7] is back["again"] is back["pair"][0][1] is back["made"].state["weight"]
    tensor = back["again"]
    assert (tensor.storage, tensor.offset) == (again[0], 2)
    assert (tensor.size, tensor.stride) == ((2, 3), (3, 1))
    assert type(back["ordered"]) is OrderedDict
    assert back["ordered"] == tree["ordered"]
    assert back["set"] == {"x", "y"}
    assert back["part"].function.name == "torch.nn.functional.relu"
    assert (back["part"].arguments, back["part"].keywords) == ((1,), {"inplace": True})
    assert back["odd"].name == "numpy scalar"
    assert back["made"].built


def test_depth_costs_nothing() -> None:
    tree: object = ()
    for _ in range(200_000):
        tree = (tree,)
    nodes, root, _ = encode(tree)
    back, _ = decode(nodes, root)
    for _ in range(200_000):
        (back,) = back  # type: ignore[misc]
    assert back == ()


@pytest.mark.parametrize(
    ("nodes", "root"),
    [
        ("text", 0),
        ([], 0),
        ([["list"]], -1),
        ([["list"]], True),
        ([["list"]], "0"),
        ([["spell", 1]], 0),
        ([[]], 0),
        ([["tuple", 0]], 0),
        ([["tuple", 1], ["tuple"]], 0),
        ([["dict", [1]]], 0),
        ([["dict", 0, 0]], 0),
        ([["list", [[]]]], 0),
        ([["list", []]], 0),
        ([["list", ["float", "x"]]], 0),
        ([["storage", "0", "float31", 4]], 0),
        ([["storage", 0, "float32", 4]], 0),
        ([["storage", "0", "float32", -4]], 0),
        ([["storage", "0", "float32", 4], ["tensor", 0, "float32", 2, [4], [1], False, False]], 1),
        ([["storage", "0", "float32", 4], ["tensor", 0, "float32", 0, [4], [1], 0, False]], 1),
        ([["list"], ["tensor", 0, "float32", 0, [4], [1], False, False]], 1),
        ([["partial", [1], [2], [3]]], 0),
        ([["instance", "x", 1]], 0),
        ([["instance", 5, True]], 0),
        ([["named", 5]], 0),
    ],
)
def test_a_table_that_encode_does_not_make_is_refused(nodes: object, root: object) -> None:
    with pytest.raises(RefusedFile):
        decode(nodes, root)
