"""From a model file to a network that is safe to run, or a refusal that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ArchitectureError, InputError, RefusedFile
from ..subject import Preprocessing
from .architectures import (
    AUXILIARY,
    ArchitectureSource,
    build_torchvision,
    builtin_architecture,
    call_factory,
    final_layer,
    own_network,
    torchvision_name,
    without_weights,
)
from .checkpoints import Weights, find_weights
from .deadline import in_time
from .formats import ordinary
from .forward import check_forward as check_forward  # the first use of what was loaded
from .inert_tree import Instance
from .layouts import MODEL_SUFFIXES as MODEL_SUFFIXES
from .module_tree import state_of, unwrapped
from .native_layers import SHORTCUTS
from .preprocessing import name_of
from .quarantine import HandedOver, handed_over
from .realise import check_attributes, known_classes, realise, unknown_class
from .rebuild import has_auxiliary, rebuild, why_not
from .sidecars import SideCar, read_sidecar, write_sidecar
from .stored import read_safetensors, write_safetensors
from .tensors import TensorReader
from .vit import image_size_of, named_vit
from .weights import check_fit, fill, renamed_for, without_wrapper


@dataclass(frozen=True, kw_only=True)
class LoadedNetwork:
    """A network read from a file, in eval mode, on the CPU, in float32.

    Attributes:
        module: the network; it carries no hooks, and its parameters require gradients as saved.
        architecture: such as `resnet18` or `package.module:factory`.
        num_classes: outputs of the last linear layer or 1x1 convolution; None without one.
        format: `safetensors`, `state-dict` or `whole-module`, followed by ` (legacy)` for files
            of torch's older container.
        notes: what was done to the weights on the way.
        sha256: of the bytes that were read.
        guards: what the kernel held the process to that read them; see `kernel_guards`.
    """

    module: nn.Module
    architecture: str
    num_classes: int | None
    format: str
    notes: tuple[str, ...] = ()
    sha256: str = ""
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the caller and the side-car say about the network in the file."""

    source: ArchitectureSource | None
    name: str | None
    num_classes: int | None
    sidecar: SideCar | None = None


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """The architecture that weights are put into.

    Attributes:
        label: its full name.
        build: makes it for a number of classes, or with its own default for None.
        outlined: whether it can be drafted without memory for its weights.
    """

    label: str
    build: Callable[[int | None], nn.Module]
    outlined: bool

    def draft(self, classes: int | None) -> nn.Module:
        """The network, without its weights where that is possible."""
        draft = without_weights(partial(self.build, classes)) if self.outlined else None
        return draft or self.build(classes)


def load_network(
    path: Path,
    *,
    architecture: ArchitectureSource | None = None,
    architecture_name: str | None = None,
    num_classes: int | None = None,
    require_sandbox: bool = False,
) -> LoadedNetwork:
    """The network in an untrusted model file; nothing in the file is executed.

    The file is opened by a process of its own, which can do nothing else; what it found is checked
    again here and put into a network.

    Args:
        path: the file; its format is found from its content.
        architecture: where the user says that networks come from.
        architecture_name: what the model's metadata calls its architecture.
        num_classes: what the model's metadata says; the weights have the last word.
        require_sandbox: whether to refuse where the kernel does not offer every guard for the
            process that opens the file.

    Raises:
        RefusedFile: the file cannot be read safely; says what was found and what to do.
        ArchitectureError: no network is known for the weights, or they do not fit it.
        InputError: the file is missing or empty, its side-car is malformed, or a guard is missing
            that was required.
    """
    path = Path(path)
    known_classes()  # the table is made before the file is opened, so no file can influence it
    try:
        request = _Request(
            source=architecture,
            name=architecture_name,
            num_classes=num_classes,
            sidecar=read_sidecar(path),
        )
        # Fresh networks draw their first weights; the caller's random numbers must not notice.
        with (
            in_time("reading it"),
            torch.random.fork_rng(devices=[]),
            handed_over(path, insist=require_sandbox) as handed,
        ):
            loaded = _load(handed, request)
    except RefusedFile as error:
        raise RefusedFile(f"{path}: refused: {error}") from error
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error
    except (MemoryError, RecursionError, OSError) as error:
        raise RefusedFile(f"{path}: refused: reading it failed with {error!r}") from error
    loaded.module.float().eval()
    return _with_class_note(loaded, num_classes)


