"""The training step that every hardener of this family shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from ..errors import HardeningError
from ..inversion.frozen import PRECISIONS, Precision
from ..subject import Subject
from .ranges import require_at_least, require_in, require_word

BatchNormPolicy = Literal["train", "eval"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the network is trained.

    Attributes:
        optimiser: `sgd` with Nesterov momentum, or `adamw` (Loshchilov and Hutter, ICLR 2019).
        learning_rate: of the optimiser, at the start.
        final_share: share of it at the end, reached by a cosine; 1: constant.
        warm_up: share of the training, in `[0, 1)`, over which it rises from zero: the first steps
            of a network that stood still are the ones that throw it off.
        momentum: of SGD, in `[0, 1)`.
        weight_decay: of the optimiser.
        largest_gradient: norm to which longer gradients are cut; None: none is. It keeps one step
            on hard images from throwing an unknown network off.
        average_over: share of the training, in `[0, 1)`, at its end over whose steps the weights
            are averaged; 0: the last weights come out. Source: Polyak and Juditsky, 1992; Izmailov
            et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018.
        interpolation: share of the way, in `(0, 1]`, from the weights as they came to the trained
            ones at which the weights lie that come out; 1: at its end. It gives back more accuracy
            than hardness. Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR
            2022.
        batch_norm: `train` normalises by the batch, which then has at least two images, and moves
            the running statistics; `eval` uses and keeps the statistics of the network as it came,
            and leaves dropout out.
        shift: most pixels by which training images are moved either way.
        flip: whether half of the training images are mirrored; wrong for signs and digits.
        distillation: share of the loss, in `[0, 1]`, that asks for the answers of the network as it
            came, given to the image without a stamp, in place of the label. It holds on to what a
            little data cannot teach anew. Source: Hinton et al., "Distilling the Knowledge in a
            Neural Network", 2015, with its square of the temperature as a factor.
        temperature: of those answers, at least 1.
        label_smoothing: share of a label, in `[0, 1)`, that is spread over all classes. Source:
            Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016.
        sharpness: radius of an adaptive sharpness-aware step, which descends by the gradient of the
            worst weights nearby; 0: a plain step. Twice the work. Source: Foret et al., ICLR 2021;
            Kwon et al., "ASAM", ICML 2021.
        precision: of the passes through the network. `bfloat16` takes convolutions and products
            with 8 bits of mantissa where the device has them; weights and their steps stay float32.
            Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018.
    """

    learning_rate: float
    optimiser: Literal["sgd", "adamw"] = "sgd"
    final_share: float = 1.0
    warm_up: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    largest_gradient: float | None = None
    average_over: float = 0.0
    interpolation: float = 1.0
    batch_norm: BatchNormPolicy = "eval"
    shift: int = 0
    flip: bool = False
    distillation: float = 0.0
    temperature: float = 4.0
    label_smoothing: float = 0.0
    sharpness: float = 0.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        require_in(
            "(0, inf)", learning_rate=self.learning_rate, largest_gradient=self.largest_gradient
        )
        require_in(
            "[0, 1)", warm_up=self.warm_up, momentum=self.momentum,
            average_over=self.average_over, label_smoothing=self.label_smoothing,
        )  # fmt: skip
        require_in("[0, 1]", final_share=self.final_share, distillation=self.distillation)
        require_in("(0, 1]", interpolation=self.interpolation)
        require_in("[1, inf)", temperature=self.temperature)
        require_in("[0, inf)", weight_decay=self.weight_decay, sharpness=self.sharpness)
        require_at_least(0, shift=self.shift)
        require_word(("train", "eval"), batch_norm=self.batch_norm)
        require_word(("adamw", "sgd"), optimiser=self.optimiser)
        require_word(PRECISIONS, precision=self.precision)

    @property
    def least_images(self) -> int:
        """Images per step at least: two where BatchNorm normalises by them."""
        return 2 if self.batch_norm == "train" else 1

    def learning_rate_at(self, done: float) -> float:
        """The learning rate when this share of the training, in `[0, 1]`, is over."""
        if done < self.warm_up:
            return self.learning_rate * (done / self.warm_up + 0.02)
        low = self.final_share
        way = min(1.0, (done - self.warm_up) / (1 - self.warm_up))
        return self.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * way)) / 2)


