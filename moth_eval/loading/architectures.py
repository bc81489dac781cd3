"""Which network a name stands for: torchvision's classifiers, or factories of the user's own."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import ArchitectureError
from ..networks import NETWORKS
from .import_guard import folder_of, nothing_imported_from, require_outside
from .vit import VIT_NAMES, named_vit

Factory = Callable[..., nn.Module]

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
            module = _import(spec.partition(":")[0], source.forbidden)
            if ":" in spec:
                _attribute(module, spec.partition(":")[2])
            elif not _factories(module):
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
        module = _import(self.spec.partition(":")[0], self.forbidden)
        if ":" in self.spec:
            made = _attribute(module, self.spec.partition(":")[2])
            return self.spec, _guarded(made, self.forbidden)
        key = _pick(self.spec, _factories(module), name)
        return f"{self.spec}:{key}", _guarded(_factories(module)[key], self.forbidden)

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


def _guarded(factory: Factory, forbidden: Path | None) -> Factory:
    """The factory, whose own imports too may not run code in the forbidden folder."""
    if forbidden is None:
        return factory

    @wraps(factory, updated=())
    def build(*args: object, **options: object) -> nn.Module:
        with nothing_imported_from(forbidden):
            return factory(*args, **options)

    return build


def _import(name: str, forbidden: Path | None) -> ModuleType:
    """Imports a module of the user's, looking at where it and all that it imports lies."""
    if name.endswith(".py") or "/" in name:
        stem = Path(name).stem
        raise ArchitectureError(
            f"--arch {name}: expected the name of a module, not of its file: write {stem}, or "
            f"{stem}:FACTORY, and put its folder on PYTHONPATH if it is not the present one"
        )
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        prefix = ".".join(parts[:count])
        with nothing_imported_from(forbidden):
            module = _import_part(name, prefix, forbidden)
    return module


def _import_part(name: str, prefix: str, forbidden: Path | None) -> ModuleType:
    try:
        loaded = sys.modules.get(prefix)
        found = loaded or importlib.util.find_spec(prefix)
        spec = getattr(found, "__spec__", found)
    except (ImportError, ValueError) as error:
        raise ArchitectureError(f"--arch {name}: {error}") from error
    if found is None:
        raise ArchitectureError(_not_found(name, prefix))
    if isinstance(spec, ModuleSpec) and forbidden is not None:
        require_outside(spec, forbidden)
    try:
        return importlib.import_module(prefix)
    except ArchitectureError:
        raise
    except Exception as error:  # whatever the user's module raises, its name must be said
        raise ArchitectureError(f"--arch {name}: importing {prefix} failed: {error!r}") from error


def _not_found(name: str, prefix: str) -> str:
    from torchvision import models

    close = difflib.get_close_matches(name, models.list_models(module=models), n=3)
    hint = f"did you mean {', '.join(close)}? It" if close else "it"
    return (
        f"--arch {name}: {hint} is neither a torchvision classifier nor an importable module "
        f"(no module {prefix!r}); install the module or put its folder on PYTHONPATH"
    )


def _attribute(module: ModuleType, name: str) -> Factory:
    found = getattr(module, name, None)
    if not callable(found):
        known = ", ".join(sorted(_factories(module))) or "none"
        raise ArchitectureError(
            f"--arch {module.__name__}:{name}: the module has no such factory; it has: {known}"
        )
    factory: Factory = found
    return factory


def _factories(module: ModuleType) -> dict[str, Factory]:
    """Public functions and networks that the module itself defines or exports."""
    exported = getattr(module, "__all__", None)
    found: dict[str, Factory] = {}
    for name, value in vars(module).items():
        ours = name in exported if exported else getattr(value, "__module__", "") == module.__name__
        is_network = isinstance(value, type) and issubclass(value, nn.Module)
        if ours and not name.startswith("_") and (inspect.isfunction(value) or is_network):
            found[name] = value
    return found


def _pick(spec: str, factories: dict[str, Factory], name: str | None) -> str:
    if name is None and len(factories) == 1:
        return next(iter(factories))
    wanted = "" if name is None else name.removeprefix("classification:").replace("-", "_").lower()
    for key in factories:
        if key.lower() == wanted:
            return key
    known = ", ".join(sorted(factories)) or "none"
    asked = "the model's metadata name no architecture" if name is None else f"no {name!r} in it"
    raise ArchitectureError(
        f"--arch {spec}: {asked}; name a factory as {spec}:FACTORY, one of: {known}"
    )
