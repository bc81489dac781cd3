"""A first run of a loaded network, bounded beforehand, that says whether it classifies at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import RefusedFile
from ..seeds import generator_for
from .deadline import in_time
from .operations import numbers_of, steps_of

BATCH = 2
#: Elements that one operation may put out for one image; the largest of torchvision's networks
#: make about 15 million at 300 x 300 pixels.
MOST_PER_IMAGE = 1 << 27
#: Elements that one operation may put out in a pass over many images: 1 GiB of float32.
MOST_PER_PASS = 1 << 28
LARGEST_BATCH = 64
#: Numbers that all operations together may read or write for one image, or multiply and add: the
#: most that torchvision has, ViT-H at 518 x 518 pixels, takes 6e9 and 1e12.
MOST_NUMBERS = 1 << 33
MOST_STEPS = 1 << 41
#: Operations of one pass; torchvision's networks make up to 6,000.
MOST_OPERATIONS = 50_000
_BY_VALUE = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the first run of a network tells.

    Attributes:
        num_classes: the number of logits K.
        peak: elements that the largest operation puts out for one image.
    """

    num_classes: int
    peak: int

    @property
    def batch_size(self) -> int:
        """Images per pass whose largest layer fits into `MOST_PER_PASS`, at most 64."""
        return max(1, min(LARGEST_BATCH, MOST_PER_PASS // max(1, self.peak)))


def check_forward(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The number of logits that the network gives for images of this shape.

    Raises:
        RefusedFile: see `measure_forward`.
    """
    return measure_forward(module, image_shape).num_classes


def measure_forward(module: nn.Module, image_shape: tuple[int, int, int]) -> Measured:
    """The number of logits for images of this shape, and how much memory a pass takes.

    Args:
        module: the network, in eval mode, on the CPU.
        image_shape: `(C, H, W)` of the network's input.

    Raises:
        CannotRun: it cannot be run on such images.
        RefusedFile: it would take an absurd amount of memory or one that cannot be known, changes
            itself, or does not give finite logits `(N, K)`.
    """
    noise = torch.rand(BATCH, *image_shape, generator=generator_for("check_forward", image_shape))
    before = _state(module)
    with _first_run():
        peak = _peak(module, torch.zeros_like(noise))
        for images in (torch.zeros_like(noise), noise):
            logits = _run(module, images)
            _check_logits(logits, image_shape)
    _require_unchanged(module, before)
    return Measured(num_classes=logits.shape[1], peak=peak)


def require_bounded(module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Makes sure that images of this shape take neither endless memory nor endless time.

    Raises:
        RefusedFile: they would, or it cannot be run on them.
    """
    with _first_run():
        _peak(module, torch.zeros(BATCH, *image_shape))


@contextmanager
def _first_run() -> Iterator[None]:
    with (
        in_time("the first run of the network in the file"),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
    ):
        yield


class CannotRun(RefusedFile):
    """The network does not take images of this shape, or no images at all."""


def _run(module: nn.Module, images: Tensor) -> Any:
    try:
        return module(images)
    except RefusedFile:
        raise
    except Exception as error:  # whatever layers put together by a stranger raise
        raise CannotRun(
            f"the network in the file cannot be run on images of shape {tuple(images.shape[1:])}: "
            f"{error!r}. Check the image size; if it was saved by a much older torchvision, give "
            "its architecture with --arch"
        ) from error


def _check_logits(logits: object, image_shape: tuple[int, int, int]) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != BATCH:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RefusedFile(
            f"the network in the file is no classifier: for {BATCH} images of shape {image_shape} "
            f"expected logits ({BATCH}, K), got {got}"
        )
    if logits.shape[1] < 2:
        raise RefusedFile(
            f"the network in the file gives {logits.shape[1]} logits per image, expected one for "
            "each of at least two classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise RefusedFile(
            "the network in the file gives infinite or undefined logits for an ordinary image; its "
            "weights are damaged"
        )


def _state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, bool]]:
    """Copies of the buffers, and the training flags of all layers."""
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    return buffers, {name: part.training for name, part in module.named_modules()}


def _require_unchanged(
    module: nn.Module, before: tuple[dict[str, Tensor], dict[str, bool]]
) -> None:
    buffers, flags = _state(module)
    changed = [name for name, old in before[0].items() if not _same(old, buffers.get(name))]
    changed += [f"{name}.training" for name, old in before[1].items() if flags.get(name) != old]
    if changed:
        raise RefusedFile(
            f"the network in the file changes itself when it is run in eval mode ({changed[0]}), "
            "so what it says depends on what it saw before; give a network whose evaluation "
            "leaves its buffers and training flags alone"
        )


def _same(old: Tensor, new: Tensor | None) -> bool:
    if new is None or new.shape != old.shape:
        return False
    return bool(((new == old) | ((new != new) & (old != old))).all())


def _peak(module: nn.Module, images: Tensor) -> int:
    """Elements that the largest operation puts out for one image, found without memory for them.

    Raises:
        RefusedFile: it is more than any classifier needs, or cannot be known before the memory
            would be taken.
    """
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    meter = _Meter(real=False)
    try:
        with _named_by(module, meter), meter:
            functional_call(module, shapes, (images.to("meta"),))
    except RefusedFile:
        raise
    except Exception:  # a network that looks at values cannot be run on shapes alone
        meter = _Meter(real=True)
        with _named_by(module, meter), meter:
            _run(module, images)
    return -(-meter.largest // BATCH)


@contextmanager
def _named_by(module: nn.Module, meter: _Meter) -> Iterator[None]:
    """While it lasts, the meter knows which layer of the network is running."""
    handles = []
    for part in module.modules():
        handles.append(part.register_forward_pre_hook(meter.enter))
        handles.append(part.register_forward_hook(meter.leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the size of every operation's outputs before there is memory for them.

    Attributes:
        real: whether the operations are then carried out, or known by their shapes only.
        largest: elements of the largest output so far.
        operations: how many there were so far.
        numbers: elements that they read or wrote.
        steps: the same, or what they multiplied and added where that is more.
    """

    def __init__(self, *, real: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.real = real
        self.largest = 0
        self.operations = self.numbers = self.steps = 0
        self._running: list[nn.Module] = []

    def enter(self, part: nn.Module, _: object) -> None:
        self._running.append(part)

    def leave(self, part: nn.Module, _: object, __: object) -> None:
        del part
        self._running.pop()

    def __torch_dispatch__(
        self, func: Any, types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.real:
            result = _shapes(func, args, kwargs)
            self._require_bounded(func, args, kwargs, result)
            return result
        # Their outputs are no larger than their inputs, but known by carrying them out only.
        by_value = any(tag in func.tags for tag in _BY_VALUE)
        foreseen = args if by_value else self._foreseen(func, args, kwargs)
        self._require_bounded(func, args, kwargs, foreseen)
        return func(*args, **kwargs)

    def _foreseen(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        try:
            return _shapes(func, args, kwargs)
        except NotImplementedError as error:
            raise RefusedFile(
                f"what {self._layer()} in the network puts out cannot be bounded before it is run "
                f"({func}: {error}); make the network of layers that torch knows the sizes of"
            ) from error

    def _require_bounded(
        self, func: Any, args: Any, kwargs: dict[str, Any], outputs: object
    ) -> None:
        self.operations += 1
        if not func.is_view:  # takes neither memory nor time
            self._require_small(outputs)
            self.numbers += numbers_of(args, kwargs, outputs)
            self.steps += steps_of(func, args, kwargs, outputs)
        for what, found, most in (
            ("numbers for a single image", self.numbers // BATCH, MOST_NUMBERS),
            ("additions and products for a single image", self.steps // BATCH, MOST_STEPS),
            ("operations", self.operations, MOST_OPERATIONS),
        ):
            if found > most:
                raise RefusedFile(
                    f"the network in the file would take more than {most:,} {what}, reached in "
                    f"{self._layer()}; no classifier does: a small file may describe a network "
                    "that runs for days"
                )

    def _require_small(self, outputs: object) -> None:
        for output in tree_leaves(outputs):
            if not isinstance(output, Tensor):
                continue
            self.largest = max(self.largest, output.numel())
            if output.numel() > BATCH * MOST_PER_IMAGE:
                raise RefusedFile(
                    f"{self._layer()} in the network would put out {output.numel() // BATCH:,} "
                    "numbers for a single image; no classifier does"
                )

    def _layer(self) -> str:
        return f"a {type(self._running[-1]).__name__}" if self._running else "an operation"


def _shapes(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What the operation gives for tensors that have a shape and no memory."""
    args, kwargs = tree_map_only(Tensor, lambda t: t.to("meta"), (args, dict(kwargs)))
    if any(argument.name == "device" for argument in func._schema.arguments):
        kwargs["device"] = torch.device("meta")
    return func(*args, **kwargs)
