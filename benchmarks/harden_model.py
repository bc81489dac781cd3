"""How a changed model is written, so that it can be opened again like any other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from moth_eval.errors import InputError, MothError
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network, save_network
from moth_eval.loading.sidecars import name_in_sidecar
from moth_eval.subject import Preprocessing, Subject

_COMPARED = 8
"""Images whose logits tell whether a network that was opened again is the same."""


@dataclass(frozen=True, kw_only=True)
class Reopening:
    """What stands beside the weights, and what opens them again.

    Attributes:
        named: what the side-car calls the network.
        num_classes: number of logits.
        preprocessing: what the network eats, which its side-car states.
        architecture: where the network comes from; None: it is built in.
    """

    named: str
    num_classes: int
    preprocessing: Preprocessing
    architecture: ArchitectureSource | None

    @classmethod
    def of(cls, subject: Subject, *, option: str, forbidden: Path) -> Reopening:
        """How a copy of this subject's network with other weights is written and read.

        Args:
            subject: the original.
            option: what `--arch` said.
            forbidden: the model's path; no code that lies there is run.
        """
        return cls(
            named=name_in_sidecar(option, subject.architecture),
            num_classes=subject.num_classes,
            preprocessing=subject.preprocessing,
            architecture=ArchitectureSource.optional(option, forbidden=forbidden),
        )

    def save(self, path: Path, module: nn.Module) -> None:
        """Write the weights as safetensors, and the side-car beside them."""
        save_network(
            path,
            module,
            architecture=self.named,
            num_classes=self.num_classes,
            preprocessing=self.preprocessing,
        )

    def subject(self, path: Path, original: Subject, sha256: str) -> Subject:
        """The original with the network that was written to `path`, on the same device.

        Raises:
            MothError: the file cannot be opened.
        """
        loaded = load_network(path, architecture=self.architecture)
        device = original.examples.images.device
        return replace(original, module=loaded.module.to(device).eval(), sha256=sha256)

    def check(self, subject: Subject) -> None:
        """Make sure, before any training, that what will be written can be opened again.

        Raises:
            InputError: it cannot, or it would be another network.
        """
        images = subject.examples.images[:_COMPARED]
        try:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                self.save(path, subject.module)
                again = self.subject(path, subject, subject.sha256).logits(images)
        except MothError as error:
            raise InputError(self._cannot(subject, str(error))) from error
        expected = subject.logits(images)
        tolerance = 1e-4 * float(expected.abs().max().clamp_min(1))
        if not torch.allclose(again, expected, rtol=0, atol=tolerance, equal_nan=True):
            raise InputError(self._cannot(subject, "it then gives other logits"))

    def _cannot(self, subject: Subject, why: str) -> str:
        return (
            f"{subject.name}: its network ({subject.architecture or 'without a name'}) cannot be "
            f"opened again from its weights alone, so its hardened copy could not either ({why}): "
            "name the network with --arch package.module:factory"
        )
