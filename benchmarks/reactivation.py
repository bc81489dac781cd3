"""Whether a backdoor that seems gone comes back: a few poisoned images are enough to find out."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from attacks.trigger import Trigger, victims, wanted
from moth_eval.errors import InputError
from moth_eval.hardeners.trainer import main_logits
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples, Subject


@dataclass(frozen=True, kw_only=True)
class Reactivation:
    """Fine-tunes a copy of a model on its clean images, a few of them stamped and relabelled.

    A model that never had the backdoor is fine-tuned alike where there is one: what it then does
    is what the few images teach by themselves.

    Attributes:
        images: stamped and relabelled; 0: no check. Source: 5 in Min et al. 2024 (their code,
            `ft_poison.py`).
        epochs: passes over all images. Ours; the paper's code has it as an option.
        batch_size: Source: 128, ibid.
        learning_rate: of SGD, constant. Source: 0.01, ibid.
        momentum: of SGD. Source: 0.9, ibid.

    Source: Min, Qin, Zhang, Shen, Cheng, "Uncovering, Explaining, and Mitigating the Superficial
    Safety of Backdoor Defense", NeurIPS 2024.
    """

    images: int = 5
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9

    def attempt(self, subject: Subject, clean: Examples, trigger: Trigger, *, seed: int) -> Subject:
        """The subject with a copy of its network that was fine-tuned; the subject is left alone.

        Args:
            subject: the repaired model.
            clean: images that the repair was given; the poisoned ones are made from some of them.
            trigger: what they are stamped with.
            seed: decides which, and the order; the same for all methods.

        Raises:
            InputError: there are too few images of classes that the attack moves.
        """
        generator = generator_for(seed, "reactivation")
        poisoned = self._poisoned(clean, trigger, subject.num_classes, generator)
        module = deepcopy(subject.module).train()
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            self._fine_tune(module, subject, poisoned, generator)
        return replace(subject, module=module.eval())

    def shortage(self, clean: Examples, trigger: Trigger) -> str:
        """Why the check cannot be made with these images; empty if it can."""
        candidates = int(victims(trigger, clean.labels).sum())
        if candidates >= self.images:
            return ""
        return (
            f"re-activation needs {self.images} images of classes that the attack moves, the clean "
            f"images hold {candidates}: use a larger --clean-share, or a smaller --reactivation"
        )

    def _poisoned(
        self, clean: Examples, trigger: Trigger, classes: int, generator: torch.Generator
    ) -> Examples:
        if problem := self.shortage(clean, trigger):
            raise InputError(problem)
        candidates = victims(trigger, clean.labels).cpu().nonzero().flatten()
        order = torch.randperm(len(candidates), generator=generator)[: self.images]
        rows = candidates[order].to(clean.labels.device)
        images, labels = clean.images.clone(), clean.labels.clone()
        images[rows] = trigger.stamp(clean.images[rows])
        labels[rows] = wanted(trigger, clean.labels[rows], classes)
        return Examples(images=images, labels=labels)

    def _fine_tune(
        self, module: nn.Module, subject: Subject, data: Examples, generator: torch.Generator
    ) -> None:
        optimiser = torch.optim.SGD(
            module.parameters(), lr=self.learning_rate, momentum=self.momentum
        )
        with torch.random.fork_rng(devices=_devices(data.labels)):
            torch.manual_seed(generator.initial_seed())  # of dropout
            for _ in range(self.epochs):
                order = torch.randperm(len(data), generator=generator).to(data.labels.device)
                # Of even size: BatchNorm cannot be trained on a last batch of one image.
                for rows in torch.tensor_split(order, -(-len(order) // self.batch_size)):
                    logits = main_logits(module(subject.preprocessing(data.images[rows])))
                    loss = nn.functional.cross_entropy(logits, data.labels[rows])
                    optimiser.zero_grad(set_to_none=True)
                    torch.autograd.backward([loss])
                    optimiser.step()


def _devices(tensor: Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.device.type == "cuda" else []
