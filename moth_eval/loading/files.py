"""From a model file to a network that is safe to run, or a refusal that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from moth_eval.errors import ArchitectureError, InputError, RefusedFile

from .architectures import (
    AUXILIARY,
    ArchitectureSource,
    build_torchvision,
    builtin_architecture,
    call_factory,
    final_layer,
    torchvision_name,
)
from .checkpoints import Weights, find_weights
from .containers import open_checkpoint
from .formats import Format, identify, regular_file_size
from .forward import check_forward as check_forward  # the subject opener takes it from here
from .inert_tree import Instance
from .module_tree import state_of, unwrapped
from .realise import check_attributes, known_classes, realise, unknown_class
from .rebuild import has_auxiliary, rebuild, why_not
from .sidecars import SideCar, read_sidecar, write_sidecar
from .stored import read_safetensors, write_safetensors
from .tensors import TensorReader
from .vit import VIT_NAMES, image_size_of, named_vit
from .weights import check_fit, fill, renamed_for, without_wrapper

#: Names that model files go by. A file of a kind that is refused still counts as a model.
MODEL_SUFFIXES: tuple[str, ...] = (
    ".safetensors",
    ".pt",
    ".pth",
    ".th",
    ".ckpt",
    ".bin",
    ".pkl",
    ".pt2",
    ".onnx",
)


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
    """

    module: nn.Module
    architecture: str
    num_classes: int | None
    format: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What the caller and the side-car say about the network in the file."""

    source: ArchitectureSource | None
    name: str | None
    num_classes: int | None
    sidecar: SideCar | None = None


def load_network(
    path: Path,
    *,
    architecture: ArchitectureSource | None = None,
    architecture_name: str | None = None,
    num_classes: int | None = None,
) -> LoadedNetwork:
    """The network in an untrusted model file; nothing in the file is executed.

    Args:
        path: the file; its format is found from its content.
        architecture: where the user says that networks come from.
        architecture_name: what the model's metadata calls its architecture.
        num_classes: what the model's metadata says; the weights have the last word.

    Raises:
        RefusedFile: the file cannot be read safely; says what was found and what to do.
        ArchitectureError: no network is known for the weights, or they do not fit it.
        InputError: the file is missing or empty, or its side-car is malformed.
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
        with torch.random.fork_rng(devices=[]):
            loaded = _load(path, identify(path), request)
    except RefusedFile as error:
        raise RefusedFile(f"{path}: refused: {error}") from error
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from error
    except (MemoryError, RecursionError, OSError) as error:
        raise RefusedFile(f"{path}: refused: reading it failed with {error!r}") from error
    loaded.module.float().eval()
    return _with_class_note(loaded, num_classes)


def save_network(path: Path, module: nn.Module, *, architecture: str, num_classes: int) -> None:
    """Writes the weights as safetensors and, beside them, `<stem>.arch.json`.

    Args:
        path: where to; must end in `.safetensors`.
        module: the network, on any device.
        architecture: what :func:`load_network` shall rebuild, such as `resnet18`.
        num_classes: number of logits.

    Raises:
        InputError: the path does not end in `.safetensors`.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: networks are saved as safetensors; end the name in .safetensors")
    write_safetensors(path, module.state_dict())
    write_sidecar(path, architecture=architecture, num_classes=num_classes)


def sha256_of(path: Path) -> str:
    """SHA-256 of the file's bytes, hexadecimal."""
    regular_file_size(Path(path))
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path, found: Format, request: _Request) -> LoadedNetwork:
    if found == "safetensors":
        return _from_state(read_safetensors(path), request, format="safetensors", notes=())
    suffix = " (legacy)" if found == "legacy" else ""
    with open_checkpoint(path, found) as checkpoint:
        weights = find_weights(checkpoint.tree)
        reader = TensorReader(checkpoint.storages, path.stat().st_size)
        if weights.network is not None:
            loaded = _from_network(weights.network, reader, request)
            return replace(
                loaded, format=f"whole-module{suffix}", notes=weights.notes + loaded.notes
            )
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
    label, build = _architecture_for(state, request)
    hint = request.sidecar.num_classes if request.sidecar else None
    network = _sized(build, state, hint or request.num_classes)
    state, renaming = renamed_for(network, state)
    if renaming:
        network = _sized(build, state, hint or request.num_classes)
    check_fit(label, network, state)
    loaded = _loaded(fill(network, state), label, (*notes, *unwrapping, *renaming))
    return replace(loaded, format=format)


def _sized(
    build: Callable[[int | None], nn.Module], state: dict[str, Tensor], hint: int | None
) -> nn.Module:
    """The network with as many outputs as the weights of its last layer have."""
    network = build(hint)
    layer = final_layer(network)
    weight = state.get(f"{layer[0]}.weight") if layer else None
    if layer is None or weight is None or len(weight) == layer[1]:
        return network
    return build(len(weight))


def _architecture_for(
    state: dict[str, Tensor], request: _Request
) -> tuple[str, Callable[[int | None], nn.Module]]:
    """Full name of the architecture to use, and how to build it for a number of classes."""
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
            f"{where} name the architecture {chosen!r}, which is not one of torchvision's; if you "
            f"have code for it that you trust, give it with --arch package.module:factory"
        )
    return _from_builtin(chosen, state)


def _from_source(
    source: ArchitectureSource, name: str | None
) -> tuple[str, Callable[[int | None], nn.Module]]:
    # A side-car that save_network wrote may hold the factory's full name.
    short = name.removeprefix(f"{source.spec}:") if name else None
    label, factory = source.factory(short)
    return label, partial(call_factory, label, factory)


def _from_builtin(
    name: str, state: dict[str, Tensor]
) -> tuple[str, Callable[[int | None], nn.Module]]:
    official = torchvision_name(name)
    if official is not None:
        switches = {"aux_logits": has_auxiliary(state)} if official in AUXILIARY else {}
        return official, lambda classes: build_torchvision(
            official, num_classes=classes, **switches
        )
    plain = name.strip().removeprefix("classification:").lower()
    assert plain in VIT_NAMES  # noqa: S101 - the only other built-in networks
    size = image_size_of(plain, {key: tuple(value.shape) for key, value in state.items()})
    return plain, lambda classes: named_vit(plain, num_classes=classes or 1000, image_size=size)


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
