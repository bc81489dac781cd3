"""A subject's network, opened: its hidden layers can be read, changed, and started from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .hardeners.flow import BATCH_NORMS, CONVOLUTIONS, flow_of
from .inversion.memory import images_per_pass, saved_bytes_per_image
from .subject import Subject

WEIGHTED = (*CONVOLUTIONS, nn.Linear)

TOLERANCE = 1e-3
"""Largest difference of equal logits, as a share of the largest of them: rounding of other shapes
of the same sum."""

Change = Callable[[Tensor], Tensor]
"""What a layer put out `(N, ...)` -> what goes on in its place."""


@dataclass(frozen=True, kw_only=True)
class HiddenLayer:
    """The output of one module that is called once in a pass.

    Attributes:
        name: of the module in the network.
        shape: of its output for one image.
        depth: convolutions and linear layers that were passed when it was left.
        channels_last: whether the last axis of its output is that of the channels, not the first.
    """

    name: str
    shape: tuple[int, ...]
    depth: int
    channels_last: bool = False

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in a batch of outputs: 1 or -1."""
        return -1 if self.channels_last else 1

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return self.shape[-1] if self.channels_last else self.shape[0]

    @property
    def maps(self) -> bool:
        """Whether every channel has several places: maps, or the tokens of a transformer."""
        return torch.Size(self.shape).numel() > self.channels

    @property
    def spatial(self) -> bool:
        """Whether it puts out maps of more than one pixel."""
        return len(self.shape) == 3 and self.maps