def save_network(
    path: Path,
    module: nn.Module,
    *,
    architecture: str,
    num_classes: int,
    preprocessing: Preprocessing | None = None,
) -> None:
    """Writes the weights as safetensors and, beside them, `<stem>.arch.json`.

    Args:
        path: where to; must end in `.safetensors`.
        module: the network, on any device.
        architecture: what :func:`load_network` shall rebuild, such as `resnet18`.
        num_classes: number of logits.
        preprocessing: what the network was trained with, which the side-car then states; None: it
            is found again by trial whenever the model is opened.

    Raises:
        InputError: the path does not end in `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: networks are saved as safetensors; end the name in .safetensors")
    write_safetensors(path, module.state_dict())
    write_sidecar(
        path,
        architecture=architecture,
        num_classes=num_classes,
        normalisation="" if preprocessing is None else name_of(preprocessing),
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal; an empty file has one too.

    Raises:
        InputError: there is no such file.
        RefusedFile: it is a folder, pipe or device, or a giant file with hardly anything in it.
    """
    try:
        with ordinary(Path(path)) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except RefusedFile as error:
        raise RefusedFile(f"{path}: {error}") from error


def _load(handed: HandedOver, request: _Request) -> LoadedNetwork:
    loaded = _network_in(handed, request)
    return replace(loaded, sha256=handed.sha256, guards=handed.guards)


def _network_in(handed: HandedOver, request: _Request) -> LoadedNetwork:
    if handed.storages is None:
        state = read_safetensors(handed.weights)
        return _from_state(state, request, format="safetensors", notes=())
    suffix = " (legacy)" if handed.format == "legacy" else ""
    weights = find_weights(handed.tree)
    reader = TensorReader(handed.storages, handed.weights.stat().st_size)
    if weights.network is not None:
        loaded = _from_network(weights.network, reader, request)
        return replace(loaded, format=f"whole-module{suffix}", notes=weights.notes + loaded.notes)
    state = {name: reader.read(record) for name, record in weights.state.items()}
    request = _informed(request, weights)
    return _from_state(state, request, format=f"state-dict{suffix}", notes=weights.notes)


def _informed(request: _Request, weights: Weights) -> _Request:
    """The request with the class name that the checkpoint gives, where metadata give none."""
    return replace(request, name=request.name or weights.class_name)


def _from_network(root: Instance, reader: TensorReader, request: _Request) -> LoadedNetwork:
    root, notes = unwrapped(root)
    check_attributes(root)
    records = state_of(root)
    if request.source is not None:
        loaded = _as_requested(root, reader, request)
        return replace(loaded, notes=notes + loaded.notes)
    tensors = {name: reader.read(record) for name, record in records.items()}
    likely = torchvision_name(request.name) if request.name else None
    rebuilt = rebuild(root, records, tensors, likely=likely)
    if rebuilt is not None:
        module, name = rebuilt
        owner = "torchvision" if torchvision_name(name) else "moth-eval's"
        return _loaded(module, name, (*notes, f"rebuilt as {owner} {name}"))
    _refuse_unknown(root)
    module = realise(root, reader)
    note = "no ready architecture is the same network; made from the layers that the file describes"
    return _loaded(module, root.name.rpartition(".")[2], (*notes, note))


def _as_requested(root: Instance, reader: TensorReader, request: _Request) -> LoadedNetwork:
    """The architecture that the user named, with the weights of a pickled network."""
    assert request.source is not None  # noqa: S101 - asked by the caller
    records = state_of(root)
    name = torchvision_name(request.source.spec)
    if name is not None and unknown_class(root) is None:
        reason = why_not(root, {key: record.size for key, record in records.items()}, name)
        if reason is not None:
            raise ArchitectureError(
                f"--arch {name} was given, but the network in the file is another: {reason}. "
                "Leave out --arch to read the network as the file describes it"
            )
    state = {key: reader.read(record) for key, record in records.items()}
    return _from_state(state, request, format="whole-module", notes=())


def _refuse_unknown(root: Instance) -> None:
    name = unknown_class(root)
    if name is None:
        return
    if name.startswith("torchvision.models.detection."):
        raise RefusedFile(f"the file holds an object detector ({name}); only classifiers are read")
    if name.startswith(SHORTCUTS):
        raise RefusedFile(
            f"the file holds a whole network with a part of the class {name}, which torch runs by "
            "a shortcut that believes its attributes; give the same network with --arch "
            "package.module:factory, or save a state dict"
        )
    hint = "timm's code is not run" if name.startswith("timm.") else "its code is not imported"
    raise RefusedFile(
        f"the file holds a whole network of the class {name}, which is not one of torch's or "
        f"torchvision's; {hint}. Give the same network with --arch package.module:factory, or "
        "save a state dict"
    )


