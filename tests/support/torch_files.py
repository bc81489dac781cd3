"""Rewrites files of torch.save the way older libraries would have written them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn


def rename_classes(path: Path, names: Mapping[str, str]) -> None:
    """Replaces the dotted class names that the pickle (protocol 2) in a zip file names."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for member, data in members.items():
        if member.endswith("/data.pkl"):
            members[member] = _renamed(data, names)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


def _renamed(data: bytes, names: Mapping[str, str]) -> bytes:
    for old, new in names.items():
        assert _line(old) in data, f"the pickle does not name {old}"
        data = data.replace(_line(old), _line(new))
    return data


def _line(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode, with no two batch normalisations alike."""
    generator = torch.Generator().manual_seed(seed)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1, generator=generator)
    return network.eval()


def images(size: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same_network(found: nn.Module, expected: nn.Module, size: int) -> None:
    """Equal names, order and bits of the weights, and equal bits of the logits."""
    theirs, ours = expected.state_dict(), found.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not any(part.training for part in found.modules())
    with torch.no_grad():
        assert torch.equal(found(images(size)), expected(images(size)))
