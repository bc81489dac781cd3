from __future__ import annotations

import argparse
import hashlib
import json
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from moth_eval.errors import ArchitectureError, InputError, RefusedFile
from moth_eval.loading import files
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import (
    MODEL_SUFFIXES,
    check_forward,
    load_network,
    save_network,
    sha256_of,
)
from moth_eval.networks import NETWORKS, small_vgg
from tests.support.torch_files import assert_same_network, randomised

SMALL_VGG = ArchitectureSource.parse("moth_eval.networks:small_vgg")


@pytest.fixture
def network() -> nn.Module:
    return randomised(small_vgg(num_classes=4))


@pytest.mark.parametrize(
    ("file", "factory", "classes", "form"),
    [
        ("nets/cifar10-resnet20-clean.th", "cifar_resnet20", 10, "state-dict (legacy)"),
        ("nets/cifar10-smallvgg-backdoored.pth", "small_vgg", 10, "state-dict"),
        ("nets/gtsrb-smallvgg-backdoored.pth", "small_vgg", 43, "state-dict"),
        ("moth-resnet20/resnet20_natural.safetensors", "moth_resnet20", 10, "safetensors"),
    ],
)
def test_published_checkpoint_loads_without_a_missing_weight(
    file: str, factory: str, classes: int, form: str, shared: Path
) -> None:
    source = ArchitectureSource.parse(f"moth_eval.networks:{factory}")
    loaded = load_network(shared / file, architecture=source)
    fresh = source.build(name=None, num_classes=classes).state_dict()
    assert loaded.module.state_dict().keys() == fresh.keys()
    assert not any(
        torch.equal(value, fresh[key])
        for key, value in loaded.module.state_dict().items()
        if value.ndim > 1
    )
    assert (loaded.num_classes, loaded.format) == (classes, form)
    assert check_forward(loaded.module, (3, 32, 32)) == classes


