"""Vision transformers with timm's names for their weights, so that timm need not be installed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from ..errors import ArchitectureError

#: Name without the image size -> width, blocks, heads, patch size in pixels.
VIT_SIZES = {
    "vit_tiny_patch16": (192, 12, 3, 16),
    "vit_small_patch16": (384, 12, 6, 16),
    "vit_small_patch32": (384, 12, 6, 32),
    "vit_base_patch16": (768, 12, 12, 16),
    "vit_base_patch32": (768, 12, 12, 32),
    "vit_large_patch16": (1024, 24, 16, 16),
    "vit_large_patch32": (1024, 24, 16, 32),
}
VIT_NAMES = frozenset(f"{size}_{pixels}" for size in VIT_SIZES for pixels in (224, 384))

#: Which of timm's classes each class here stands for, across timm's releases.
TIMM_CLASSES = {
    "VisionTransformer": ("timm.models.vision_transformer.VisionTransformer",),
    "Block": ("timm.models.vision_transformer.Block",),
    "Attention": (
        "timm.models.vision_transformer.Attention",
        "timm.layers.attention.Attention",
    ),
    "Mlp": ("timm.models.layers.mlp.Mlp", "timm.layers.mlp.Mlp"),
    "PatchEmbed": (
        "timm.models.layers.patch_embed.PatchEmbed",
        "timm.layers.patch_embed.PatchEmbed",
    ),
}

#: Layers of timm's that pass their input on in an evaluated network.
TIMM_IDLE = ("timm.models.layers.drop.DropPath", "timm.layers.drop.DropPath")
#: Attributes of timm's classes that say nothing about what a plain, evaluated network computes.
TIMM_INERT = {
    "default_cfg",
    "drop_prob",
    "embed_dim",
    "fast_attn",
    "feature_info",
    "fused_attn",
    "grad_checkpointing",
    "grid_size",
    "head_hidden_size",
    "img_size",
    "num_classes",
    "num_features",
    "num_patches",
    "patch_size",
    "pool_include_prefix",
    "pretrained_cfg",
    "scale_by_keep",
    "strict_img_size",
}
#: Attributes that change what is computed, but for this one value.
TIMM_PLAIN: dict[str, object] = {
    "attn_pool": None,
    "dist_token": None,
    "dynamic_img_pad": False,
    "dynamic_img_size": False,
    "has_class_token": True,
    "head_dist": None,
    "num_prefix_tokens": 1,
    "num_reg_tokens": 0,
    "num_tokens": 1,
    "output_fmt": None,
    "reg_token": None,
}


@dataclass(frozen=True, kw_only=True)
class VitShape:
    """Everything that the weights of a vision transformer do or do not say about it.

    Attributes:
        width: length of a token.
        depth: number of blocks.
        heads: attention heads per block; the weights do not show it.
        hidden: width of the perceptron in each block.
        patch: side of a patch in pixels.
        tokens: number of patches.
        channels: image channels.
        num_classes: number of logits.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    tokens: int
    channels: int = 3
    num_classes: int = 1000


class PatchEmbed(nn.Module):
    """Cuts the image into patches and maps each to a token."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.proj = nn.Conv2d(shape.channels, shape.width, shape.patch, shape.patch)
        self.flatten = True

    def forward(self, images: Tensor) -> Tensor:
        """Tokens `(N, patches, width)` of images `(N, C, H, W)`."""
        features: Tensor = self.proj(images)
        return features.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.num_heads = shape.heads
        self.head_dim = shape.width // shape.heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.proj = nn.Linear(shape.width, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape `(N, T, width)`."""
        batch, count, width = tokens.shape
        parts: Tensor = self.qkv(tokens)
        parts = parts.reshape(batch, count, 3, self.num_heads, width // self.num_heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return out


class Mlp(nn.Module):
    """Perceptron with one hidden layer."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.width, shape.hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(shape.hidden, shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape `(N, T, width)`."""
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention and perceptron, each normalised before and added to its input."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.width, eps=1e-6)
        self.attn = Attention(shape)
        self.norm2 = nn.LayerNorm(shape.width, eps=1e-6)
        self.mlp = Mlp(shape)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens of the same shape `(N, T, width)`."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class VisionTransformer(nn.Module):
    """Image classifier of Dosovitskiy et al. (ICLR 2021), with timm's parameter names."""

    def __init__(self, shape: VitShape) -> None:
        super().__init__()
        self.global_pool = "token"
        self.no_embed_class = False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.tokens + 1, shape.width))
        self.patch_embed = PatchEmbed(shape)
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.depth)))
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.head = nn.Linear(shape.width, shape.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, num_classes)`."""
        tokens = self.patch_embed(images)
        first = self.cls_token.expand(len(tokens), -1, -1)
        tokens = torch.cat((first, tokens), dim=1) + self.pos_embed
        tokens = self.norm(self.blocks(tokens))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


def timm_class(name: str) -> type[nn.Module] | None:
    """The class here that stands for timm's class `name`, or None if none does."""
    for kind in (VisionTransformer, Block, Attention, Mlp, PatchEmbed):
        if name in TIMM_CLASSES[kind.__name__]:
            return kind
    return nn.Identity if name in TIMM_IDLE else None


def named_vit(
    name: str, *, num_classes: int = 1000, image_size: int | None = None
) -> VisionTransformer:
    """A freshly initialised network of timm's name, such as `vit_base_patch32_224`.

    Args:
        name: one of `VIT_NAMES`.
        num_classes: number of logits.
        image_size: side of the images in pixels; None for the size in the name.
    """
    size, _, pixels = name.rpartition("_")
    width, depth, heads, patch = VIT_SIZES[size]
    side = (image_size or int(pixels)) // patch
    return VisionTransformer(
        VitShape(
            width=width,
            depth=depth,
            heads=heads,
            hidden=4 * width,
            patch=patch,
            tokens=side * side,
            num_classes=num_classes,
        )
    )


def image_size_of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The image side in pixels that the weights of the network `name` were trained on."""
    tokens = shapes.get("pos_embed", ())
    if len(tokens) != 3:
        return None
    if tokens[1] < 2:
        raise ArchitectureError(f"pos_embed has {tokens[1]} tokens; a transformer has at least 2")
    return math.isqrt(tokens[1] - 1) * VIT_SIZES[name.rpartition("_")[0]][3]


def shape_of(shapes: Mapping[str, tuple[int, ...]], heads: int) -> VitShape:
    """The shape of the transformer that weights of these shapes belong to.

    Raises:
        ArchitectureError: they are not the weights of such a transformer.
    """
    try:
        width, channels, patch, _ = shapes["patch_embed.proj.weight"]
        found = VitShape(
            width=width,
            depth=len({key.split(".")[1] for key in shapes if key.startswith("blocks.")}),
            heads=heads,
            hidden=shapes["blocks.0.mlp.fc1.weight"][0],
            patch=patch,
            tokens=shapes["pos_embed"][1] - 1,
            channels=channels,
            num_classes=shapes["head.weight"][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ArchitectureError(
            f"the vision transformer in the file is not of timm's plain kind: {error!r}"
        ) from error
    if found.tokens < 1:
        raise ArchitectureError(f"pos_embed has {found.tokens + 1} tokens; at least 2 are needed")
    if heads < 1 or width % heads:
        raise ArchitectureError(f"a transformer of width {width} cannot have {heads} heads")
    return found
