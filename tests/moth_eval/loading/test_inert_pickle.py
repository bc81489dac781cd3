from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import RefusedFile
from moth_eval.loading.files import load_network
from moth_eval.loading.inert_pickle import parse
from moth_eval.loading.inert_tree import Instance, TensorRecord
from moth_eval.loading.quarantine import handed_over
from tests.support.pickles import (
    call,
    instance,
    mapping,
    module_state,
    name,
    number,
    numbers,
    program,
    storage,
    tensor,
    text,
)

EMPTY = name("collections", "OrderedDict") + b")R"
BASIC = (storage("0", 2), number(0), numbers(2), numbers(1), b"\x89")
TENSOR_2 = ("torch._utils", "_rebuild_tensor_v2")
TENSOR_3 = ("torch._utils", "_rebuild_tensor_v3")
PARAMETER = ("torch._utils", "_rebuild_parameter")


def parsed(body: bytes) -> object:
    return parse(program(body), storages={})[0]


def typed(state: bytes, kind: bytes | None = None) -> bytes:
    arguments = b"(" + b"".join(BASIC) + EMPTY + b"t"
    kind = kind or name("torch", "Tensor")
    return call("torch._tensor", "_rebuild_from_type_v2", name(*TENSOR_2), kind, arguments, state)


NEGATIVE = mapping({"neg": b"\x88"})


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (call(*TENSOR_2, *BASIC, EMPTY, NEGATIVE), "carries metadata"),
        (call(*TENSOR_2, *BASIC, EMPTY, number(1)), "carries metadata"),
        (call(*TENSOR_2, *BASIC, NEGATIVE), "carries hooks"),
        (call(*TENSOR_2, *BASIC, EMPTY, b"N", b"N"), "carries something more"),
        (
            call(*TENSOR_3, *BASIC, EMPTY, name("torch", "float32"), NEGATIVE),
            "carries metadata",
        ),
        (call(*TENSOR_3, *BASIC, NEGATIVE, name("torch", "float32")), "carries hooks"),
        (call(*PARAMETER, tensor((2,), (1,)), b"\x88", NEGATIVE), "carries hooks"),
        (call(*PARAMETER, tensor((2,), (1,)), b"\x88", EMPTY, b"}"), "something more"),
        (typed(mapping({"data": tensor((2,), (1,))})), "carries attributes"),
        (typed(b"}" + NEGATIVE + b"\x86"), "carries attributes"),
        (typed(NEGATIVE + b"N\x86"), "carries attributes"),
        (typed(b"NNN\x87"), "carries something more"),
    ],
)
def test_tensor_that_torch_would_change_after_reading_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(RefusedFile, match=reason):
        parsed(body)


@pytest.mark.parametrize(
    "body",
    [
        call(*TENSOR_2, *BASIC, EMPTY),
        call(*TENSOR_2, *BASIC, EMPTY, b"N"),
        call(*TENSOR_2, *BASIC, EMPTY, b"}"),
        call(*TENSOR_3, *BASIC, EMPTY, name("torch", "float32")),
        call(*PARAMETER, tensor((2,), (1,)), b"\x88", EMPTY),
        typed(b"N"),
        typed(b"}"),
        typed(b"N}\x86"),
    ],
)
def test_tensor_with_empty_extras_is_read(body: bytes) -> None:
    found = parsed(body)
    assert isinstance(found, TensorRecord)
    assert found.size == (2,)


def test_lazily_negated_weights_of_torch_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    negated = torch._neg_view(network[1].weight.detach().clone())
    torch.save(OrderedDict({"weight": negated}), tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match="carries metadata"):
        load_network(tmp_path / "model.pt")


def test_attributes_changed_after_the_object_was_built_are_not_its_own() -> None:
    late = mapping(module_state()) + b"q\x09"
    part = instance("torch.nn.modules.linear", "Linear", late)
    change = b"h\x09(" + text("training") + b"\x88" + text("scale") + number(7) + b"u"
    found = parsed(b"(" + part + change + b"t")
    assert isinstance(found, tuple)
    assert found[0].state == {"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}}
    assert found[1]["scale"] == 7


def test_tables_inside_an_object_stay_shared_as_they_do_in_torch() -> None:
    late = mapping(module_state(_modules=b"}q\x09"))
    part = instance("torch.nn.modules.container", "Sequential", late)
    found = parsed(b"(" + part + b"h\x09" + text("0") + b"Ns" + b"t")
    assert isinstance(found, tuple)
    assert isinstance(found[0], Instance)
    assert found[0].state["_modules"] == {"0": None}


def test_size_changed_after_it_was_made_keeps_its_numbers() -> None:
    made = call("torch", "Size", b"]q\x09(" + number(2) + number(3) + b"e")
    found = parsed(b"(" + made + b"h\x09" + number(4) + b"at")
    assert found == ((2, 3), [2, 3, 4])


@pytest.mark.parametrize("state", [mapping({"items": b"N"}), b"](Ne", number(1), b"N}\x86"])
def test_ordered_dictionary_with_attributes_is_refused(state: bytes) -> None:
    with pytest.raises(RefusedFile, match="ordered dictionary in the pickle has attributes"):
        parsed(EMPTY + state + b"b")


@pytest.mark.parametrize("state", [b"N", b"}", mapping({"_metadata": EMPTY})])
def test_ordered_dictionary_may_say_the_versions_of_its_layers(state: bytes) -> None:
    assert parsed(EMPTY + state + b"b") == OrderedDict()


@pytest.mark.parametrize("protocol", [2, 4])
def test_state_dicts_of_torch_keep_passing(protocol: int, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    assert vars(state).keys() == {"_metadata"}
    buffer = io.BytesIO()
    torch.save(state, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    (tmp_path / "model.pt").write_bytes(buffer.getvalue())
    with handed_over(tmp_path / "model.pt") as checkpoint:
        assert isinstance(checkpoint.tree, OrderedDict)
        assert list(checkpoint.tree) == list(state)
