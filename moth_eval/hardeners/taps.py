"""Where in a network attention can be read: the last spatial features of every resolution."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import HardeningError

MOST_TAPS = 3
"""Source: NAD, which reads the ends of the three groups of a wide residual network."""

LEAST_TAPS = 2


@torch.no_grad()
def find_taps(network: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Names of the modules that put out the last features of each resolution, in order.

    Features of a single pixel say nothing about place and are left out, and so are copies of fewer
    features, as adaptive pooling makes of small ones, and modules that are called more than once
    in a pass. At most the last three resolutions count.

    Args:
        network: in eval mode; left as it is.
        inputs: what it eats, `(N, C, H, W)`.
    """
    seen: list[tuple[str, tuple[int, int]]] = []
    copied: list[Tensor] = []
    handles: list[RemovableHandle] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(module: nn.Module, given: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim != 4:
                return
            if _copies(module, given, output):
                copied.append(output)
            # A container hands on what its last module put out.
            elif _places(output) > 1 and not any(output is one for one in copied):
                seen.append((name, (output.shape[-2], output.shape[-1])))

        handles.append(module.register_forward_hook(note))

    for name, module in network.named_modules():
        if name:
            watch(name, module)
    try:
        network(inputs)
    finally:
        for handle in handles:
            handle.remove()
    calls = Counter(name for name, _ in seen)
    last = {size: name for name, size in seen if calls[name] == 1}
    return tuple(list(last.values())[-MOST_TAPS:])


def _copies(module: nn.Module, given: tuple[object, ...], output: Tensor) -> bool:
    """Whether a module without weights puts out more places than it was given."""
    images = [one for one in given if isinstance(one, Tensor) and one.ndim == 4]
    weightless = next(module.parameters(), None) is None
    return weightless and any(_places(output) > _places(one) for one in images)


def _places(features: Tensor) -> int:
    return features.shape[-2:].numel()


def attention(features: Tensor, power: float) -> Tensor:
    """Where features `(N, K, H, W)` are strong: `(N, H, W)`, each map of norm 1.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017 (the sum over
    channels of powers of absolute values).
    """
    maps = features.float().abs().pow(power).sum(1)
    norms: Tensor = torch.linalg.vector_norm(maps, dim=(1, 2), keepdim=True)
    return maps / (norms + 1e-6)


class Taps:
    """Attention maps of the pass that a network made last.

    Attributes:
        maps: one per tap, `(N, H, W)`.
        inputs: what the network was given.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self.maps: list[Tensor] = []
        self.inputs = torch.empty(0)

    @contextmanager
    def on(self, network: nn.Module, names: Sequence[str], power: float) -> Iterator[Taps]:
        """Read these modules of `network` while the block lasts.

        Raises:
            HardeningError: a tap is not there, or puts out no features of more than one pixel, or
                copies of fewer.
        """
        modules = dict(network.named_modules())
        missing = [name for name in names if name not in modules]
        if missing:
            raise HardeningError(
                f"the network has no part {missing[0]!r} to read attention from: expected names of "
                "its modules, joined by +"
            )

        def start(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.inputs, self.maps = given[0].clone(), []  # the network may change its own in place

        def read(name: str) -> RemovableHandle:
            def note(module: nn.Module, given: tuple[object, ...], output: object) -> None:
                if not isinstance(output, Tensor) or output.ndim != 4 or _places(output) < 2:
                    raise HardeningError(
                        f"{name!r} puts out no features of more than one pixel, so that its "
                        "attention would be the same for every image: choose other taps"
                    )
                if _copies(module, given, output):
                    raise HardeningError(
                        f"{name!r} puts out copies of fewer features, which say no more of place "
                        "than those: choose other taps"
                    )
                # Of a copy: what comes next may change the output in place.
                self.maps.append(attention(output.clone(), power))

            handle: RemovableHandle = modules[name].register_forward_hook(note)
            return handle

        handles = [network.register_forward_pre_hook(start), *map(read, names)]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()