def _from_state(
    state: dict[str, Tensor], request: _Request, *, format: str, notes: tuple[str, ...]
) -> LoadedNetwork:
    state, unwrapping = without_wrapper(state)
    choice = _architecture_for(state, request)
    hint = request.sidecar.num_classes if request.sidecar else request.num_classes
    network, build = _sized(choice, state, hint)
    state, renaming = renamed_for(network, state)
    if renaming:
        network, build = _sized(choice, state, hint)
    check_fit(choice.label, network, state)
    network = fill(network, state, build if choice.outlined else None)
    loaded = _loaded(network, choice.label, (*notes, *unwrapping, *renaming))
    return replace(loaded, format=format)


def _sized(
    choice: _Choice, state: dict[str, Tensor], hint: int | None
) -> tuple[nn.Module, Callable[[], nn.Module]]:
    """The network with as many outputs as the weights of its last layer have, and its maker.

    Only a size that the weights really have is asked for: a number that merely stands in the
    file or its metadata could demand any amount of memory.
    """
    build = choice.build
    heads = {len(value) for value in state.values() if value.ndim > 1 and value.numel()}
    try:
        network = choice.draft(None)
    except ArchitectureError:
        if hint not in heads:
            raise
        return choice.draft(hint), partial(build, hint)
    path, _ = final_layer(network) or ("", 0)
    found, expected = state.get(f"{path}.weight"), network.state_dict().get(f"{path}.weight")
    if found is None or expected is None or found.shape == expected.shape:
        return network, partial(build, None)
    if found.shape[1:] != expected.shape[1:] or not found.numel():
        return network, partial(build, None)
    return choice.draft(len(found)), partial(build, len(found))


def _architecture_for(state: dict[str, Tensor], request: _Request) -> _Choice:
    said = request.sidecar.architecture if request.sidecar else None
    name = said or request.name
    builtin = request.source.spec if request.source and request.source.is_builtin else None
    if request.source is not None and builtin is None:
        return _from_source(request.source, name)
    chosen = builtin or name
    if chosen is None:
        raise ArchitectureError(
            "the file holds weights but not the network that they belong to; name it with --arch "
            "(a torchvision name, or package.module:factory), or in a side-car file "
            '<model>.arch.json: {"architecture": "resnet18", "num_classes": 10}'
        )
    if builtin_architecture(chosen) is None:
        where = f"{request.sidecar.path}" if request.sidecar and chosen == said else "the metadata"
        raise ArchitectureError(
            f"the architecture {chosen!r}, named by {where}, is not one of torchvision's or ours; "
            "if you have code for it that you trust, give it with --arch package.module:factory"
        )
    return _from_builtin(chosen, state)


def _from_source(source: ArchitectureSource, name: str | None) -> _Choice:
    # A side-car that save_network wrote may hold the factory's full name.
    short = name.removeprefix(f"{source.spec}:") if name else None
    label, factory = source.factory(short)
    return _Choice(label=label, build=partial(call_factory, label, factory), outlined=False)


def _from_builtin(name: str, state: dict[str, Tensor]) -> _Choice:
    official = torchvision_name(name)
    build: Callable[[int | None], nn.Module]
    if official is not None:
        switches = {"aux_logits": has_auxiliary(state)} if official in AUXILIARY else {}
        build = partial(_build_official, official, switches)
        return _Choice(
            label=official, build=build, outlined=without_weights(partial(build, None)) is not None
        )
    plain = name.strip().removeprefix("classification:").lower()
    own = own_network(plain)
    if own is not None:
        return _Choice(label=plain, build=partial(call_factory, plain, own), outlined=True)
    size = image_size_of(plain, {key: tuple(value.shape) for key, value in state.items()})
    return _Choice(label=plain, build=partial(_build_vit, plain, size), outlined=True)


def _build_official(name: str, switches: dict[str, bool], classes: int | None) -> nn.Module:
    return build_torchvision(name, num_classes=classes, **switches)


def _build_vit(name: str, image_size: int | None, classes: int | None) -> nn.Module:
    return named_vit(name, num_classes=classes or 1000, image_size=image_size)


def _loaded(module: nn.Module, architecture: str, notes: tuple[str, ...]) -> LoadedNetwork:
    layer = final_layer(module)
    return LoadedNetwork(
        module=module,
        architecture=architecture,
        num_classes=layer[1] if layer else None,
        format="whole-module",
        notes=notes,
    )


def _with_class_note(loaded: LoadedNetwork, said: int | None) -> LoadedNetwork:
    if said is None or loaded.num_classes in (None, said):
        return loaded
    note = f"the metadata say {said} classes, the network has {loaded.num_classes}"
    return replace(loaded, notes=(*loaded.notes, note))
