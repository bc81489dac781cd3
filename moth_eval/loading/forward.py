"""A first run of a loaded network, bounded beforehand, that says whether it classifies at all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import RefusedFile
from ..seeds import generator_for

BATCH = 2
#: Elements that one layer may put out for one image; the largest of torchvision's networks make
#: about 15 million at 300 x 300 pixels.
MOST_PER_IMAGE = 1 << 27


class _TooLarge(Exception):  # noqa: N818 - carries an answer out of a forward pass
    """A layer would put out more than any classifier does."""


def check_forward(module: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """The number of logits that the network gives for images of this shape.

    Args:
        module: the network, in eval mode, on the CPU.
        image_shape: `(C, H, W)` of the network's input.

    Raises:
        RefusedFile: it cannot be run on such images, would take an absurd amount of memory, or
            does not give finite logits `(N, K)`.
    """
    _bound(module, image_shape)
    noise = torch.rand(BATCH, *image_shape, generator=generator_for("check_forward", image_shape))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for images in (torch.zeros_like(noise), noise):
            logits = _run(module, images)
            _check_logits(logits, image_shape)
    count: int = logits.shape[1]
    return count


def _run(module: nn.Module, images: Tensor) -> Any:
    try:
        return module(images)
    except Exception as error:  # whatever layers put together by a stranger raise
        raise RefusedFile(
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
    if not bool(torch.isfinite(logits).all()):
        raise RefusedFile(
            "the network in the file gives infinite or undefined logits for an ordinary image; its "
            "weights are damaged"
        )


def _bound(module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """Runs the shapes alone, without memory, and refuses before a real run could exhaust it."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    images = torch.empty(BATCH, *image_shape, device="meta")
    watched = [part.register_forward_hook(_watch) for part in module.modules()]
    try:
        with torch.no_grad():
            functional_call(module, shapes, (images,))
    except _TooLarge as error:
        raise RefusedFile(str(error)) from error
    except Exception:  # noqa: S110 - not every operation knows its shape alone; the real run tells
        pass
    finally:
        for handle in watched:
            handle.remove()


def _watch(part: nn.Module, _: object, output: object) -> None:
    if isinstance(output, Tensor) and output.numel() > BATCH * MOST_PER_IMAGE:
        raise _TooLarge(
            f"a {type(part).__name__} in the network would put out {output.numel() // BATCH:,} "
            "numbers for a single image; no classifier does"
        )
