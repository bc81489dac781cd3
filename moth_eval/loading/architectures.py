"""Which network a name stands for: torchvision's classifiers, or factories of the user's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import ArchitectureError
from ..networks import NETWORKS
from .factories import Factory, attribute, factories, guarded, import_module, pick
from .import_guard import folder_of
from .vit import VIT_NAMES, named_vit

#: What TrojAI's files call torchvision's networks, beside torchvision's own names.
OTHER_NAMES = {
    "inceptionv1": "googlenet",
    "inceptionv1(googlenet)": "googlenet",
    "inceptionv3": "inception_v3",
    "mobilenetv2": "mobilenet_v2",
    "shufflenet1_0": "shufflenet_v2_x1_0",
    "shufflenet1_5": "shufflenet_v2_x1_5",
    "shufflenet2_0": "shufflenet_v2_x2_0",
    "squeezenetv1_0": "squeezenet1_0",
    "squeezenetv1_1": "squeezenet1_1",
    "vgg11bn": "vgg11_bn",
    "vgg13bn": "vgg13_bn",
    "vgg16bn": "vgg16_bn",
    "vgg19bn": "vgg19_bn",
    "wideresnet50": "wide_resnet50_2",
    "wide_resnet50": "wide_resnet50_2",
    "wideresnet101": "wide_resnet101_2",
    "wide_resnet101": "wide_resnet101_2",
}

#: Side-cars may name these of our own networks, and no other factory.
OWN_NETWORKS = "moth_eval.networks:"

#: Networks with a second classifier that only training uses, and a switch for the input's scale.
AUXILIARY = ("googlenet", "inception_v3")


def torchvision_name(name: str) -> str | None:
    """The name that torchvision has for a network that may go by another, or None."""
    from torchvision import models

    plain = name.strip().removeprefix("classification:").lower()
    plain = OTHER_NAMES.get(plain, plain)
    return plain if plain in models.list_models(module=models) else None


def build_torchvision(
    name: str,
    *,
    num_classes: int | None = None,
    aux_logits: bool = False,
    transform_input: bool = False,
) -> nn.Module:
    """A freshly initialised torchvision network; never downloads anything.

    Args:
        name: torchvision's own name for it.
        num_classes: number of logits; None for torchvision's default.
        aux_logits: whether GoogLeNet and Inception carry their training-time classifiers.
        transform_input: whether those two rescale their input from ImageNet's statistics.
    """
    from torchvision import models

    options: dict[str, object] = {}
    if name in AUXILIARY:
        options = {
            "aux_logits": aux_logits,
            "init_weights": False,
            "transform_input": transform_input,
        }
    if num_classes is not None:
        options["num_classes"] = num_classes
    network: nn.Module = models.get_model_builder(name)(weights=None, **options)
    return network


def torchvision_architecture(name: str) -> Factory | None:
    """A factory of the torchvision classifier that `name` means, or None.

    Understands torchvision's names, those of TrojAI's generator (`wideresnet50`, `vgg11bn`) and
    documents (`inceptionv1(googlenet)`), and the prefix `classification:`. The factory takes
    `num_classes`.
    """
    official = torchvision_name(name)
    return None if official is None else partial(build_torchvision, official)


@dataclass(frozen=True, kw_only=True)
class ArchitectureSource:
    """Where networks come from whose files hold only weights: what `--arch` names.

    Attributes:
        spec: a torchvision name (`resnet18`), a factory (`package.module:factory`), or a module
            with a factory per architecture (`package.module`).
        forbidden: the folder of untrusted models, or a model in it; code that lies there is not
            run.
    """

    spec: str
    forbidden: Path | None = None

    def __post_init__(self) -> None:
        if self.forbidden is not None:
            object.__setattr__(self, "forbidden", folder_of(self.forbidden))

    @classmethod
    def parse(cls, spec: str, *, forbidden: Path | None = None) -> ArchitectureSource:
        """Checks that `spec` names something, importing the user's own (trusted) module.

        Args:
            spec: see the class.
            forbidden: the folder of untrusted models; code that lies in it is not imported.

        Raises:
            ArchitectureError: nothing is there, or it lies in the forbidden folder.
        """
        source = cls(spec=spec, forbidden=forbidden)
        if not source.is_builtin:
            module = import_module(spec.partition(":")[0], source.forbidden)
            if ":" in spec:
                attribute(module, spec.partition(":")[2])
            elif not factories(module):
                raise ArchitectureError(f"--arch {spec}: the module defines no function or network")
        return source

    @classmethod
    def optional(cls, option: str, *, forbidden: Path | None = None) -> ArchitectureSource | None:
        """What `--arch` names, as `parse` does; None where it is empty."""
        return cls.parse(option, forbidden=forbidden) if option else None

    @property
    def is_builtin(self) -> bool:
        """Whether the source is one of the networks that come with torchvision or moth-eval."""
        return ":" not in self.spec and builtin_architecture(self.spec) is not None

    def factory(self, name: str | None) -> tuple[str, Factory]:
        """The factory for an architecture called `name`, after its own full name.

        Raises:
            ArchitectureError: the source is a module without a factory of that name.
        """
        builtin = None if ":" in self.spec else builtin_architecture(self.spec)
        if builtin is not None:
            return torchvision_name(self.spec) or self.spec, builtin
        module = import_module(self.spec.partition(":")[0], self.forbidden)
        found = self.spec if ":" in self.spec else f"{self.spec}:{pick(self.spec, module, name)}"
        return found, guarded(attribute(module, found.partition(":")[2]), self.forbidden)

    def build(self, *, name: str | None, num_classes: int | None) -> nn.Module:
        """A fresh network.

        Args:
            name: the architecture that the model's metadata name; picks the factory where the
                source is a module with several.
            num_classes: number of logits; passed on where the factory accepts it.

        Raises:
            ArchitectureError: there is no such factory, or it does not make a network.
        """
        label, factory = self.factory(name)
        return call_factory(label, factory, num_classes)


def imports_code(spec: str) -> bool:
    """Whether `--arch` with this value imports a module that is neither ours nor torchvision's."""
    return own_network(spec) is None and not ArchitectureSource(spec=spec).is_builtin