class OpenNetwork:
    """A private frozen copy of a subject's network whose hidden layers are at hand.

    Attributes:
        device: where the network and all tensors live.
        image_shape: `(C, H, W)`.
        num_classes: K.
        images_per_pass: images that fit through forward and backward at a time.
        forward_passes: images that went forward so far; a pass that starts inside counts as well.
        backward_passes: images whose gradient was taken so far; whoever takes it counts it.
    """

    def __init__(self, subject: Subject, *, images_at_once: int | None = None) -> None:
        """Copy and freeze a subject.

        Args:
            subject: left as it is.
            images_at_once: images per pass; from the free memory if None.
        """
        self.device = subject.examples.images.device
        self.image_shape = subject.image_shape
        self.num_classes = subject.num_classes
        self.forward_passes = 0
        self.backward_passes = 0
        self._preprocessing = subject.preprocessing
        self._module = deepcopy(subject.module).eval()
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)
        self._subject = replace(subject, module=self._module)
        self._widens: dict[str, bool] = {}
        self._parts = dict(self._module.named_modules())
        self.images_per_pass = images_at_once or images_per_pass(
            saved_bytes_per_image(self._run, self.image_shape, self.device), self.device
        )

    def _run(self, images: Tensor) -> Tensor:
        logits: Tensor = self._module(self._preprocessing(images))
        return logits

    @property
    def grey(self) -> Tensor:
        """One grey image `(1, C, H, W)`."""
        return torch.full((1, *self.image_shape), 0.5, device=self.device)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of images `(N, C, H, W)` in `[0, 1]`, differentiable in the images."""
        self.forward_passes += len(images)
        return self._run(images)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` without gradient, in passes of bounded memory."""
        return torch.cat([self(part) for part in torch.split(images, self.images_per_pass)])

    @contextmanager
    def reading(
        self, names: Collection[str], *, entering: bool = False
    ) -> Iterator[dict[str, Tensor]]:
        """What these layers put out in the pass that was made last, while the block lasts.

        Args:
            names: of the layers.
            entering: what they take in instead; of several arguments the first.
        """
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> RemovableHandle:
            def note(_: nn.Module, given: tuple[Tensor, ...], output: Tensor | None = None) -> None:
                # A layer behind may work in place on what this one put out.
                seen[name] = (given[0] if output is None else output).clone()

            part = self._parts[name]
            handle: RemovableHandle = (
                part.register_forward_pre_hook(note)
                if entering
                else part.register_forward_hook(note)
            )
            return handle

        with _removed([keep(name) for name in names]):
            yield seen

    @torch.no_grad()
    def features(self, name: str, images: Tensor, *, entering: bool = False) -> Tensor:
        """What a layer makes of images `(N, C, H, W)`, or takes in: `(N, ...)`; no gradient."""
        parts = []
        with self.reading([name], entering=entering) as seen:
            for part in torch.split(images, self.images_per_pass):
                self(part)
                parts.append(seen[name])
        return torch.cat(parts)

    def changed(self, images: Tensor, *changes: tuple[str, Change]) -> Tensor:
        """Logits of a pass in which layers' outputs go on changed, maybe with more rows.

        Args:
            images: `(N, C, H, W)` in `[0, 1]`.
            changes: names of layers and what is made of their outputs; of one layer in this order.
        """

        def putting(change: Change) -> Callable[[nn.Module, object, Tensor], Tensor]:
            return lambda _, __, output: change(output)

        with _removed([self._parts[n].register_forward_hook(putting(c)) for n, c in changes]):
            logits = self._run(images)
        self.forward_passes += len(logits)
        return logits

    def resumed(self, name: str, values: Tensor) -> Tensor:
        """Logits `(N, K)` of values `(N, ...)` of a layer that all goes through (`is_cut`).

        What lies before the layer runs for one grey image only, whatever N.
        """
        return self.changed(self.grey, (name, lambda _: values.clone()))

    @torch.no_grad()
    def layers(self) -> tuple[HiddenLayer, ...]:
        """Every module that is called once and puts out one tensor, in order of leaving.

        The network itself and what follows its last layer with weights is left out.
        """
        seen: list[HiddenLayer] = []
        passed = 0
        made: list[_Channels] = []
        handles: list[RemovableHandle] = []

        def watch(name: str, module: nn.Module) -> None:
            def note(_: nn.Module, __: object, output: object) -> None:
                nonlocal passed
                passed += isinstance(module, WEIGHTED)
                made.extend(_channels_of(module))
                if isinstance(output, Tensor) and output.ndim > 1 and len(output) == 1:
                    shape = tuple(output.shape[1:])
                    seen.append(
                        HiddenLayer(
                            name=name, shape=shape, depth=passed,
                            channels_last=_channels_last(shape, made),
                        )
                    )  # fmt: skip

            handles.append(module.register_forward_hook(note))

        for name, module in self._parts.items():
            if name:
                watch(name, module)
        with _removed(handles):
            self(self.grey)
        calls = Counter(layer.name for layer in seen)
        return tuple(layer for layer in seen if calls[layer.name] == 1 and layer.depth < passed)

    @torch.no_grad()
    def last_weighted(self) -> str | None:
        """The convolution or linear layer that is called last; None without any."""
        called: list[str] = []

        def watch(name: str) -> Callable[[nn.Module, object, object], None]:
            return lambda _, __, ___: called.append(name)

        weighted = [name for name, part in self._parts.items() if isinstance(part, WEIGHTED)]
        with _removed([self._parts[n].register_forward_hook(watch(n)) for n in weighted]):
            self(self.grey)
        return called[-1] if called else None

    def stimulable(self) -> tuple[HiddenLayer, ...]:
        """Convolutions and linear layers but the last, behind a BatchNorm that alone reads them."""
        flow = flow_of(self._subject)
        self.forward_passes += 1
        known = {layer.name: layer for layer in self.layers()}
        found = []
        for layer in flow.layers:
            if isinstance(layer.module, WEIGHTED):
                fed = [o for o in flow.fed_directly(layer) if isinstance(o.module, BATCH_NORMS)]
                alone = len(fed) == len(flow.readers(layer.left)) == 1
                name = fed[0].name if alone else layer.name
                found += [known[name]] if name in known else []
        return tuple(found)

    @torch.no_grad()
    def is_cut(self, layer: HiddenLayer, noise: Tensor) -> bool:
        """Whether a layer's output alone decides the logits, so that a pass may start there.

        Tried, not deduced: what it makes of two images, put in for a grey one, has to give the
        logits of the two.

        Args:
            layer: of this network.
            noise: two images `(2, C, H, W)` in `[0, 1]` that have nothing in common.
        """
        with self.reading([layer.name]) as seen:
            wanted = self(noise)
        try:
            found = self.resumed(layer.name, seen[layer.name])
        except Exception:  # forward code of any kind may stumble over what does not belong there
            return False
        return _equal(found, wanted)

    @torch.no_grad()
    def widening(
        self, layer: HiddenLayer, layers: Sequence[HiddenLayer], noise: Tensor
    ) -> HiddenLayer | None:
        """The last layer, this one at most, behind which one image may become several.

        What goes around that layer has to allow it, and what this layer puts out for each of the
        several is changed on its own. Tried, not deduced. None: several have to go in.

        Args:
            layer: of this network.
            layers: all of them in order of leaving, as `layers()` gives them.
            noise: images `(N, C, H, W)` in `[0, 1]`; the first is used.
        """
        upto = [one.name for one in layers].index(layer.name) + 1
        doubled = (layer.name, _second_doubled)
        plain = self.changed(noise[:1]).repeat(2, 1)
        wanted = self.changed(noise[:1].repeat(2, 1, 1, 1), doubled)
        for one in reversed(layers[:upto]):
            twice = (one.name, _twice)
            if one.name not in self._widens:
                self._widens[one.name] = self._gives(plain, noise[:1], twice)
            if self._widens[one.name] and self._gives(wanted, noise[:1], twice, doubled):
                return one
        return None

    def _gives(self, wanted: Tensor, images: Tensor, *changes: tuple[str, Change]) -> bool:
        try:
            return _equal(self.changed(images, *changes), wanted)
        except Exception:  # see is_cut
            return False


