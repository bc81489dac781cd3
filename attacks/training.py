"""Training of one classifier from scratch on images held in memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from moth_eval.errors import InputError
from moth_eval.machine import lack_of_memory

from .scenes import to_float
from .trigger import check_shares

_LOG = logging.getLogger(__name__)

LEAST_HALVED = 64
"""Smallest side of images that may be halved (pixels)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        epochs: most passes over the training images; training ends before when it is good enough.
        learning_rate: peak of the schedule, a straight rise and half a cosine down to zero.
        weight_decay: of AdamW.
        batch_size: images per step; a smaller last batch is left out.
        warm_up: share of all steps before the peak.
        half_size: share of the epochs, from the first, that are trained at half the image size,
            which costs a quarter. Smaller images than 64 pixels are never halved.
        shift: most pixels by which a batch is moved either way, edges repeated.
        crop: most pixels by which every image is moved on its own, edges repeated. Source: 4 in
            most CIFAR-10 recipes, with zeros at the edges there.
        flip: whether every image is mirrored left to right with probability one half.
        stop_early: whether training ends when the validation images say that it may.

    Shifts, crops and flips come after stamping: a poisoned image is moved with its trigger, as
    where a poisoned data set is trained on like any other.

    Source: one rise and one fall of the learning rate as in Smith and Topin, 2017; smaller images
    first as in the progressive resizing of DAWNBench entries. The figures were found by trial on
    32 and 64 pixels.
    """

    epochs: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch_size: int = 32
    warm_up: float = 0.2
    half_size: float = 0.5
    shift: int = 1
    crop: int = 0
    flip: bool = False
    stop_early: bool = True

    def __post_init__(self) -> None:
        rate, decay = self.learning_rate, self.weight_decay
        if self.epochs < 1 or self.batch_size < 1 or not 0 < rate < math.inf:
            raise InputError(
                "expected epochs and batch_size of 1 or more and a finite learning_rate above 0, "
                f"got {self.epochs}, {self.batch_size} and {rate}"
            )
        if min(self.shift, self.crop) < 0 or not 0 <= decay < math.inf:
            raise InputError(
                "expected no shift, crop or weight_decay below 0, and a finite weight_decay"
            )
        check_shares(warm_up=self.warm_up, half_size=self.half_size)


Redraw = Callable[[int], tuple[Tensor, Tensor]]
"""Epoch, from 1 on -> its training images and labels."""


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    recipe: Recipe,
    seed: int,
    good_enough: Callable[[nn.Module], bool],
    redraw: Redraw | None = None,
) -> int:
    """Train `network` in place, on its own device; returns the epochs that it took.

    Args:
        network: an untrained classifier that eats images in `[0, 1]`; left in eval mode.
        images: uint8 `(N, 3, H, W)`.
        labels: int64 `(N,)`.
        recipe: how it is trained.
        seed: of the order of the images, the shifts and dropout.
        good_enough: asked after every epoch at full image size, the network being in eval mode.
        redraw: gives as many images and labels for every epoch after the first; None: the same.

    Raises:
        InputError: the network raised an exception.
    """
    device = next(network.parameters()).device
    batch_size = min(recipe.batch_size, len(images))
    descent = _Descent(network, recipe, steps=recipe.epochs * (len(images) // batch_size))
    half_epochs = int(recipe.half_size * recipe.epochs) if images.shape[-1] >= LEAST_HALVED else 0
    # Dropout draws from the global generators, which are put back afterwards.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for epoch in range(recipe.epochs):
            network.train()
            losses = []
            if redraw is not None and epoch:
                images, labels = redraw(epoch)
            for rows in _batches(len(images), batch_size):
                batch = _augmented(to_float(images[rows].to(device)), recipe)
                if epoch < half_epochs:
                    batch = F.avg_pool2d(batch, 2)
                losses.append(descent.step(batch, labels[rows].to(device)))
            network.eval()
            if _LOG.isEnabledFor(logging.INFO):
                mean = float(torch.stack(losses).mean())
                _LOG.info("epoch %d of %d: mean loss %.4f", epoch + 1, recipe.epochs, mean)
            if recipe.stop_early and epoch >= half_epochs and good_enough(network):
                return epoch + 1
    return recipe.epochs


class _Descent:
    """The steps of one training.

    Args:
        network: changed in place.
        recipe: how it is trained.
        steps: how many there will be.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, *, steps: int) -> None:
        self._network = network
        self._layout = torch.channels_last
        network.to(memory_format=self._layout)
        self._optimiser = torch.optim.AdamW(
            network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimiser, lambda step: _share_of_peak(step, steps, recipe.warm_up)
        )

    def step(self, batch: Tensor, labels: Tensor) -> Tensor:
        """Make one step; returns the mean loss of the batch before it.

        Raises:
            InputError: the network raised an exception.
        """
        try:
            loss = self._differentiated(batch, labels)
        except InputError:
            if self._schedule.last_epoch:
                raise
            # Before the first step: channels last is faster, but fails `view` after a convolution.
            self._layout = torch.contiguous_format
            self._network.to(memory_format=self._layout)
            loss = self._differentiated(batch, labels)
        self._optimiser.step()
        self._schedule.step()
        return loss

    def _differentiated(self, batch: Tensor, labels: Tensor) -> Tensor:
        self._optimiser.zero_grad()
        try:
            logits = self._network(batch.contiguous(memory_format=self._layout))
            loss = F.cross_entropy(logits, labels)
            torch.autograd.backward(loss)
        except Exception as error:  # whatever a network raises that cannot be trained like this
            if lack_of_memory(error) is not None:
                raise
            advice = "; raise the batch size" if len(batch) == 1 else ""
            raise InputError(
                f"the network cannot be trained on batches of shape {tuple(batch.shape)}: "
                f"{error!r:.300}{advice}"
            ) from error
        return loss.detach()


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, *, batch_size: int = 128) -> Tensor:
    """Predicted classes, int64 `(N,)` on the CPU, of uint8 images `(N, 3, H, W)`.

    -1 where the largest logit is not a finite number, of which `argmax` makes class 0.
    """
    device = next(network.parameters()).device
    parts = []
    for part in torch.split(images, batch_size):
        logits = network(to_float(part.to(device)))
        parts.append(torch.where(logits.amax(1).isfinite(), logits.argmax(1), -1).cpu())
    return torch.cat(parts)