def builtin_architecture(name: str) -> Factory | None:
    """A factory of a network that needs no code of the user's, or None."""
    plain = name.strip().removeprefix("classification:").lower()
    if plain in VIT_NAMES:
        return partial(named_vit, plain)
    return own_network(plain) or torchvision_architecture(name)


def own_network(name: str) -> Factory | None:
    """The factory of moth-eval's own that is called `moth_eval.networks:NAME`, or None."""
    if not name.startswith(OWN_NETWORKS):
        return None
    return NETWORKS.get(name.removeprefix(OWN_NETWORKS))


def call_factory(label: str, factory: Factory, num_classes: int | None) -> nn.Module:
    """What `factory` makes, checked; `num_classes` is passed only where it is accepted.

    Raises:
        ArchitectureError: the factory fails, or makes something that is not a network.
    """
    options = {}
    if num_classes is not None and takes_num_classes(factory):
        options["num_classes"] = num_classes
    try:
        network = factory(**options)
    except ArchitectureError:
        raise
    except Exception as error:  # whatever the user's code raises, its name must be said
        raise ArchitectureError(f"architecture {label}: its factory failed: {error!r}") from error
    if not isinstance(network, nn.Module):
        raise ArchitectureError(
            f"architecture {label}: expected a factory that returns an nn.Module, got "
            f"{type(network).__name__}"
        )
    return network


def takes_num_classes(factory: Factory) -> bool:
    """Whether `factory` accepts the keyword `num_classes`."""
    parameters = inspect.signature(factory).parameters
    return "num_classes" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


def final_layer(network: nn.Module) -> tuple[str, int] | None:
    """Path and number of outputs of the last linear layer or 1x1 convolution, or None."""
    found = None
    for path, part in network.named_modules():
        if isinstance(part, nn.Linear):
            found = (path, part.out_features)
        elif isinstance(part, nn.Conv2d) and set(part.kernel_size) == {1}:
            found = (path, part.out_channels)
    return found


def on_meta(build: Callable[[], nn.Module]) -> nn.Module | None:
    """The network that `build` makes, without memory for its weights.

    Returns:
        None where the constructor computes with numbers that such a network does not have.
    """
    try:
        with torch.device("meta"):
            return build()
    except (NotImplementedError, RuntimeError):
        return None


class _WeightsOnMeta(TorchFunctionMode):
    """Gives memory to the numbers that a constructor computes with, and not to its weights."""

    def __torch_function__(
        self, func: Any, types: object, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty:  # what every layer makes its parameters of
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)


def without_weights(build: Callable[[], nn.Module]) -> nn.Module | None:
    """Like `on_meta`, also for constructors that compute, whose buffers then are on the CPU."""
    network = on_meta(build)
    if network is not None:
        return network
    try:
        with _WeightsOnMeta():
            return build()
    except (NotImplementedError, RuntimeError):
        return None