class Trainer:
    """A copy of a subject's network in training.

    Attributes:
        network: the copy.
        steps: optimiser steps taken.
        images: images that went forward and backward.
        answered: images that went forward through the network as it came.
    """

    def __init__(self, subject: Subject, recipe: Recipe, generator: torch.Generator) -> None:
        """Copy the subject's network and make all its weights trainable.

        Args:
            subject: left as it is.
            recipe: how the network is trained.
            generator: decides what layers such as dropout draw; on the CPU.
        """
        self.network = deepcopy(subject.module)
        self.steps = 0
        self.images = 0
        self.answered = 0
        self._preprocessing = subject.preprocessing
        self._recipe = recipe
        self._generator = generator
        self._teacher = subject.module
        weights = list(self.network.parameters())
        if not weights:
            raise HardeningError(f"{subject.name}: the network has no weights to train")
        for weight in weights:
            weight.requires_grad_()
        self._optimiser = _optimiser(weights, recipe)
        self._averaged_steps = 0
        self._average = (
            [weight.detach().clone() for weight in weights] if recipe.average_over else []
        )

    @torch.no_grad()
    def original_answers(self, images: Tensor) -> Tensor | None:
        """Logits `(N, K)` of the network as it came; None where the recipe does not use them."""
        if not self._recipe.distillation:
            return None
        self.answered += len(images)
        with self.passes(images.device):
            answers: Tensor = self._teacher(self._preprocessing(images))
        return answers.float()

    def passes(self, device: torch.device) -> torch.autocast:
        """Within it, networks on this device run at the precision of the recipe."""
        half = self._recipe.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=half)

    def answers(self, images: Tensor) -> Tensor:
        """Logits `(N, K)` of the network as it is now, for images `(N, C, H, W)` in `[0, 1]`."""
        with self.passes(images.device):
            logits = main_logits(self.network(self._preprocessing(images)))
        return logits.float()

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        done: float,
        answers: Tensor | None = None,
        added: Callable[[], Tensor] | None = None,
    ) -> tuple[float, Tensor]:
        """One optimiser step; the loss, and bool `(N,)`: classified rightly before.

        Args:
            images: float32 `(N, C, H, W)` in `[0, 1]`.
            labels: int64 `(N,)`.
            done: share of the training that is over, in `[0, 1]`; decides the learning rate.
            answers: from `original_answers`, of the images without their stamps.
            added: a further part of the loss, asked for after every forward pass.
        """

        def loss_now() -> tuple[Tensor, Tensor]:
            # Dropout draws from the global generators, which are put back afterwards.
            with torch.enable_grad(), self._drawing(images.device), normalised_by(len(images)):
                logits = self.answers(images)
                loss = self._loss(logits, labels, answers)
                return logits, loss if added is None else loss + added()

        self.network.train(self._recipe.batch_norm == "train")
        self._optimiser.zero_grad()
        logits, loss = loss_now()
        torch.autograd.backward(loss)
        if self._recipe.sharpness:
            with self._at_the_worst_nearby():
                self._optimiser.zero_grad()
                torch.autograd.backward(loss_now()[1])
        self._update(done)
        self.images += len(images) * (2 if self._recipe.sharpness else 1)
        return float(loss.detach()), logits.detach().argmax(1) == labels

    def descend(self, gradients: Sequence[Tensor], *, images: int, done: float) -> None:
        """One optimiser step by gradients that were found elsewhere.

        Args:
            gradients: one per weight, in the order of the network's parameters.
            images: that went forward and backward for them.
            done: share of the training that is over, in `[0, 1]`; decides the learning rate.
        """
        for weight, gradient in zip(self.network.parameters(), gradients, strict=True):
            weight.grad = gradient
        self._update(done)
        self.images += images

    def _update(self, done: float) -> None:
        """Move the weights by their gradients."""
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.learning_rate_at(done)
        if self._recipe.largest_gradient is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self._recipe.largest_gradient)
        self._optimiser.step()
        if done >= 1 - self._recipe.average_over:
            self._average_in()
        self.network.eval()
        self.steps += 1

    @contextmanager
    def _at_the_worst_nearby(self) -> Iterator[None]:
        """Weights within the sharpness radius where the loss rises most; back on leaving.

        Running statistics do not move meanwhile: they would count every batch twice.
        """
        pairs = [(w, w.grad) for w in self.network.parameters() if w.grad is not None]
        before = [w.detach().clone() for w, _ in pairs]
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        norm = torch.stack([(w.detach().abs() * g).norm() for w, g in pairs]).norm()
        with torch.no_grad():
            for weight, gradient in pairs:
                up = self._recipe.sharpness * weight.square() * gradient / (norm + 1e-12)
                weight.add_(up)
        yield
        with torch.no_grad():
            for (weight, _), value in zip(pairs, before, strict=True):
                weight.copy_(value)
            for buffer, value in buffers:
                buffer.copy_(value)

    @torch.no_grad()
    def _average_in(self) -> None:
        self._averaged_steps += 1
        for mean, weight in self._averaged():
            mean.lerp_(weight, 1 / self._averaged_steps)

    def _averaged(self) -> list[tuple[Tensor, nn.Parameter]]:
        """Means with their weights; none where the recipe keeps the last weights."""
        if not self._average:
            return []
        return list(zip(self._average, self.network.parameters(), strict=True))

    @contextmanager
    def _drawing(self, device: torch.device) -> Iterator[None]:
        """Seed the global generators from our own for a moment."""
        seed = int(torch.randint(2**62, (), generator=self._generator))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _loss(self, logits: Tensor, labels: Tensor, answers: Tensor | None) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)
        if answers is None:
            return loss
        heat, share = self._recipe.temperature, self._recipe.distillation
        apart = F.kl_div(
            F.log_softmax(logits / heat, 1),
            F.log_softmax(answers / heat, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - share) * loss + share * heat**2 * apart

    def finished(self) -> nn.Module:
        """The network as the recipe hands it out, in eval mode; training it further starts anew."""
        self._optimiser.zero_grad()
        with torch.no_grad():
            for mean, weight in self._averaged() if self._averaged_steps else []:
                weight.copy_(mean)
            if self._recipe.interpolation < 1:
                before, moved = self._teacher.state_dict(), set[int]()
                for name, value in self.network.state_dict().items():
                    if value.is_floating_point() and value.data_ptr() not in moved:
                        value.copy_(before[name].lerp(value, self._recipe.interpolation))
                        moved.add(value.data_ptr())  # weights that two parts share, once
        return self.network.eval()

    def tensors(self) -> dict[str, Tensor]:
        """Copies of weights, buffers and the optimiser's state by name, for a later `restore`."""
        state = {f"network.{k}": v.detach().clone() for k, v in self.network.state_dict().items()}
        for name, weight in self.network.named_parameters():
            for key, value in self._optimiser.state[weight].items():
                if isinstance(value, Tensor):
                    state[f"optimiser.{key}.{name}"] = value.clone()
        for number, (mean, _) in enumerate(self._averaged()):
            state[f"average.{number}"] = mean.clone()
        state["averaged_steps"] = torch.tensor(self._averaged_steps)
        state["answered"] = torch.tensor(self.answered)
        return state

    def restore(self, tensors: Mapping[str, Tensor], *, steps: int, images: int) -> None:
        """Go on from `tensors` as an earlier trainer of the same network gave them."""
        own = {k.removeprefix("network."): v for k, v in tensors.items() if k[:8] == "network."}
        self.network.load_state_dict(own)
        weights = dict(self.network.named_parameters())
        for number, (mean, _) in enumerate(self._averaged()):
            mean.copy_(tensors[f"average.{number}"])
        for full, value in tensors.items():
            if full.startswith("optimiser."):
                _, key, name = full.split(".", 2)
                # Adam's step counter stays on the CPU.
                place = value.device if key == "step" else weights[name].device
                self._optimiser.state[weights[name]][key] = value.to(place).clone()
        self._averaged_steps = int(tensors["averaged_steps"])
        # A state of before they were counted has none.
        self.answered = int(tensors.get("answered", torch.tensor(0)))
        self.steps, self.images = steps, images


@contextmanager
def normalised_by(images: int) -> Iterator[None]:
    """Passes in which BatchNorm may have to normalise by so many images.

    Raises:
        HardeningError: a single image has a single value per channel there.
    """
    try:
        yield
    except ValueError as error:
        if images > 1:
            raise
        raise HardeningError(
            "BatchNorm cannot normalise by a batch of a single image: expected at least two images "
            f"to train on, or recipe.batch_norm=eval where the method has a recipe ({error})"
        ) from error


def main_logits(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The logits proper of a network that has further outputs while it is trained."""
    return output if isinstance(output, Tensor) else output[0]


def _optimiser(weights: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(weights, recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        weights,
        recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
