from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from moth_eval.errors import ScanError
from moth_eval.scan import Scan, Status
from moth_eval.subject import Examples, Subject
from scanners.final_layer import FinalLayer, row_figures, upward_indices
from tests.support.subjects import prototype_subject


def scan(subject: Subject, **fields: object) -> Scan:
    return FinalLayer(**fields).scan(subject, generator=torch.Generator())  # type: ignore[arg-type]


def subject_of(module: nn.Module, classes: int = 6) -> Subject:
    return replace(prototype_subject(classes=classes), module=module.eval())


def linear_net(classes: int = 6, *, seed: int = 0, bias: bool = True) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = nn.Linear(8, classes, bias=bias)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


@pytest.mark.parametrize("what", ["mean", "norm", "bias"])
def test_a_row_that_was_made_to_stand_out_is_named(what: str) -> None:
    net = linear_net()
    before = scan(subject_of(net))
    with torch.no_grad():
        if what == "mean":
            net[3].weight[4] += 2.0
        elif what == "norm":
            net[3].weight[4] *= 30
        else:
            net[3].bias[4] += 20.0
    found = scan(subject_of(net))
    assert found.target == 4
    assert found.score is not None
    assert before.score is not None
    assert found.score > before.score
    assert any(what in e.what and e.target == 4 for e in found.evidence)
    assert scan(subject_of(net), statistic=what).target == 4


@pytest.mark.parametrize("statistic", ["largest", "mean", "norm", "bias", "skew"])
def test_what_is_added_to_all_logits_alike_changes_no_score(statistic: str) -> None:
    net = linear_net()
    before = scan(subject_of(net), statistic=statistic)
    with torch.no_grad():
        net[3].weight += torch.randn(8, generator=torch.Generator().manual_seed(1)) * 5
        net[3].bias += 7.0
    after = scan(subject_of(net), statistic=statistic)
    assert after.score == pytest.approx(before.score, rel=1e-3)
    assert after.target == before.target


def test_its_cut_counts_how_many_figures_there_are_to_stand_out_in() -> None:
    all_figures, fewer, alone = (
        scan(subject_of(linear_net(bias=bias)), statistic=statistic).rule
        for bias, statistic in ((True, "largest"), (False, "largest"), (True, "norm"))
    )
    assert all_figures is not None
    assert fewer is not None
    assert alone is not None
    assert all_figures.threshold > fewer.threshold > alone.threshold
    assert "6 independent normal rows for each of 4 figures" in all_figures.source
    assert {r.origin for r in (all_figures, fewer, alone)} == {"ours"}


def test_a_smaller_row_is_no_suspect() -> None:
    figures = np.array([1.0, 1.1, 0.9, 1.05, -9.0])
    assert int(upward_indices(figures).argmax()) == 1
    assert float(upward_indices(figures).max()) < 2
    assert upward_indices(np.full(5, 3.0)).tolist() == [0.0] * 5


def test_the_last_layer_is_the_one_that_is_run_last_whatever_it_is_called() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_head = nn.Conv2d(4, 5, 1)
            self.z_body = nn.Conv2d(3, 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.a_head(self.z_body(images).relu()).mean((2, 3))
            return logits

    found = scan(subject_of(Odd(), classes=5))
    assert found.status is Status.SCORED
    assert all("a_head" in e.what for e in found.evidence)


class Headed(nn.Module):
    """A head whose logits `finish` makes from its output and that of a layer run after it."""

    def __init__(self, finish: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.head, self.other = nn.Linear(3, 6), nn.Linear(3, 6)
        for layer in (self.head, self.other):
            layer.weight.data = torch.randn((6, 3), generator=generator)
        self.finish = finish

    def forward(self, images: Tensor) -> Tensor:
        features = images.mean((2, 3))
        return self.finish(self.head(features), self.other(features))


@pytest.mark.parametrize(
    "finish",
    [
        lambda logits, _: logits,
        lambda logits, _: logits / 8,
        lambda logits, _: logits.log_softmax(1),
        lambda logits, _: logits.relu(),
    ],
)
def test_a_layer_that_runs_later_but_makes_no_logits_is_not_taken_for_the_last(
    finish: Callable[[Tensor, Tensor], Tensor],
) -> None:
    found = scan(subject_of(Headed(finish)))
    assert found.status is Status.SCORED
    assert all(e.what.endswith("of a row of head") for e in found.evidence)


@pytest.mark.parametrize(
    "finish",
    [
        lambda logits, _: -torch.cdist(logits, torch.eye(6)),
        lambda logits, _: logits.relu() @ torch.eye(6).roll(1, 0),
        lambda logits, _: logits.flip(1),
        lambda logits, _: -logits,
        lambda logits, _: 0 * logits,
    ],
)
def test_rows_that_are_not_those_of_the_classes_are_not_scored(
    finish: Callable[[Tensor, Tensor], Tensor],
) -> None:
    found = scan(subject_of(Headed(finish)))
    assert found.status is Status.INCONCLUSIVE
    assert "no layer with a row of weights per class" in found.reason


def test_a_rectifier_behind_the_last_layer_hides_no_row() -> None:
    """As in SqueezeNet, where it follows the convolution that makes the logits."""
    module = models.squeezenet1_1(num_classes=6)
    images = Examples(images=torch.zeros(1, 3, 48, 48), labels=torch.zeros(1, dtype=torch.int64))
    small = subject_of(module)
    found = scan(replace(small, image_shape=(3, 48, 48), examples=images))
    assert found.status is Status.SCORED
    assert all(e.what.endswith("of a row of classifier.1") for e in found.evidence)


def test_it_counts_the_images_that_went_forward() -> None:
    passes = 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal passes
        passes += len(inputs[0])

    for module in (linear_net(), Headed(lambda logits, _: logits)):
        passes = 0
        module.register_forward_pre_hook(count)
        assert scan(subject_of(module)).cost.forward_passes == passes > 0
    assert scan(prototype_subject(classes=2)).cost.forward_passes == 0


def test_a_network_without_a_row_per_class_is_inconclusive() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, images: Tensor) -> Tensor:
            half = self.head(images.mean((2, 3)))
            return torch.cat([half, half], 1)

    class Bare(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)).repeat(1, 2)

    for module in (Doubled(), Bare()):
        found = scan(subject_of(module))
        assert found.status is Status.INCONCLUSIVE
        assert "no layer with a row of weights per class" in found.reason


def test_a_figure_that_is_not_there_is_inconclusive() -> None:
    found = scan(subject_of(linear_net(bias=False)), statistic="bias")
    assert found.status is Status.INCONCLUSIVE
    assert found.reason == "3 has no bias"
    assert "bias" not in row_figures(torch.eye(3), None)


def test_two_classes_are_too_few_and_unknown_statistics_refused() -> None:
    assert scan(prototype_subject(classes=2)).status is Status.INCONCLUSIVE
    with pytest.raises(ScanError, match="statistic must be one of largest, mean, norm, bias, skew"):
        FinalLayer(statistic="median")  # type: ignore[arg-type]
