from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.subject import Examples, Subject


class Residual(nn.Module):
    """A stem, a block with a way around it, and a head; `joined` puts the ways side by side."""

    def __init__(self, *, joined: bool = False) -> None:
        super().__init__()
        self.joined = joined
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.act = nn.ReLU(inplace=True)
        self.inner = nn.Conv2d(5, 5, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(5)
        self.after = nn.Identity()
        self.head = nn.Linear(10 if joined else 5, 4)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.act(self.norm(self.stem(images)))
        inner = self.inner_norm(self.inner(stem))
        both = torch.cat([inner, stem], 1) if self.joined else inner + stem
        logits: Tensor = self.head(self.after(both).mean((2, 3)))
        return logits


def subject(module: nn.Module) -> Subject:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, -1, 1)
            nn.init.uniform_(part.running_mean, -1, 1)  # type: ignore[arg-type]
    images, labels = torch.rand((8, 3, 6, 6)), torch.arange(8) % 4
    return Subject(
        name="residual",
        module=module.eval(),
        num_classes=4,
        image_shape=(3, 6, 6),
        examples=Examples(images=images, labels=labels),
    )


@pytest.fixture
def network() -> OpenNetwork:
    return OpenNetwork(subject(Residual()))


def named(network: OpenNetwork, name: str) -> HiddenLayer:
    return next(layer for layer in network.layers() if layer.name == name)


def test_a_pass_can_start_only_where_all_goes_through(network: OpenNetwork) -> None:
    noise = noise_like(network, 2, torch.Generator().manual_seed(1))
    cuts = {layer.name for layer in network.layers() if network.is_cut(layer, noise)}
    assert cuts == {"stem", "norm", "act", "after"}


def test_a_pass_that_starts_inside_gives_the_logits_of_the_whole_one(network: OpenNetwork) -> None:
    images = torch.rand((5, 3, 6, 6))
    for name in ("stem", "norm", "act", "after"):
        found = network.resumed(name, network.features(name, images))
        torch.testing.assert_close(found, network.logits(images))


def test_what_is_read_is_what_the_layer_put_out_though_the_next_one_works_in_place(
    network: OpenNetwork,
) -> None:
    images = torch.rand((5, 3, 6, 6))
    assert float(network.features("norm", images).min()) < 0
    assert float(network.features("act", images).min()) == 0


def test_layers_are_stimulated_behind_a_norm_that_alone_reads_them(network: OpenNetwork) -> None:
    assert [layer.name for layer in network.stimulable()] == ["norm", "inner_norm"]
    forked = Residual()
    forked.norm, forked.act = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    assert [layer.name for layer in OpenNetwork(subject(forked)).stimulable()] == [
        "stem",
        "inner_norm",
    ]


def test_one_image_becomes_several_only_where_what_goes_around_allows_it() -> None:
    for joined, expected in ((False, "inner_norm"), (True, "act")):
        network = OpenNetwork(subject(Residual(joined=joined)))
        noise = noise_like(network, 2, torch.Generator().manual_seed(1))
        found = network.widening(named(network, "inner_norm"), network.layers(), noise)
        assert found is not None
        assert found.name == expected


def test_a_network_that_looks_at_its_whole_batch_takes_several_images_from_the_start() -> None:
    class Crowd(Residual):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + images.sum((1, 2, 3))[:, None] * len(images)

    network = OpenNetwork(subject(Crowd()))
    noise = noise_like(network, 2, torch.Generator().manual_seed(1))
    assert network.widening(named(network, "inner_norm"), network.layers(), noise) is None


def test_layers_count_what_has_weights_and_end_before_the_last_of_them(
    network: OpenNetwork,
) -> None:
    layers = {layer.name: layer for layer in network.layers()}
    assert "head" not in layers
    assert (layers["act"].depth, layers["after"].depth) == (1, 2)
    assert layers["after"].spatial
    assert (layers["after"].channels, layers["after"].channel_axis) == (5, 1)


@pytest.mark.parametrize("name", ["convnext_tiny", "swin_v2_t"])
def test_channels_are_found_where_axes_are_turned(name: str) -> None:
    """ConvNeXt turns its maps within a block, Swin keeps channels last throughout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = models.get_model(name, num_classes=5).eval()
    images = torch.rand(2, 3, 64, 96)
    subject = Subject(
        name=name, module=module, num_classes=5, image_shape=(3, 64, 96),
        examples=Examples(images=images, labels=torch.tensor([0, 1])),
    )  # fmt: skip
    network = OpenNetwork(subject, images_at_once=2)
    layers = {layer.name: layer for layer in network.layers()}
    # What biases attention by position is no map of the image.
    maps = [one for one in layers.values() if len(one.shape) == 3 and "cpb" not in one.name]
    widths = {96, 192, 384, 768, 4 * 96, 4 * 192, 4 * 384, 4 * 768}
    assert {layer.channels for layer in maps} <= widths
    turned = {layer.name for layer in maps if layer.channel_axis == -1}
    if name == "convnext_tiny":
        assert {"features.1.0.block.3", "features.1.0.block.4"} <= turned  # linear, and its GELU
        assert not {"features.0.0", "features.0.1", "features.1.0.block.0", "features.1.0"} & turned
    else:
        assert {"features.1.0", "features.1.0.mlp.0", "features.2.reduction"} <= turned
        assert "features.0.0" not in turned


def test_passes_are_counted_with_those_that_start_inside(network: OpenNetwork) -> None:
    network.logits(torch.rand((3, 3, 6, 6)))
    network.resumed("after", torch.rand((4, 5, 6, 6)))
    assert network.forward_passes == 7


@pytest.mark.parametrize(
    "module",
    [
        models.DenseNet(8, (2, 2), 16, num_classes=4),
        models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=4),
        models.shufflenet_v2_x0_5(num_classes=4),
    ],
    ids=lambda module: type(module).__name__,
)
def test_networks_of_other_families_can_be_opened(module: nn.Module) -> None:
    given = subject(module)
    images = torch.rand((8, 3, 32, 32))
    network = OpenNetwork(
        replace(given, image_shape=(3, 32, 32), examples=replace(given.examples, images=images))
    )
    noise = noise_like(network, 2, torch.Generator().manual_seed(1))
    layer = next(one for one in reversed(network.layers()) if network.is_cut(one, noise))
    found = network.resumed(layer.name, network.features(layer.name, images))
    torch.testing.assert_close(found, network.logits(images), atol=1e-4, rtol=1e-3)
    stimulable = network.stimulable()
    assert len(stimulable) > 3
    assert not {"classifier", "heads.head", "fc"} & {one.name for one in stimulable}
