"""The classifier as the engine sees it: frozen, folded, bounded in memory, counted."""

from __future__ import annotations

from collections import Counter, defaultdict
from copy import deepcopy
from typing import Literal, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..seeds import generator_for
from ..subject import Subject
from .memory import images_per_pass, saved_bytes_per_image

Precision = Literal["float32", "bfloat16"]
"""What gradients are computed in. What counts (logits, success rates) is always float32."""

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]

PROBES = 4
"""Images, and as many of noise, on which a folded network has to answer as before."""

ROUNDING = 0.02
"""How far folding may move logits, as a share of the largest: float32 gives 1e-6, TF32 1e-3."""


class Frozen(Protocol):
    """What the engine needs of a frozen classifier; see `FrozenNetwork`."""

    device: torch.device
    image_shape: tuple[int, int, int]
    images_per_pass: int

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)`, without gradient."""
        ...

    def input_gradient(
        self, images: Tensor, targets: Tensor, *, soft_share: float = 0.0
    ) -> tuple[Tensor, Tensor]:
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
        self._module, self.folded = freeze(subject.module, self._probe(subject))
        self.images_per_pass = images_at_once or images_per_pass(
            saved_bytes_per_image(self._for_gradient, self.image_shape, self.device), self.device
        )

    def _probe(self, subject: Subject) -> Tensor:
        draw = generator_for("folding", self.image_shape)
        noise = torch.rand(PROBES, *self.image_shape, generator=draw).to(self.device)
        return self._preprocessing(torch.cat((noise, subject.examples.images[:PROBES])))

    def _forward(self, images: Tensor) -> Tensor:
        network_input = self._preprocessing(images)
        logits: Tensor = self._module(network_input.contiguous(memory_format=torch.channels_last))
        return logits

    def _for_gradient(self, images: Tensor) -> Tensor:
        """Float32 logits whose gradient is taken in the wanted precision."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            return self._forward(images).float()

    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in `[0, 1]`, without gradient."""
        self.forward_passes += len(images)
        with torch.no_grad():
            parts = [self._forward(part) for part in torch.split(images, self.images_per_pass)]
        return torch.cat(parts)

    def input_gradient(
        self, images: Tensor, targets: Tensor, *, soft_share: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Gradient of each image's loss, and whether it is classified as its target.

        Args:
            images: float32 `(N, C, H, W)` in `[0, 1]`.
            targets: int64 `(N,)`.
            soft_share: of the loss, see `target_loss`.

        Returns:
            gradient `(N, C, H, W)` of the loss in the image, and bool `(N,)`.
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
                logits = self._for_gradient(part)
                loss = target_loss(logits, wanted, soft_share)
            gradients.append(torch.autograd.grad(loss, part)[0])
            hits.append(logits.detach().argmax(1) == wanted)
        return torch.cat(gradients), torch.cat(hits)


def target_loss(logits: Tensor, targets: Tensor, soft_share: float) -> Tensor:
    """How far images are from their targets, summed over them.

    Source of the soft part: the generalised cross-entropy at q = 1 (Zhang and Sabuncu, NeurIPS
    2018).

    Args:
        logits: `(N, K)`.
        targets: int64 `(N,)`.
        soft_share: share of one minus the target's probability, in `[0, 1)`; the rest is
            cross-entropy.
    """
    if not soft_share:
        return F.cross_entropy(logits, targets, reduction="sum")
    each = F.cross_entropy(logits, targets, reduction="none")
    return ((1 - soft_share) * each + soft_share * (1 - (-each).exp())).sum()


def freeze(module: nn.Module, probe: Tensor | None = None) -> tuple[nn.Module, int]:
    """A copy of a network for inversion, and the number of BatchNorm layers folded into it.

    The copy is in eval mode, has no trainable weights and lies channels-last in memory.

    Args:
        module: left as it is.
        probe: network input that the copy has to answer as the network does.
    """
    copy = deepcopy(module).eval()
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    folded, count = fold_batch_norm(copy, probe)
    return folded.to(memory_format=torch.channels_last), count


def fold_batch_norm(module: nn.Module, probe: Tensor | None = None) -> tuple[nn.Module, int]:
    """The network with every BatchNorm2d that only follows a Conv2d folded into it.

    A trace says which layers follow each other, and no more: what comes back is a copy with other
    layers in its places that runs the network's own forward. Code that torch would write from a
    trace looks parts up by their names, and may find others than the network does. A network that
    cannot be traced, or that would answer otherwise afterwards, is returned as it is, with a count
    of 0: folding saves time and changes nothing else.

    Args:
        module: in eval mode; left as it is.
        probe: network input on which both have to agree; None trusts the trace.
    """
    try:
        folded = deepcopy(module)
        count = _fold(folded)
        same = count > 0 and (probe is None or _agree(module, folded, probe))
    except Exception:  # tracing runs arbitrary forward code, which may fail in any way
        return module, 0
    return (folded, count) if same else (module, 0)


def _agree(module: nn.Module, folded: nn.Module, probe: Tensor) -> bool:
    devices = [probe.device] if probe.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        expected, found = module(probe.clone()), folded(probe.clone())
    allowed = ROUNDING * float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0, atol=allowed)


def _fold(module: nn.Module) -> int:
    """Folds in place, and counts what was folded."""
    graph = fx.Tracer().trace(module)
    modules = dict(module.named_modules())
    if len(modules) < sum(1 for _ in module.modules()):  # two parts of one path
        return 0
    places, shared = _places(module), _used_elsewhere(graph)
    pairs = [pair for node in graph.nodes if (pair := _foldable(node, modules, shared))]
    pairs = [pair for pair in pairs if all(len(places[part]) == 1 for part in pair)]
    for conv, bn in pairs:
        for part, instead in ((conv, fuse_conv_bn_eval(conv, bn)), (bn, nn.Identity().eval())):
            [(parent, name)] = places[part]
            parent._modules[name] = instead
    return len(pairs)


def _places(module: nn.Module) -> dict[nn.Module, list[tuple[nn.Module, str]]]:
    """Every part -> the parents that hold it, with the name that they hold it under."""
    places: dict[nn.Module, list[tuple[nn.Module, str]]] = defaultdict(list)
    for parent in module.modules():
        for name, part in parent._modules.items():
            if part is not None:
                places[part].append((parent, name))
    return places


def _foldable(node: fx.Node, modules: dict[str, nn.Module], shared: set[str]) -> Pair | None:
    """A convolution and this node's layer, if that is a BatchNorm2d that is fed by nothing else."""
    before = node.args[0] if node.args else None
    if not isinstance(before, fx.Node) or {node.op, before.op} != {"call_module"}:
        return None
    conv, bn = modules[str(before.target)], modules[str(node.target)]
    if type(conv) is not nn.Conv2d or type(bn) is not nn.BatchNorm2d or len(before.users) > 1:
        return None
    if not shared.isdisjoint((str(before.target), str(node.target))):
        return None
    # Without these it normalises by the batch.
    return None if bn.running_mean is None or bn.running_var is None else (conv, bn)


def _used_elsewhere(graph: fx.Graph) -> set[str]:
    """Paths of the layers that are called from more than one place, or whose numbers are used."""
    called = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    read = (str(node.target).split(".") for node in graph.nodes if node.op == "get_attr")
    owners = {".".join(parts[:end]) for parts in read for end in range(1, len(parts))}
    return owners | {path for path, times in called.items() if times > 1}
