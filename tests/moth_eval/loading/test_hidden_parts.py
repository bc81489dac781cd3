from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from moth_eval.errors import RefusedFile
from moth_eval.loading.checkpoints import USUAL_KEYS, find_weights
from moth_eval.loading.files import load_network
from moth_eval.loading.inert_tree import Instance, StorageRecord, TensorRecord
from moth_eval.loading.module_tree import distinct, has_hidden_buffers, state_of, walk
from tests.support.torch_files import assert_same_network


def block_with(move: str, hide: Callable[[nn.Module], object]) -> nn.Module:
    block = BasicBlock(3, 3)
    part = block._modules.pop(move)
    assert part is not None
    vars(block)[move] = hide(part)
    return nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()


@pytest.mark.parametrize("move", ["bn1", "relu"])
@pytest.mark.parametrize(
    "hide",
    [
        lambda part: part,
        lambda part: [part],
        lambda part: {"inner": (1, {"deeper": part})},
        lambda part: partial(nn.BatchNorm2d, weight=part),
        lambda part: [torch.ones(2)],
    ],
)
def test_layer_or_numbers_in_a_plain_attribute_are_refused(
    move: str, hide: Callable[[nn.Module], object], tmp_path: Path
) -> None:
    torch.save(block_with(move, hide), tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=f"keeps a layer or numbers in '{move}'"):
        load_network(tmp_path / "model.pt")


def test_recurrent_layers_may_list_their_own_weights_only(tmp_path: Path) -> None:
    network = nn.Sequential(nn.GRU(3, 4))
    torch.save(network, tmp_path / "good.pt")
    found = load_network(tmp_path / "good.pt").module
    assert torch.equal(found[0].weight_hh_l0, network[0].weight_hh_l0)
    network[0]._flat_weights = [nn.Parameter(w + 1) for w in network[0]._flat_weights]
    torch.save(network, tmp_path / "bad.pt")
    with pytest.raises(RefusedFile, match="keeps a layer or numbers in '_flat_weights'"):
        load_network(tmp_path / "bad.pt")