def _twice(output: Tensor) -> Tensor:
    return torch.cat([output, output])


def _second_doubled(output: Tensor) -> Tensor:
    return torch.cat([output[:1], 2 * output[1:]])


@dataclass(frozen=True)
class _Channels:
    """How many channels a module with weights puts out, and whether along the last axis."""

    count: int
    last: bool


def _channels_of(module: nn.Module) -> Iterator[_Channels]:
    if isinstance(module, nn.Linear):
        yield _Channels(module.out_features, last=True)
    if isinstance(module, nn.LayerNorm):
        yield _Channels(module.normalized_shape[-1], last=True)
    if isinstance(module, CONVOLUTIONS):
        yield _Channels(module.out_channels, last=False)
    if isinstance(module, (*BATCH_NORMS, nn.InstanceNorm2d)):
        yield _Channels(module.num_features, last=False)
    if isinstance(module, nn.GroupNorm):
        yield _Channels(module.num_channels, last=False)


def _channels_last(shape: tuple[int, ...], made: Sequence[_Channels]) -> bool:
    """Where the channels of an output lie: where as many are as weights made, the latest first.

    What turns axes has no weights, so that an axis alone cannot tell. Where both ends are as long,
    they lie as those weights left them; where no weights made so many, first in maps and last in
    all else.
    """
    for one in reversed(made):
        first, last = shape[0] == one.count, shape[-1] == one.count
        if first or last:
            return one.last if first and last else last
    return len(shape) != 3


def noise_like(network: OpenNetwork, count: int, generator: torch.Generator) -> Tensor:
    """Images `(count, C, H, W)` uniform in `[0, 1]`, on the network's device."""
    return torch.rand((count, *network.image_shape), generator=generator).to(network.device)


def _equal(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    largest = float(wanted.abs().max())
    return float((found - wanted).abs().max()) <= TOLERANCE * max(largest, 1e-6)


@contextmanager
def _removed(handles: list[RemovableHandle]) -> Iterator[None]:
    """Hooks that are gone when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
