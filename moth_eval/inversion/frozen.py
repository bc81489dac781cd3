"""The classifier as the engine sees it: frozen, folded, bounded in memory, counted."""

from __future__ import annotations

import operator
import re
from copy import deepcopy
from typing import Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..subject import Subject
from .memory import images_per_pass, saved_bytes_per_image

Precision = Literal["float32", "bfloat16"]
"""What gradients are computed in. What counts (logits, success rates) is always float32."""

_PLAIN = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class Frozen(Protocol):
    """What the engine needs of a frozen classifier; see `FrozenNetwork`."""

    device: torch.device
    image_shape: tuple[int, int, int]
    images_per_pass: int

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)`, without gradient."""
        ...

    def input_gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of each image's loss in the image, and bool `(N,)`: whether it is flipped."""
        ...


class FrozenNetwork:
    """A private copy of a subject's network that gives losses and input gradients.

    The copy has no trainable weights, BatchNorm layers that follow a convolution are folded into
    it where the network can be traced (exact up to rounding), and channels lie last in memory.
    Images are taken through in passes of bounded memory, however many are asked for.

    Attributes:
        device: where the network and all tensors live.
        image_shape: `(C, H, W)`.
        num_classes: K.
        images_per_pass: images that go through the network at a time.
        folded: number of BatchNorm layers folded away.
        forward_passes: images that went forward so far.
        backward_passes: images whose gradient was taken so far.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        images_at_once: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        """Freeze a subject.

        Args:
            subject: left as it is.
            images_at_once: images per pass; from the free memory if None.
            precision: of the gradients. `bfloat16` takes convolutions and products with 8 bits of
                mantissa where the device has them: faster, and other steps on the way to triggers
                of the same size.
        """
        self._half = precision == "bfloat16"
        self._preprocessing = subject.preprocessing
        self.device = subject.examples.images.device
        self.image_shape = subject.image_shape
        self.num_classes = subject.num_classes
        self.forward_passes = 0
        self.backward_passes = 0
        self._module, self.folded = freeze(subject.module)
        self.images_per_pass = images_at_once or images_per_pass(
            saved_bytes_per_image(
                self._forward,
                self.image_shape,
                self.device,
                weights=self._module.state_dict().values(),
            ),
            self.device,
        )

    def _forward(self, images: Tensor) -> Tensor:
        network_input = self._preprocessing(images)
        logits: Tensor = self._module(network_input.contiguous(memory_format=torch.channels_last))
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in `[0, 1]`, without gradient."""
        self.forward_passes += len(images)
        with torch.no_grad():
            parts = [self._forward(part) for part in torch.split(images, self.images_per_pass)]
        return torch.cat(parts)

    def input_gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of each image's cross-entropy, and whether it is classified as its target.

        Args:
            images: float32 `(N, C, H, W)` in `[0, 1]`.
            targets: int64 `(N,)`.

        Returns:
            gradient `(N, C, H, W)` of the cross-entropy in the image, and bool `(N,)`.
        """
        self.forward_passes += len(images)
        self.backward_passes += len(images)
        gradients, hits = [], []
        pairs = zip(
            torch.split(images, self.images_per_pass),
            torch.split(targets, self.images_per_pass),
            strict=True,
        )
        for part, wanted in pairs:
            part = part.detach().requires_grad_()
            with torch.enable_grad():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
                    logits = self._forward(part).float()
                loss = F.cross_entropy(logits, wanted, reduction="sum")
            gradients.append(torch.autograd.grad(loss, part)[0])
            hits.append(logits.detach().argmax(1) == wanted)
        return torch.cat(gradients), torch.cat(hits)


def freeze(module: nn.Module) -> tuple[nn.Module, int]:
    """A copy of a network for inversion, and the number of BatchNorm layers folded into it.

    The copy is in eval mode, has no trainable weights and lies channels-last in memory.

    Args:
        module: left as it is.
    """
    copy = deepcopy(module).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    folded, count = fold_batch_norm(copy)
    return folded.to(memory_format=torch.channels_last), count


def fold_batch_norm(module: nn.Module) -> tuple[nn.Module, int]:
    """The network with every BatchNorm2d that only follows a Conv2d folded into it.

    A network that cannot be traced symbolically is returned as it is, with a count of 0: folding
    saves time and changes nothing else. So is one whose parts have odd names: torch writes them
    into the code that it makes of a traced network, unescaped, and runs it.

    Args:
        module: in eval mode; its convolutions are replaced in place.
    """
    tables = (module.named_modules(), module.named_parameters(), module.named_buffers())
    if not all(_PLAIN.fullmatch(name) for table in tables for name, _ in table if name):
        return module, 0
    try:
        traced = fx.symbolic_trace(module)
    except Exception:  # tracing runs arbitrary forward code, which may fail in any way
        return module, 0
    modules = dict(traced.named_modules())
    pairs = [pair for node in traced.graph.nodes if (pair := _foldable(node, modules))]
    for conv_node, bn_node in pairs:
        conv, bn = modules[str(conv_node.target)], modules[str(bn_node.target)]
        assert isinstance(conv, nn.Conv2d)  # noqa: S101 - _foldable looked
        assert isinstance(bn, nn.BatchNorm2d)  # noqa: S101
        parent, _, name = str(conv_node.target).rpartition(".")
        setattr(modules[parent], name, fuse_conv_bn_eval(conv, bn))
        bn_node.replace_all_uses_with(conv_node)
        traced.graph.erase_node(bn_node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval(), len(pairs)


def _foldable(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, fx.Node] | None:
    """The convolution and this node, if it is a BatchNorm2d that is fed by nothing else."""
    if node.op != "call_module" or type(modules[str(node.target)]) is not nn.BatchNorm2d:
        return None
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    if type(modules[str(before.target)]) is not nn.Conv2d or _shared(before) or _shared(node):
        return None
    bn = modules[str(node.target)]
    return (before, node) if operator.attrgetter("track_running_stats")(bn) else None


def _shared(node: fx.Node) -> bool:
    """Whether the module behind a node is called from more than one place."""
    calls = [n for n in node.graph.nodes if n.op == "call_module" and n.target == node.target]
    return len(calls) > 1
