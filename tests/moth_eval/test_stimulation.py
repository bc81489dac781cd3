from __future__ import annotations

import torch

from moth_eval.hidden_layers import HiddenLayer, OpenNetwork, noise_like
from moth_eval.stimulation import Neuron, agreeing, raised_classes, strongest
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
    classes, leads = raised_classes(network, layer, images, values, noise=noise)
    assert classes.shape == leads.shape == (3, 5)
    head = network._module.head.weight  # type: ignore[union-attr]
    for channel in range(5):
        # Behind the layer all is linear: a class rises by 4 times its weight, or not at all.
        rises = torch.stack([4 * head[:, channel], 2 * head[:, channel]]).amax(0)
        best = rises.topk(2)
        assert classes[:, channel].tolist() == [int(best.indices[0])] * 3
        expected = (best.values[0] - best.values[1]).expand(3)
        torch.testing.assert_close(leads[:, channel], expected, atol=1e-5, rtol=1e-4)


def test_a_pass_that_cannot_be_widened_gives_the_same_result() -> None:
    network = OpenNetwork(subject(Residual()))
    layer, noise = named(network, "inner_norm"), noise_like(network, 2, torch.Generator())
    images, values = torch.rand((3, 3, 6, 6)), torch.tensor([0.0, 1.0, 2.0])
    wide = raised_classes(network, layer, images, values, noise=noise)
    network.widens = lambda *_: False  # type: ignore[method-assign, assignment]
    narrow = raised_classes(network, layer, images, values, noise=noise)
    assert torch.equal(wide[0], narrow[0])
    torch.testing.assert_close(wide[1], narrow[1])


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
