"""Which network a backdoor is trained into: a fresh one, or a copy of a given one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from moth_eval.errors import InputError, MothError
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.doubts import doubts_of_choice
from moth_eval.loading.files import LoadedNetwork, load_network, save_network
from moth_eval.loading.forward import measure_forward
from moth_eval.loading.preprocessing import choose_preprocessing, name_of, preprocessing_of
from moth_eval.loading.rounds import RoundModel, read_round
from moth_eval.loading.sidecars import name_in_sidecar
from moth_eval.loading.subjects import load_member
from moth_eval.seeds import generator_for
from moth_eval.subject import Examples, Preprocessing

from .attack_records import WEIGHTS
from .scenes import Scenes, to_float

CHOOSING = 512
"""Images that tell which normalisation a given network was trained with."""

COMPARED = 4
"""Images whose logits tell whether a network that was opened again is the same."""


class Normalised(nn.Module):
    """A network behind its own normalisation: eats images in `[0, 1]`."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(N, K)`."""
        logits: Tensor = self.network(self.preprocessing(images))
        return logits


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where training begins, and how its result is written.

    Attributes:
        build: seed -> a network behind its normalisation, a new one for every call.
        preprocessing: that normalisation.
        architecture: full name of the network.
        named: what the side-car calls it.
        source: what opens it again; None: it is built in.
        sha256: of the model that is fine-tuned; empty from scratch.
        num_classes: number of logits.
        doubts: sentences on what speaks against that normalisation.
    """

    build: Callable[[int], Normalised]
    preprocessing: Preprocessing
    architecture: str
    named: str
    source: ArchitectureSource | None
    sha256: str
    num_classes: int
    doubts: tuple[str, ...] = ()

    @property
    def normalisation(self) -> str:
        """How the map from image space to what the network eats is written."""
        return name_of(self.preprocessing)

    def save(self, folder: Path, module: nn.Module) -> None:
        """Write the weights and the side-car.

        Args:
            folder: where.
            module: the network behind its normalisation; it is written without.
        """
        network = module.network if isinstance(module, Normalised) else module
        save_network(
            folder / WEIGHTS,
            network,
            architecture=self.named,
            num_classes=self.num_classes,
            preprocessing=self.preprocessing,
        )

    def check(self, scenes: Scenes) -> None:
        """Make sure, before any training, that the network works and can be opened again.

        Raises:
            InputError: it does not take the images, has too few logits, or comes back otherwise.
        """
        network = self.build(0).eval()
        images = to_float(scenes.images[:COMPARED])
        expected = self._logits(network, images)
        try:
            with TemporaryDirectory() as folder:
                self.save(Path(folder), network)
                again = load_network(Path(folder) / WEIGHTS, architecture=self.source)
        except MothError as error:
            raise InputError(self._cannot(str(error))) from error
        read = Normalised(again.module, self.preprocessing).eval()
        if not torch.allclose(self._logits(read, images), expected, atol=1e-4, equal_nan=True):
            raise InputError(self._cannot("it then gives other logits"))

    @torch.no_grad()
    def _logits(self, network: nn.Module, images: Tensor) -> Tensor:
        try:
            logits: Tensor = network(images)
        except Exception as error:  # whatever a network raises that does not take such images
            raise InputError(
                f"{self.architecture} cannot be run on images of {tuple(images.shape[1:])}: "
                f"{error!r:.300}"
            ) from error
        if logits.shape != (len(images), self.num_classes):
            raise InputError(
                f"{self.architecture} gives an output of shape {tuple(logits.shape)}, expected "
                f"({len(images)}, {self.num_classes}): logits for every class of the data"
            )
        return logits

    def _cannot(self, why: str) -> str:
        return (
            f"{self.architecture} could not be opened again once it is trained ({why}): name the "
            "network with --arch package.module:factory"
        )


def from_scratch(
    option: str, *, num_classes: int, normalisation: str = "", channels: int | None = None
) -> Start:
    """A fresh network.

    Args:
        option: what `--arch` said: a torchvision name, or a factory of the user's own.
        num_classes: number of logits.
        normalisation: what it is trained with; empty: images in `[0, 1]` as they are.
        channels: number of channels of the images, if that is known.

    Raises:
        ArchitectureError: nothing is there under that name.
        InputError: there is no such normalisation, or not for so many channels.
    """
    preprocessing = preprocessing_of(normalisation or "unit", channels=channels)
    source = ArchitectureSource.parse(option)
    architecture, _ = source.factory(None)

    def build(seed: int) -> Normalised:
        # Networks draw their weights from the global generator, which is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = source.build(name=None, num_classes=num_classes)
        return Normalised(fresh, preprocessing)

    return Start(
        build=build,
        preprocessing=preprocessing,
        architecture=architecture,
        named=name_in_sidecar(option, architecture),
        source=source,
        sha256="",
        num_classes=num_classes,
    )


def from_model(model: Path, option: str, scenes: Scenes, *, normalisation: str = "") -> Start:
    """Copies of a given network, to be trained on.

    Args:
        model: its file, or the folder of one model.
        option: what `--arch` said.
        scenes: clean images, which tell the normalisation that it wants.
        normalisation: the one that is known to be wanted; empty: what its side-car states, else
            found by trial.

    Raises:
        InputError: there is not one model, or it has fewer classes than the data.
        RefusedFile: it cannot be opened.
    """
    found, loaded = _opened(model, option)
    measured = measure_forward(loaded.module, scenes.image_shape)
    classes = measured.num_classes
    if classes <= int(scenes.labels.max()):
        raise InputError(
            f"{model} has {classes} classes, the data have labels up to {int(scenes.labels.max())}"
        )
    # Drawn, not the first ones: images of a folder are sorted by class.
    rows = torch.randperm(len(scenes), generator=generator_for("choosing"))[:CHOOSING]
    few = Examples(images=to_float(scenes.images[rows]), labels=scenes.labels[rows])
    with torch.no_grad():
        choice = choose_preprocessing(
            loaded.module,
            few,
            layout=found.layout,
            batch_size=measured.batch_size,
            only=normalisation,
            stated=found.stated_normalisation,
        )
    return Start(
        preprocessing=choice.preprocessing,
        build=lambda _: Normalised(deepcopy(loaded.module), choice.preprocessing),
        architecture=loaded.architecture,
        named=name_in_sidecar(option, loaded.architecture),
        source=ArchitectureSource.optional(option, forbidden=model),
        sha256=loaded.sha256,
        num_classes=classes,
        doubts=tuple(doubts_of_choice(choice)),
    )


def _opened(model: Path, option: str) -> tuple[RoundModel, LoadedNetwork]:
    models = read_round(model).models
    if len(models) != 1:
        raise InputError(
            f"expected one model, {model} holds {len(models)}: name one model file, or the folder "
            "of one model"
        )
    [found] = models
    return found, load_member(found, ArchitectureSource.optional(option, forbidden=model))