def test_published_checkpoint_classifies_as_well_as_published(shared: Path) -> None:
    source = ArchitectureSource.parse("moth_eval.networks:cifar_resnet20")
    module = load_network(shared / "nets/cifar10-resnet20-clean.th", architecture=source).module
    test = np.load(shared / "cifar10/test.npz")
    images = torch.from_numpy(test["images"][:200]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        right = module(images).argmax(1) == torch.from_numpy(test["labels"][:200])
    assert right.float().mean() > 0.85


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_state_dict_loads_from_every_container(
    legacy: bool, protocol: int, network: nn.Module, tmp_path: Path
) -> None:
    torch.save(
        network.state_dict(),
        tmp_path / "model.pt",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=not legacy,
    )
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert loaded.format == ("state-dict (legacy)" if legacy else "state-dict")
    assert_same_network(loaded.module, network, 32)


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda state: {"state_dict": state, "best_prec1": np.float64(91.5)}, "'state_dict'"),
        (lambda state: {"model": {"state_dict": state}, "epoch": 3}, "'model.state_dict'"),
        (lambda state: {"net": state, "args": argparse.Namespace(lr=0.1)}, "'net'"),
        (lambda state: {"ema_weights": state, "acc": np.float32(0.5)}, "'ema_weights'"),
        (lambda state: {"params": dict(state), "curve": np.arange(3.0)}, "'params'"),
    ],
)
def test_weights_are_found_inside_a_checkpoint(
    wrap: object, note: str, network: nn.Module, tmp_path: Path
) -> None:
    assert callable(wrap)
    torch.save(wrap(network.state_dict()), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert loaded.notes == (f"weights under {note}",)
    assert_same_network(loaded.module, network, 32)


def test_optimizer_state_is_not_taken_for_weights(network: nn.Module, tmp_path: Path) -> None:
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    content = {"optimizer": optimizer.state_dict(), "model_weights": network.state_dict()}
    torch.save(content, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert_same_network(loaded.module, network, 32)


def test_what_training_leaves_in_a_checkpoint_is_read(network: nn.Module, tmp_path: Path) -> None:
    """Milestones of a schedule are a counter; seeds and states of generators are long integers."""
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    content = {
        "state_dict": network.state_dict(),
        "schedule": torch.optim.lr_scheduler.MultiStepLR(optimiser, [5, 5, 8]).state_dict(),
        "seed": 2**63 + 1,
        "generator": np.random.default_rng(0).bit_generator.state,
    }
    torch.save(content, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert_same_network(loaded.module, network, 32)


def test_a_file_that_is_hardly_there_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "model.pt").open("wb") as file:
        file.write(b"PK")
        file.truncate(1 << 43)
    with pytest.raises(RefusedFile, match=r"claims 8,796,093,022,208 bytes and holds"):
        sha256_of(tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=r"model\.pt: refused: the file claims 8,796,"):
        load_network(tmp_path / "model.pt")


def test_most_of_a_giant_file_has_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moth_eval.loading.formats._GIANT", 1 << 20)
    for there, read in ((500, False), (1100, True)):
        with (tmp_path / "model.pt").open("wb") as file:
            file.write(b"x" * there * 1024)
            file.truncate(2 << 20)
        with nullcontext() if read else pytest.raises(RefusedFile, match="claims 2,097,152 bytes"):
            sha256_of(tmp_path / "model.pt")


def test_a_long_integer_is_no_key(tmp_path: Path) -> None:
    for content in ({2**64: 1}, {"s": {2**64, 1}}):
        torch.save({**content, "x": torch.ones(1)}, tmp_path / "model.pt")
        with pytest.raises(RefusedFile, match="integer of more than 64 bits as a"):
            load_network(tmp_path / "model.pt", architecture=SMALL_VGG)


def test_trojai_state_dict_form_names_its_class(tmp_path: Path) -> None:
    source = ArchitectureSource.parse("squeezenet1_1")
    expected = source.build(name=None, num_classes=3).eval()
    content = {"class_name": "squeezenet1_1", "trojai_version": "0.2"}
    torch.save({**content, "state_dict": expected.state_dict()}, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == "squeezenet1_1"
    assert_same_network(loaded.module, expected, 64)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "backbone."])
def test_prefix_of_every_name_is_removed(prefix: str, network: nn.Module, tmp_path: Path) -> None:
    state = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert all("prefix removed" in note for note in loaded.notes)
    assert loaded.num_classes == 4
    assert_same_network(loaded.module, network, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(
    dtype: torch.dtype, network: nn.Module, tmp_path: Path
) -> None:
    torch.save(network.to(dtype).state_dict(), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert_same_network(loaded.module, network.float(), 32)


def test_saved_network_comes_back_from_its_side_car_alone(tmp_path: Path) -> None:
    expected = ArchitectureSource.parse("squeezenet1_1").build(name=None, num_classes=3).eval()
    path = tmp_path / "model.safetensors"
    save_network(path, expected, architecture="squeezenet1_1", num_classes=3)
    loaded = load_network(path)
    assert (loaded.architecture, loaded.num_classes) == ("squeezenet1_1", 3)
    assert loaded.format == "safetensors"
    assert_same_network(loaded.module, expected, 64)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.arch.json", path.name]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_side_car_may_name_the_networks_that_come_with_moth_eval(name: str, tmp_path: Path) -> None:
    expected = NETWORKS[name](num_classes=4).eval()
    path, full = tmp_path / "model.safetensors", f"moth_eval.networks:{name}"
    save_network(path, expected, architecture=full, num_classes=4)
    loaded = load_network(path)
    assert (loaded.architecture, loaded.num_classes) == (full, 4)
    assert_same_network(loaded.module, expected, 32)


def test_side_car_may_name_nothing_else_of_our_modules(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_network(path, network, architecture="moth_eval.networks:Standardise", num_classes=4)
    with pytest.raises(ArchitectureError, match=r"'moth_eval\.networks:Standardise'.*--arch"):
        load_network(path)


def test_saving_twice_writes_the_same_bytes(network: nn.Module, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_network(tmp_path / name, network, architecture=SMALL_VGG.spec, num_classes=4)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_networks_are_saved_as_safetensors_only(network: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"end the name in \.safetensors"):
        save_network(tmp_path / "model.pt", network, architecture="x", num_classes=4)
    assert list(tmp_path.iterdir()) == []


def test_side_car_never_imports_the_code_that_it_names(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_code.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.safetensors"
    save_network(path, network, architecture="evil_code:make", num_classes=4)
    with pytest.raises(ArchitectureError, match=r"'evil_code:make'.*--arch"):
        load_network(path)


def test_side_car_picks_the_factory_from_the_module_that_the_user_named(
    network: nn.Module, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_network(path, network, architecture="moth_eval.networks:small_vgg", num_classes=4)
    source = ArchitectureSource.parse("moth_eval.networks")
    loaded = load_network(path, architecture=source)
    assert loaded.architecture == "moth_eval.networks:small_vgg"
    assert_same_network(loaded.module, network, 32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('{"num_classes": 3}', "no architecture"),
        ('["resnet18"]', "no architecture"),
        ('{"architecture": "resnet18", "num_classes": -1}', "-1 classes"),
        ('{"architecture": "resnet18", "num_classes": 10000000000}', "10000000000 classes"),
        (json.dumps({"architecture": "x" * (1 << 20)}), "bytes"),
    ],
)
def test_malformed_side_car_is_an_input_error(
    content: str, message: str, network: nn.Module, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    (tmp_path / "arch.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_network(tmp_path / "model.pt")


def test_weights_without_an_architecture_ask_for_one(network: nn.Module, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match=r"--arch .*side-car"):
        load_network(tmp_path / "model.pt")


def test_weights_that_do_not_fit_are_named(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    state["features.0.weight"] = torch.zeros(32, 3, 5, 5)
    del state["features.1.bias"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pt")
    expected = (
        r"missing in the file: features\.1\.bias; not in the architecture: extra\.weight; "
        r"of another shape: features\.0\.weight \(32, 3, 5, 5\) for \(32, 3, 3, 3\)"
    )
    with pytest.raises(ArchitectureError, match=expected):
        load_network(tmp_path / "model.pt", architecture=SMALL_VGG)


def test_metadata_with_another_number_of_classes_is_noted(
    network: nn.Module, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG, num_classes=9)
    assert loaded.num_classes == 4
    assert loaded.notes == ("the metadata say 9 classes, the network has 4",)


def test_complex_weights_are_refused(network: nn.Module, tmp_path: Path) -> None:
    state = network.state_dict()
    state["classifier.bias"] = state["classifier.bias"].to(torch.complex64)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ArchitectureError, match="complex numbers"):
        load_network(tmp_path / "model.safetensors", architecture=SMALL_VGG)


def test_metadata_name_of_trojai_is_understood(tmp_path: Path) -> None:
    expected = ArchitectureSource.parse("squeezenet1_1").build(name=None, num_classes=3).eval()
    torch.save(OrderedDict(expected.state_dict()), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture_name="squeezenetv1_1")
    assert loaded.architecture == "squeezenet1_1"


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"moth")
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"moth").hexdigest()


def test_suffixes_are_those_of_path() -> None:
    assert all(Path(f"model{suffix}").suffix == suffix for suffix in MODEL_SUFFIXES)


def test_metadata_cannot_demand_memory_for_classes_that_the_weights_lack(
    network: nn.Module, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture=SMALL_VGG, num_classes=10**12)
    assert loaded.num_classes == 4


@pytest.mark.parametrize("shape", [(10**9, 0), (200_000, 1)])
def test_weights_cannot_demand_memory_that_they_do_not_fill(
    shape: tuple[int, ...], network: nn.Module, tmp_path: Path
) -> None:
    state = {**network.state_dict(), "classifier.weight": torch.zeros(shape)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match=r"of another shape: classifier\.weight"):
        load_network(tmp_path / "model.pt", architecture=SMALL_VGG)


def test_positions_of_a_transformer_cannot_demand_memory(tmp_path: Path) -> None:
    torch.save({"pos_embed": torch.zeros(1, 10**6, 1)}, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match="do not fit the architecture vit_large_patch16"):
        load_network(tmp_path / "model.pt", architecture_name="vit_large_patch16_224")


def test_largest_networks_are_drafted_without_memory_for_their_weights() -> None:
    draft = files._from_builtin("regnet_y_128gf", {}).draft(None)
    assert all(parameter.is_meta for parameter in draft.parameters())


def test_tiny_file_that_claims_a_giant_network_is_refused(tmp_path: Path) -> None:
    torch.save({"stem.0.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match="do not fit the architecture regnet_y_128gf"):
        load_network(tmp_path / "model.pt", architecture_name="regnet_y_128gf")


def test_network_whose_constructor_computes_is_filled_whole(tmp_path: Path) -> None:
    from torchvision.models import regnet_y_400mf

    network = regnet_y_400mf(num_classes=5).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt", architecture_name="regnet_y_400mf").module
    images = torch.rand(1, 3, 32, 32)
    assert not any(t.is_meta for t in (*loaded.parameters(), *loaded.buffers()))
    assert torch.equal(loaded(images), network(images))
