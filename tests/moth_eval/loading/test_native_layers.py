from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from moth_eval.errors import RefusedFile
from moth_eval.loading.files import load_network
from moth_eval.loading.forward import check_forward
from tests.support.torch_files import assert_same_network, randomised

HONEST: dict[str, Callable[[], nn.Module]] = {
    "rnn": lambda: nn.RNN(8, 4, nonlinearity="relu"),
    "gru": lambda: nn.GRU(8, 4, num_layers=2, bidirectional=True, batch_first=True),
    "lstm": lambda: nn.LSTM(8, 4, num_layers=3, bias=False, dropout=0.1),
    "projected": lambda: nn.LSTM(8, 4, num_layers=2, proj_size=2, bidirectional=True),
    "projected, no bias": lambda: nn.LSTM(8, 4, proj_size=2, bias=False),
    "rnn cell": lambda: nn.RNNCell(8, 4),
    "gru cell": lambda: nn.GRUCell(8, 4, bias=False),
    "lstm cell": lambda: nn.LSTMCell(8, 4),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "attention, no bias": lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
    "attention, other keys": lambda: nn.MultiheadAttention(8, 4, kdim=3, vdim=5, add_bias_kv=True),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("kind", HONEST)
def test_layers_that_say_what_they_are_load(kind: str, tmp_path: Path) -> None:
    layer = HONEST[kind]()
    torch.save(nn.Sequential(layer), tmp_path / "model.pt")
    found = load_network(tmp_path / "model.pt").module
    assert list(found.state_dict()) == list(nn.Sequential(layer).state_dict())
    given = torch.rand(5, 8)
    arguments = (given, given, given) if isinstance(layer, nn.MultiheadAttention) else (given,)
    if "other keys" not in kind:
        expected, same = layer.eval()(*arguments), found[0](*arguments)
        assert torch.equal(_first(same), _first(expected))


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = output[0]
    return output


def test_a_vision_transformer_of_no_known_size_loads_whole(tmp_path: Path) -> None:
    network = randomised(VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4))
    torch.save(network, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert "made from the layers" in loaded.notes[-1]
    assert_same_network(loaded.module, network, 32)
    assert check_forward(loaded.module, (3, 32, 32)) == 4


def lstm(**attributes: object) -> nn.Module:
    layer = nn.LSTM(8, 4)
    vars(layer).update(attributes)
    return layer


def small_weights() -> nn.Module:
    layer = nn.LSTM(8, 4)
    for name in layer._parameters:
        one = torch.ones(1, 1) if "weight" in name else torch.ones(1)
        layer._parameters[name] = nn.Parameter(one)
    vars(layer)["_flat_weights"] = list(layer._parameters.values())
    vars(layer)["hidden_size"] = 60_000
    return layer


def other_order() -> nn.Module:
    layer = nn.LSTM(4, 4)
    names = [*layer._flat_weights_names]
    names[0], names[1] = names[1], names[0]
    vars(layer)["_all_weights"] = [names]
    return layer


def whole_numbers() -> nn.Module:
    layer = nn.GRU(8, 4)
    layer._parameters["bias_hh_l0"] = nn.Parameter(
        torch.zeros(12, dtype=torch.int64), requires_grad=False
    )
    vars(layer)["_flat_weights"] = list(layer._parameters.values())
    return layer


def attention(**attributes: object) -> nn.Module:
    layer = nn.MultiheadAttention(8, 2)
    vars(layer).update(attributes)
    return layer


def attention_with(name: str, weights: Tensor | None) -> nn.Module:
    layer = nn.MultiheadAttention(8, 2)
    layer._parameters[name] = None if weights is None else nn.Parameter(weights)
    return layer


CONTRADICTIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weights that are not there": (small_weights, r"weight_ih_l0 of shape \(240000, 8\)"),
    "a wide state": (lambda: lstm(hidden_size=2048), r"weight_ih_l0 of shape \(8192, 8\)"),
    "a wide input": (lambda: lstm(input_size=64), r"weight_ih_l0 of shape \(16, 64\)"),
    "many layers": (lambda: lstm(num_layers=10**9), "claims 1000000000 layers"),
    "two layers": (lambda: lstm(num_layers=2), "claims 2 layers"),
    "no layers": (lambda: lstm(num_layers=0), "claims 0 layers"),
    "half a layer": (lambda: lstm(num_layers=0.5), "claims 0.5 layers"),
    "both ways": (lambda: lstm(bidirectional=True), "claims 1 layers"),
    "three ways": (lambda: lstm(bidirectional=2), "bidirectional = 2, expected true or false"),
    "a projection": (lambda: lstm(proj_size=2), "claims 1 layers"),
    "a negative size": (lambda: lstm(hidden_size=-4), "hidden_size = -4, expected a whole number"),
    "no bias": (lambda: lstm(bias=False), "claims 1 layers"),
    "another order": (other_order, "lists its weights in another order"),
    "whole numbers": (whole_numbers, "bias_hh_l0 .* torch.int64"),
    "only the base": (lambda: nn.RNNBase("LSTM", 8, 4), "holds a RNNBase"),
    "a cell": (lambda: _cell(), r"weight_ih of shape \(16, 8\)"),
    "no heads": (lambda: attention(num_heads=0), "num_heads = 0, expected a whole number"),
    "other heads": (lambda: attention(num_heads=3), "claims 3 heads of 4 numbers for 8"),
    "long heads": (lambda: attention(head_dim=1000), "claims 2 heads of 1,000 numbers"),
    "wide attention": (
        lambda: attention(embed_dim=16, head_dim=8), r"out_proj.weight of shape \(16, 16\)"
    ),
    "short attention": (
        lambda: attention_with("in_proj_bias", torch.zeros(1)), r"in_proj_bias of shape \(24,\)"
    ),
    "no attention": (lambda: attention_with("in_proj_weight", None), "and there is none"),
    "parted attention": (
        lambda: attention(_qkv_same_embed_dim=False), r"q_proj_weight of shape \(8, 8\)"
    ),
}  # fmt: skip


def _cell() -> nn.Module:
    cell = nn.LSTMCell(8, 4)
    cell._parameters["weight_ih"] = nn.Parameter(torch.zeros(1, 1))
    return cell


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_layers_that_claim_other_weights_than_they_have_are_refused(
    what: str, tmp_path: Path
) -> None:
    """torch believes the claim: it reads past the weights, or the process ends by a signal."""
    make, message = CONTRADICTIONS[what]
    torch.save(nn.Sequential(nn.Flatten(2), make()), tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=message):
        load_network(tmp_path / "model.pt")


def test_transformer_layers_are_refused_with_a_way_out(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.self_attn.num_heads = 0
    for whole in (layer, nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)):
        torch.save(nn.Sequential(nn.Flatten(2), whole), tmp_path / "model.pt")
        with pytest.raises(RefusedFile, match=r"a shortcut that believes .* give the same network"):
            load_network(tmp_path / "model.pt")
