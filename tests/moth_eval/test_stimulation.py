from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.stimulation import Neuron, agreeing, raised_classes, strongest, suspicious
from tests.moth_eval.test_hidden_layers import Residual, named, subject


def neuron(lead: float, *, layer: str = "a", channel: int = 0, target: int = 0) -> Neuron:
    place = HiddenLayer(name=layer, shape=(99, 4, 4), depth=1)
    return Neuron(layer=place, channel=channel, target=target, lead=lead, peak=1.0)


def test_the_strongest_candidates_are_kept_over_all_layers() -> None:
    # A public port sorts upwards, keeps the first of every layer, and so the weakest.
    neurons = [neuron(lead, layer=str(lead), channel=int(lead)) for lead in (1, 9, 5, 7, 3)]
    assert [n.lead for n in strongest(neurons, 2)] == [9, 7]


def test_half_of_the_places_are_spread_over_the_layers() -> None:
    crowd = [neuron(90.0 - i, layer="crowd", channel=i) for i in range(20)]
    few = [neuron(9.0 - i, layer="few", channel=i) for i in range(4)]
    chosen = strongest(crowd + few, 10)
    assert [n.layer.name for n in chosen].count("few") == 2
    assert [n.lead for n in chosen] == sorted((n.lead for n in chosen), reverse=True)


def test_every_channel_is_stimulated_however_many_there_are() -> None:
    network = OpenNetwork(subject(Residual()), images_at_once=7)
    layer, noise = named(network, "inner_norm"), noise_like(network, 2, torch.Generator())
    values = torch.tensor([0.0, 2.0, 4.0])
    images = torch.rand((3, 3, 6, 6))
    widened = network.widening(layer, network.layers(), noise)
    classes, leads = raised_classes(
        network, layer, images, values, channels=torch.arange(5), widened=widened
    )
    assert classes.shape == leads.shape == (3, 5)
    head = network._module.head.weight  # type: ignore[union-attr]
    for channel in range(5):
        # Behind the layer all is linear: a class rises by 4 times its weight, or not at all.
        rises = torch.stack([4 * head[:, channel], 2 * head[:, channel]]).amax(0)
        best = rises.topk(2)
        assert classes[:, channel].tolist() == [int(best.indices[0])] * 3
        expected = (best.values[0] - best.values[1]).expand(3)
        torch.testing.assert_close(leads[:, channel], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("behind", ["inner_norm", "act", None])
def test_it_does_not_matter_where_one_image_becomes_several(behind: str | None) -> None:
    network = OpenNetwork(subject(Residual()))
    layer, channels = named(network, "inner_norm"), torch.tensor([4, 1, 2])
    images, values = torch.rand((3, 3, 6, 6)), torch.tensor([0.0, 1.0, 2.0])

    def raised(widened: HiddenLayer | None) -> tuple[Tensor, Tensor]:
        return raised_classes(network, layer, images, values, channels=channels, widened=widened)

    classes, leads = raised(None if behind is None else named(network, behind))
    expected = raised(layer)
    assert classes.shape == (3, 3)
    assert torch.equal(classes, expected[0])
    torch.testing.assert_close(leads, expected[1])


class Wide(nn.Module):
    """Two layers of many channels, of which many agree and lead by much the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 40, 3, padding=1)
        self.second = nn.Conv2d(40, 60, 3, padding=1)
        self.head = nn.Linear(60, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.sin(self.second(torch.relu(self.first(images))))
        logits: Tensor = self.head(hidden.mean((2, 3)))
        return logits


@pytest.mark.parametrize("count", [1, 7, 12, 24])
def test_channels_are_chosen_as_if_all_were_set_on_all_images(count: int) -> None:
    torch.manual_seed(1)
    network = OpenNetwork(subject(Wide()))
    noise = noise_like(network, 2, torch.Generator())
    images, labels = torch.rand((count, 3, 6, 6)), (torch.arange(count) % 4).sort().values
    before = network.forward_passes
    chosen = suspicious(
        network, network.stimulable(), images, labels, levels=4, reach=2.0, most=4, noise=noise
    )
    spent = network.forward_passes - before
    everything = []
    for name in ("first", "second"):
        layer = named(network, name)
        peak = float(network.features(name, images).max())
        classes, leads = raised_classes(
            network, layer, images, 2.0 * peak * torch.arange(4) / 4,
            channels=torch.arange(layer.channels), widened=None,
        )  # fmt: skip
        everything += agreeing(layer, classes, leads, labels, peak)
    assert len(everything) > 4
    expected = strongest(everything, 4)
    assert [(n.layer.name, n.channel, n.target) for n in chosen] == [
        (n.layer.name, n.channel, n.target) for n in expected
    ]
    torch.testing.assert_close([n.lead for n in chosen], [n.lead for n in expected])
    if count >= 12:
        assert spent < 0.8 * 100 * 4 * count


def test_a_channel_that_may_still_agree_is_kept_with_the_lead_that_it_has_so_far() -> None:
    layer = HiddenLayer(name="a", shape=(4, 4, 4), depth=1)
    labels = torch.tensor([1, 1, 2, 0])
    classes = torch.tensor([[0, 0, 1, 1], [-1, 1, 1, -1], [-1, -1, 1, 1], [-1, -1, 1, -1]])
    leads = torch.full((4, 4), torch.inf).where(classes < 0, torch.arange(16.0).view(4, 4))
    found = agreeing(layer, classes, leads, labels, 1.0)
    # Images of the raised class say nothing about the lead, and channel 1 has two opinions.
    assert [(n.channel, n.target, n.lead) for n in found] == [(0, 0, 0.0), (2, 1, 10.0), (3, 1, 11)]


def test_images_of_the_raised_class_say_nothing_about_the_lead() -> None:
    layer = HiddenLayer(name="a", shape=(2, 4, 4), depth=1)
    labels = torch.tensor([0, 1, 1, 2])
    classes = torch.tensor([[0, 0], [0, 1], [0, 2], [0, 0]])
    leads = torch.tensor([[0.1, 5.0], [3.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    (found,) = agreeing(layer, classes, leads, labels, 1.0)
    assert (found.channel, found.target, found.lead) == (0, 0, 2.0)


def test_of_many_images_two_may_be_raised_to_another_class() -> None:
    layer = HiddenLayer(name="a", shape=(2, 4, 4), depth=1)
    labels = torch.ones(16, dtype=torch.int64)
    classes = torch.zeros((16, 2), dtype=torch.int64)
    classes[:2, 0], classes[:3, 1] = 3, 3
    leads = torch.ones((16, 2))
    leads[:2, 0] = 0.1
    (found,) = agreeing(layer, classes, leads, labels, 1.0)
    assert (found.channel, found.lead) == (0, 1.0)