def test_parallel_wrapper_that_replaces_its_own_forward_is_refused(tmp_path: Path) -> None:
    wrapped = nn.DataParallel(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    vars(wrapped)["forward"] = 7
    torch.save(wrapped, tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=r"DataParallel in the file replaces its own 'forward'"):
        load_network(tmp_path / "model.pt")


def module(**tables: object) -> Instance:
    empty = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    return Instance("torch.nn.modules.container.Sequential", {**empty, **tables}, built=True)


def test_overlong_names_of_parts_are_refused() -> None:
    with pytest.raises(RefusedFile, match="a name of more than 256 characters"):
        list(walk(module(_modules={"a" * 257: None})))


def test_names_that_torch_would_write_into_code_are_refused(tmp_path: Path) -> None:
    """`torch.fx` pastes names of parts unescaped into the source of a traced network."""
    flag = tmp_path / "ran"
    name = f'0", open("{flag}", "w")) or getattr(self, "0'.replace(".", "\\x2e")
    network = nn.Sequential()
    network._modules = {"0": nn.Flatten(), name: nn.Linear(12, 3)}
    torch.save(network, tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match="a name with other characters than letters"):
        load_network(tmp_path / "model.pt")
    for group in ("_modules", "_parameters", "_buffers"):
        with pytest.raises(RefusedFile, match=f"{group} of the .* other characters than letters"):
            list(walk(module(**{group: {'a"b': None}})))
    assert not flag.exists()


OWN_NAMES = ["forward", "__call__", "__class__", "_version", "eval", "to", "state_dict", "training"]


@pytest.mark.parametrize("name", OWN_NAMES)
def test_a_part_with_the_name_of_something_of_its_class_is_refused(
    name: str, tmp_path: Path
) -> None:
    """Code that goes by names gets the class's own, the network itself runs the part."""
    turned = nn.Conv2d(3, 3, 1, bias=False)
    turned.weight.data = -torch.eye(3).reshape(3, 3, 1, 1)
    holder = nn.Identity()
    vars(holder).pop(name, None)
    holder._modules[name] = turned
    network = nn.Sequential(holder, turned, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.save(network, tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=f"Identity in the file has a part called '{name}'"):
        load_network(tmp_path / "model.pt")


@pytest.mark.parametrize("group", ["_modules", "_parameters", "_buffers"])
def test_names_of_one_class_are_refused_in_it_alone(group: str, tmp_path: Path) -> None:
    held = {
        "_modules": nn.ReLU(),
        "_parameters": nn.Parameter(torch.ones(1)),
        "_buffers": torch.ones(1),
    }
    for kind, name in ((BasicBlock, "expansion"), (nn.Conv2d, "_conv_forward")):
        for holder in (kind(3, 3, 1), nn.Identity()):
            getattr(holder, group)[name] = held[group]
            network = nn.Sequential(holder, nn.AdaptiveAvgPool2d(1), nn.Flatten())
            torch.save(network, tmp_path / "model.pt")
            if type(holder) is nn.Identity:
                load_network(tmp_path / "model.pt")
                continue
            with pytest.raises(RefusedFile, match=f"{kind.__name__} .* a part called '{name}'"):
                load_network(tmp_path / "model.pt")


def test_a_part_that_hides_behind_an_attribute_of_newer_releases_is_refused(tmp_path: Path) -> None:
    layer = nn.GELU()
    vars(layer).pop("approximate")
    layer._modules["approximate"] = nn.ReLU()
    torch.save(nn.Sequential(layer, nn.Flatten()), tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match="'approximate', which is the name of an attribute"):
        load_network(tmp_path / "model.pt")


def test_overlong_paths_of_parts_are_refused() -> None:
    inner = module()
    for _ in range(5):
        inner = module(_modules={"a" * 250: inner})
    with pytest.raises(RefusedFile, match="path longer than 1,024 characters"):
        list(walk(inner))


def test_one_large_table_under_many_names_is_refused_quickly() -> None:
    table = OrderedDict((f"q{i}", None) for i in range(20_000))
    leaf = module(_parameters=table)
    root = module(_modules={str(i): leaf for i in range(20_000)})
    started = time.monotonic()
    with pytest.raises(RefusedFile, match="too many parts to look at"):
        state_of(root)
    assert [part is root for part in distinct(root)] == [True, False]
    parts = {str(i): module(_buffers=table) for i in range(2_000)}
    with pytest.raises(RefusedFile, match="too many parts to look at"):
        list(distinct(module(_modules=parts)))
    assert time.monotonic() - started < 10


def test_many_buffers_are_looked_through_in_one_pass() -> None:
    record = TensorRecord(
        storage=StorageRecord("0", "float32", 1), dtype="float32", offset=0, size=(1,), stride=(1,),
        is_parameter=False, requires_grad=False,
    )  # fmt: skip
    many = {f"b{number}": record for number in range(20_000)}
    hidden = {f"c{number}" for number in range(20_000)}
    started = time.process_time()
    assert not has_hidden_buffers(module(_buffers=many, _non_persistent_buffers_set=hidden))
    assert has_hidden_buffers(module(_buffers=many, _non_persistent_buffers_set={"b19999"}))
    assert time.process_time() - started < 5


def test_weights_are_searched_for_in_time_although_one_table_stands_everywhere() -> None:
    table: dict[object, object] = dict.fromkeys(range(20_000))
    for _ in range(4):
        table = dict.fromkeys(USUAL_KEYS, table)
    started = time.process_time()
    with pytest.raises(RefusedFile, match="no weights found"):
        find_weights({f"x{number}": table for number in range(1000)})
    assert time.process_time() - started < 5


def test_shared_modules_come_under_each_of_their_names(tmp_path: Path) -> None:
    shared = nn.Linear(12, 12)
    network = nn.Sequential(nn.Flatten(), shared, nn.ReLU(), shared).eval()
    torch.save(network, tmp_path / "model.pt")
    found = load_network(tmp_path / "model.pt").module
    assert found[1] is found[3]
    assert_same_network(found, network, 2)
