from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import ArchitectureError, RefusedFile
from moth_eval.loading import vit
from moth_eval.loading.files import check_forward, load_network
from tests.support.torch_files import assert_same_network, rename_classes

SHAPE = vit.VitShape(width=32, depth=2, heads=4, hidden=64, patch=8, tokens=16, num_classes=5)
TIMM = {
    "VisionTransformer": "timm.models.vision_transformer.VisionTransformer",
    "Block": "timm.models.vision_transformer.Block",
    "Attention": "timm.models.vision_transformer.Attention",
    "Mlp": "timm.models.layers.mlp.Mlp",
    "PatchEmbed": "timm.models.layers.patch_embed.PatchEmbed",
}


def transformer() -> vit.VisionTransformer:
    network = vit.VisionTransformer(SHAPE)
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    return network.eval()


def save_as_timm(network: nn.Module, path: Path) -> None:
    """As timm pickles it, with the layers that do nothing in an evaluated network."""
    network.pos_drop = nn.Dropout(0.0)
    network.norm_pre = nn.Identity()
    network.fc_norm = nn.Identity()
    for block in network.blocks:
        block.drop_path1 = nn.Identity()
        block.attn.attn_drop = nn.Dropout(0.0)
        block.mlp.drop1 = nn.Dropout(0.0)
    torch.save(network, path)
    rename_classes(path, {f"moth_eval.loading.vit.{ours}": name for ours, name in TIMM.items()})


def test_pickled_timm_transformer_is_rebuilt_without_timm(tmp_path: Path) -> None:
    expected = transformer()
    save_as_timm(transformer(), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.notes == ("rebuilt as moth-eval's vit-32-patch8",)
    assert loaded.num_classes == 5
    assert_same_network(loaded.module, expected, 32)
    assert check_forward(loaded.module, (3, 32, 32)) == 5


def other_epsilon(network: vit.VisionTransformer) -> None:
    network.norm.eps = 0.1


def average_pooling(network: vit.VisionTransformer) -> None:
    network.global_pool = "avg"


def normalised_queries(network: vit.VisionTransformer) -> None:
    network.blocks[0].attn.q_norm = nn.LayerNorm(8)


def other_activation(network: vit.VisionTransformer) -> None:
    network.blocks[1].mlp.act = nn.ReLU()


def other_scale(network: vit.VisionTransformer) -> None:
    network.blocks[0].attn.scale = 40.0


def unknown_switch(network: vit.VisionTransformer) -> None:
    network.blocks[0].mlp.multiplier = 2


def padded_images(network: vit.VisionTransformer) -> None:
    network.patch_embed.dynamic_img_pad = True


@pytest.mark.parametrize(
    "change",
    [
        other_epsilon,
        average_pooling,
        normalised_queries,
        other_activation,
        other_scale,
        unknown_switch,
        padded_images,
    ],
)
def test_transformer_of_another_kind_is_refused(change: object, tmp_path: Path) -> None:
    assert callable(change)
    network = transformer()
    change(network)
    save_as_timm(network, tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=r"class timm\..*timm's code is not run.*--arch"):
        load_network(tmp_path / "model.pt")


@pytest.mark.parametrize("part", ["", "blocks.0.attn", "blocks.1.drop_path2"])
@pytest.mark.parametrize("name", ["forward", "eval", "train", "__call__"])
def test_part_of_timm_that_replaces_its_own_methods_is_refused(
    part: str, name: str, tmp_path: Path
) -> None:
    network = transformer()
    network.blocks[1].drop_path2 = nn.Identity()
    vars(network.get_submodule(part))[name] = 7
    save_as_timm(network, tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match=f"replaces its own '{name}'"):
        load_network(tmp_path / "model.pt")


def test_attributes_of_newer_timm_that_change_nothing_are_accepted(tmp_path: Path) -> None:
    network = transformer()
    network.num_prefix_tokens, network.num_reg_tokens, network.reg_token = 1, 0, None
    network.default_cfg = {"url": "", "mean": (0.5, 0.5, 0.5)}
    network.blocks[0].attn.fused_attn = True
    network.patch_embed.img_size, network.patch_embed.dynamic_img_pad = (32, 32), False
    save_as_timm(network, tmp_path / "model.pt")
    assert load_network(tmp_path / "model.pt").num_classes == 5


@pytest.mark.parametrize("tokens", [0, 1])
def test_transformer_without_tokens_is_an_error(tokens: int, tmp_path: Path) -> None:
    state = {"pos_embed": torch.zeros(1, tokens, 4), "head.weight": torch.zeros(3, 4)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ArchitectureError, match=f"{tokens} tokens"):
        load_network(tmp_path / "model.pt", architecture_name="vit_base_patch32_224")


def test_output_equals_the_formula_of_the_paper() -> None:
    network = transformer()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 16, -1)
    tokens = patches @ network.patch_embed.proj.weight.flatten(1).T + network.patch_embed.proj.bias
    tokens = torch.cat((network.cls_token.expand(2, -1, -1), tokens), 1) + network.pos_embed
    for block in network.blocks:
        parts = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
        heads = [part.view(2, 17, 4, 8).transpose(1, 2) for part in parts]
        weights = (heads[0] @ heads[1].transpose(2, 3) / 8**0.5).softmax(-1)
        mixed = (weights @ heads[2]).transpose(1, 2).reshape(2, 17, 32)
        tokens = tokens + block.attn.proj(mixed)
        tokens = tokens + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(tokens))))
    expected = network.head(network.norm(tokens)[:, 0])
    assert torch.allclose(network(images), expected, atol=1e-5)


def test_state_dict_of_a_named_transformer_tells_its_image_size(tmp_path: Path) -> None:
    expected = vit.named_vit("vit_tiny_patch16_224", num_classes=3, image_size=64).eval()
    torch.save(expected.state_dict(), tmp_path / "model.pt")
    name = "classification:vit_tiny_patch16_224"
    loaded = load_network(tmp_path / "model.pt", architecture_name=name)
    assert (loaded.architecture, loaded.num_classes) == ("vit_tiny_patch16_224", 3)
    assert_same_network(loaded.module, expected, 64)


def test_weights_that_are_no_transformer_have_no_shape() -> None:
    with pytest.raises(ArchitectureError, match=r"plain kind: KeyError"):
        vit.shape_of({"conv.weight": (1, 2, 3, 3)}, heads=4)


def test_heads_must_divide_the_width() -> None:
    shapes = {key: tuple(value.shape) for key, value in transformer().state_dict().items()}
    with pytest.raises(ArchitectureError, match="width 32 cannot have 5 heads"):
        vit.shape_of(shapes, heads=5)
