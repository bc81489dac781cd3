"""How many images fit through a network at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..machine import available_bytes

CPU_SHARE_BYTES = 1 << 29
"""Activations kept at a time on a CPU: scans run beside each other and beside the user's work."""

CPU_IMAGES = 128
"""More images than this fall out of the cache and gain nothing (measured on small networks)."""

CUDA_SHARE = 0.5
"""Share of the free device memory that activations may take."""

CUDA_IMAGES = 8192


def saved_bytes_per_image(
    forward: Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    device: torch.device,
) -> int:
    """Bytes that autograd keeps between forward and backward for each further image `(C, H, W)`.

    What it keeps however many images there are does not count: weights, and the copies of them in
    which a lower precision is reckoned.

    Args:
        forward: the network.
        shape: of an image.
        device: where it lies.
    """
    two, four = (_saved_bytes(forward, torch.zeros((n, *shape), device=device)) for n in (2, 4))
    return max((four - two) // 2, math.prod(shape) * torch.float32.itemsize)


def _saved_bytes(forward: Callable[[Tensor], Tensor], images: Tensor) -> int:
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        logits = forward(images.requires_grad_())
    del logits
    return sum(seen.values())


def images_per_pass(bytes_per_image: int, device: torch.device) -> int:
    """Images per pass: a power of two, so that small changes of free memory change nothing.

    Args:
        bytes_per_image: from `saved_bytes_per_image`; gradients on top are allowed for.
        device: where the pass will run.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        budget, most = int(free * CUDA_SHARE), CUDA_IMAGES
    else:
        budget, most = min(CPU_SHARE_BYTES, available_bytes() // 4), CPU_IMAGES
    fits = max(1, min(most, budget // (2 * bytes_per_image)))
    return 1 << (fits.bit_length() - 1)