def _share_of_peak(step: int, steps: int, warm_up: float) -> float:
    """Learning rate at a step as a share of its peak: a straight way up, half a cosine down."""
    top = warm_up * steps
    if step < top:
        return (step + 1) / (top + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top)))


def _batches(count: int, batch_size: int) -> tuple[Tensor, ...]:
    rows = torch.randperm(count)
    return torch.split(rows[: count - count % batch_size], batch_size)


def _augmented(batch: Tensor, recipe: Recipe) -> Tensor:
    batch = _cropped(_shifted(batch, recipe.shift), recipe.crop)
    if not recipe.flip:
        return batch
    mirrored = torch.rand(len(batch)).to(batch.device) < 0.5
    return torch.where(mirrored[:, None, None, None], batch.flip(-1), batch)


def _cropped(batch: Tensor, most: int) -> Tensor:
    """The batch with every image moved by random whole numbers of pixels of its own."""
    if not most:
        return batch
    count, _, height, width = batch.shape
    top, left = torch.randint(2 * most + 1, (2, count, 1)).to(batch.device)
    rows = (top + torch.arange(height, device=batch.device))[:, :, None]
    columns = (left + torch.arange(width, device=batch.device))[:, None, :]
    padded = F.pad(batch, (most, most, most, most), mode="replicate")
    image = torch.arange(count, device=batch.device)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)


def _shifted(batch: Tensor, most: int) -> Tensor:
    """The batch moved by one random whole number of pixels either way."""
    if not most:
        return batch
    height, width = batch.shape[-2:]
    top, left = torch.randint(2 * most + 1, (2,)).tolist()
    padded = F.pad(batch, (most, most, most, most), mode="replicate")
    return padded[..., top : top + height, left : left + width]
