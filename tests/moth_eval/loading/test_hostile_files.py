from __future__ import annotations

import os
import pickle
import random
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import ArchitectureError, InputError, MothError, RefusedFile
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network, sha256_of
from tests.support.hostile import ATTACKS, CANARY, Attack, write_hostile_files

#: Wide enough for two loaded cores; the slowest attack takes a tenth of it.
SECONDS_PER_FILE = 20.0


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_hostile_files(folder)
    return folder


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.file)
def test_hostile_file_is_refused_for_its_own_reason(attack: Attack, hostile: Path) -> None:
    path = hostile / attack.file
    before = sha256_of(path)
    started = time.monotonic()

    with pytest.raises(RefusedFile, match=attack.reason) as caught:
        load_network(path)

    assert time.monotonic() - started < SECONDS_PER_FILE
    assert str(path) in str(caught.value)
    assert sha256_of(path) == before
    assert not (hostile / CANARY).exists()
    assert len(list(hostile.iterdir())) == len(ATTACKS)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.file)
def test_hostile_file_is_rejected_although_the_user_named_an_architecture(
    attack: Attack, hostile: Path
) -> None:
    source = ArchitectureSource.parse("moth_eval.networks:small_vgg")
    with pytest.raises((RefusedFile, ArchitectureError), match=attack.file):
        load_network(hostile / attack.file, architecture=source)
    assert not (hostile / CANARY).exists()


def test_every_hostile_file_has_content_of_its_own(hostile: Path) -> None:
    assert len({sha256_of(path) for path in hostile.iterdir()}) == len(ATTACKS)


def test_payload_does_run_when_python_unpickles_it(tmp_path: Path) -> None:
    attack = next(attack for attack in ATTACKS if attack.file == "bare_pickle.pkl")
    attack.write(tmp_path / attack.file)
    pickle.loads((tmp_path / attack.file).read_bytes())
    assert (tmp_path / CANARY).exists()


@pytest.mark.parametrize("file", ["zip_bomb_storage.pt", "lying_sizes.pt", "stride_0.pt"])
def test_refusing_a_bomb_allocates_little(file: str, hostile: Path) -> None:
    attack = next(attack for attack in ATTACKS if attack.file == file)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedFile, match=attack.reason):
            load_network(hostile / file)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no readable file.*check the name"):
        load_network(tmp_path / "absent.pt")


def test_empty_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(InputError, match="empty"):
        load_network(tmp_path / "empty.pt")


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedFile, match="ordinary file"):
        load_network(tmp_path)


def test_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(RefusedFile, match="ordinary file"):
        load_network(tmp_path / "pipe.pt")


def _small_files(folder: Path) -> list[Path]:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    torch.save(network, folder / "zip2.pt")
    torch.save(network, folder / "zip4.pt", pickle_protocol=4)
    torch.save(network, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return [folder / name for name in ("zip2.pt", "zip4.pt", "legacy.pt")]


def _mutated(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[place] = chance.randrange(256)
            case 1:
                del changed[place : place + chance.randrange(1, 40)]
            case 2:
                changed[place:place] = chance.randbytes(chance.randrange(1, 40))
            case 3:
                other = chance.randrange(len(changed))
                changed[place : place + 16] = changed[other : other + 16]
    return bytes(changed)


@pytest.mark.parametrize("index", range(3))
def test_every_mutation_of_a_good_file_is_loaded_or_refused(index: int, tmp_path: Path) -> None:
    good = _small_files(tmp_path)[index].read_bytes()
    chance = random.Random(index)  # noqa: S311 - the same mutants in every run
    target = tmp_path / "mutant.pt"
    outcomes = {"loaded": 0, "refused": 0}
    for _ in range(200):
        target.write_bytes(_mutated(good, chance))
        started = time.monotonic()
        try:
            load_network(target)
            outcomes["loaded"] += 1
        except MothError:
            outcomes["refused"] += 1
        assert time.monotonic() - started < SECONDS_PER_FILE
    assert outcomes["refused"] > 20
