"""What pruning promises, and the mistakes of public code that it must not make."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from moth_eval.cli import main
from moth_eval.hardeners.adversarial_neuron_pruning import AdversarialNeuronPruning
from moth_eval.hardeners.channel_lipschitz_pruning import ChannelLipschitzPruning, channel_bounds
from moth_eval.hardeners.feature_channels import last_features
from moth_eval.hardeners.fine_pruning import FinePruning
from moth_eval.hardeners.flow import flow_of
from moth_eval.hardeners.mask_pruning import candidates, pruned_hardening
from moth_eval.hardeners.norm_channels import NormChannels
from moth_eval.hardeners.reconstructive_neuron_pruning import ReconstructiveNeuronPruning
from moth_eval.hardening import Hardener, Hardening, HardeningStatus, LogEntry
from moth_eval.runner import run_hardening
from moth_eval.subject import Examples, Subject

TARGET = 2
SIDE = 8


class Planted(nn.Module):
    """Six channels tell three colours apart; the seventh answers to a bright corner alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 1)
        self.bn = nn.BatchNorm2d(7)
        self.fc = nn.Linear(7, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            for colour in range(3):
                for copy in range(2):
                    self.conv.weight[2 * colour + copy, colour] = 1
                    self.fc.weight[colour, 2 * colour + copy] = 6
            self.conv.weight[6] = 20
            self.conv.bias[6] = -50  # only white passes
            self.fc.weight[TARGET, 6] = 60
            self.bn.weight.fill_(1)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.bn(self.conv(images)))
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


def drawn(count: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = 0.3 * torch.rand((count, 3, SIDE, SIDE), generator=generator)
    images[torch.arange(count), labels] += 0.5
    return Examples(images=images, labels=labels)


@pytest.fixture
def subject() -> Subject:
    return Subject(
        name="planted", module=Planted().eval(), num_classes=3, image_shape=(3, SIDE, SIDE),
        examples=drawn(60, 0),
    )  # fmt: skip


def stamped(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, :4, :4] = 1
    return images


def asr(subject: Subject, module: nn.Module | None) -> float:
    assert module is not None
    test = drawn(60, 1)
    others = test.labels != TARGET
    answers = replace(subject, module=module).logits(stamped(test.images[others])).argmax(1)
    return float((answers == TARGET).float().mean())


def accuracy(subject: Subject, module: nn.Module | None) -> float:
    assert module is not None
    test = drawn(60, 1)
    answers = replace(subject, module=module).logits(test.images).argmax(1)
    return float((answers == test.labels).float().mean())


def run(hardener: Hardener, subject: Subject) -> Hardening:
    return run_hardening(hardener, subject, subject.examples, name="x", seed=0)


def test_the_planted_network_has_its_backdoor(subject: Subject) -> None:
    assert accuracy(subject, subject.module) == 1
    assert asr(subject, subject.module) == 1


def test_fine_pruning_silences_the_idle_channel_first(subject: Subject) -> None:
    done = run(FinePruning(epochs=1), subject)
    assert done.figures["pruned_channels"] >= 1
    [pruned] = done.variants
    assert (pruned.kind, pruned.name) == ("byproduct", "prune-only")
    for module in (pruned.module, done.module):
        assert asr(subject, module) < 0.1
        assert accuracy(subject, module) > 0.95


def test_the_step_that_costs_too_much_is_taken_back(subject: Subject) -> None:
    """Public code keeps the network that failed: no copy, and one step too many."""
    done = run(FinePruning(epochs=1, max_drop=0.01), subject)
    before, pruned = (done.figures[f"validation_accuracy_{name}"] for name in ("before", "pruned"))
    assert before - pruned <= 0.01
    features = last_features(subject)
    assert not isinstance(features, str)
    order = features.activity(subject, subject.examples.images).argsort(stable=True)
    curve = FinePruning(max_drop=0.01).curve(subject, features, order, subject.examples)
    assert curve[0] - curve[-1] > 0.01
    assert all(curve[0] - one <= 0.01 for one in curve[:-1])


@pytest.mark.parametrize(("share", "pruned"), [(1.0, [6]), (0.6, [4, 6]), (0.5, [3, 6])])
def test_steps_of_any_size_go_up_to_the_last_channel(
    share: float, pruned: list[int], subject: Subject
) -> None:
    method = FinePruning(epochs=1, step_share=share, max_drop=1.0)
    features = last_features(subject)
    assert not isinstance(features, str)
    curve = method.curve(subject, features, torch.arange(7), subject.examples)
    assert len(curve) == 1 + len(pruned)
    assert run(method, subject).figures["pruned_channels"] == 6
    costly = run(replace(method, max_drop=0.0, step_share=1.0), subject)
    assert costly.figures["pruned_channels"] == 0
    assert costly.reason == "no step keeps to max_drop; nothing was pruned"


def test_pruned_channels_stay_silent_while_the_rest_is_trained(subject: Subject) -> None:
    done = run(FinePruning(epochs=5), subject)
    assert done.module is not None
    [pruned] = done.variants
    silent = pruned.module.get_parameter("bn.weight") == 0
    assert silent.any()
    for name in ("bn.weight", "bn.bias"):
        assert (done.module.get_parameter(name)[silent] == 0).all()
        assert (pruned.module.get_parameter(name)[silent] == 0).all()


def test_what_was_pruned_survives_the_plain_architecture(subject: Subject) -> None:
    """Public code saves masks beside the weights, which the plain network cannot load."""
    done = run(FinePruning(epochs=1), subject)
    assert done.module is not None
    plain = Planted().eval()
    plain.load_state_dict(done.module.state_dict(), strict=True)
    images = stamped(drawn(9, 3).images)
    assert torch.equal(plain(images), done.module(images))


def test_activity_is_ranked_in_eval_mode_on_images_as_they_are(subject: Subject) -> None:
    features = last_features(subject)
    assert not isinstance(features, str)
    values = features.activity(subject, subject.examples.images, at_once=7)
    expected = torch.relu(subject.module.bn(subject.module.conv(subject.examples.images)))  # type: ignore[operator]
    assert torch.allclose(values, expected.mean((0, 2, 3)).double(), atol=1e-5)
    assert int(values.argmin()) == 6


@pytest.fixture(params=["anp", "rnp"])
def masking(request: pytest.FixtureRequest) -> Iterator[Hardener]:
    yield {
        "anp": AdversarialNeuronPruning(rounds=30, images=30, alpha=0.5),
        "rnp": ReconstructiveNeuronPruning(epochs=5, unlearning_epochs=3, images=30),
    }[request.param]


def test_masks_are_cut_by_images_held_back_and_never_by_the_trigger(
    masking: Hardener, subject: Subject
) -> None:
    done = run(masking, subject)
    assert done.variants == ()
    drop = done.figures["validation_accuracy_before"] - done.figures["validation_accuracy"]
    assert drop <= 0.04
    assert done.figures["pruned_channels"] == 1
    assert asr(subject, done.module) < 0.1
    assert accuracy(subject, done.module) == 1
    oracle = run(replace(masking, selection="oracle"), subject)  # type: ignore[type-var]
    assert [v.name for v in oracle.variants][:2] == ["untouched", "threshold=0"]
    assert {v.kind for v in oracle.variants} == {"candidate"}
    assert done.module is not None
    assert oracle.module is not None
    one, other = done.module.state_dict(), oracle.module.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Deep(nn.Module):
    """Six blocks with a BatchNorm each, in the proportions of a trained network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(12, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
            for _ in range(6)
        )
        self.fc = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for block in self.blocks:
            features = features + block(features)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits


def deep_subject() -> Subject:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Deep()
    examples = drawn(60, 0)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(examples.images), examples.labels).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Subject(
        name="deep", module=module.eval(), num_classes=3, image_shape=(3, SIDE, SIDE),
        examples=examples,
    )  # fmt: skip


def test_masks_leave_a_deep_network_alive_while_they_are_trained() -> None:
    """Under running statistics a little noise in every layer makes it answer by chance for good."""
    subject = deep_subject()
    assert subject.accuracy() > 0.95
    done = run(AdversarialNeuronPruning(rounds=30, images=30), subject)
    assert done.figures["masked_accuracy"] > 0.8
    assert min(entry.accuracy for entry in done.log[10:]) > 0.6


def test_masked_passes_normalise_by_the_batch_and_leave_no_trace() -> None:
    subject = deep_subject()
    network, channels = subject.module, NormChannels.of(subject.module)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    factors = torch.ones(channels.count)
    images = subject.examples.images[:30]
    found = channels.logits(network, images, factors, factors)
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    in_training = deepcopy(network).train()(images)
    assert torch.allclose(found, in_training, atol=1e-5)
    assert not torch.allclose(found, network(images), atol=1e-2)


def test_a_threshold_silences_the_masks_below_it_and_no_others(subject: Subject) -> None:
    mask = torch.tensor([1, 1, 1, 1, 1, 1, 0.3])
    found = {c.threshold: c for c in candidates(subject, mask, subject.examples)}
    assert (found[0.25].channels, found[0.3].channels, found[0.9].channels) == (0, 1, 1)
    assert asr(subject, found[0.25].module) == 1
    assert asr(subject, found[0.35].module) < 0.1
    assert asr(subject, subject.module) == 1


@pytest.mark.parametrize(
    ("mask", "max_drop", "reason"),
    [
        ([1.0] * 7, 0.04, "no mask is at most 0.9; nothing was pruned"),
        (
            [0.7] * 7,
            0.04,
            "every threshold that prunes costs too much accuracy; nothing",
        ),
        ([0.7] * 7, 1.0, ""),
    ],
)
def test_masks_that_prune_nothing_say_so(
    mask: list[float], max_drop: float, reason: str, subject: Subject
) -> None:
    done = pruned_hardening(
        Hardening(
            status=HardeningStatus.HARDENED, module=subject.module,
            log=(LogEntry(phase="masks", round=1, steps=1, loss=1.0, accuracy=1.0),),
        ),
        subject, torch.tensor(mask), subject.examples, max_drop=max_drop, selection="validation",
        images_used=60,
    )  # fmt: skip
    assert done.reason.startswith(reason)
    assert bool(done.reason) == bool(reason)
    assert (done.figures["threshold"], done.figures["pruned_channels"]) == (
        (-1, 0) if reason else (0.9, 7)
    )


def test_the_bound_of_a_channel_is_its_largest_singular_value_times_its_scale() -> None:
    convolution, norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.0]))
        norm.running_var.fill_(4.0)  # type: ignore[union-attr]
    bounds = channel_bounds(convolution, norm)
    first = torch.linalg.matrix_norm(convolution.weight[0].detach().flatten(1).double(), 2)
    assert float(bounds[0]) == pytest.approx(float(first) / (4 + 1e-5) ** 0.5, rel=1e-5)
    assert float(bounds[2]) == 0


def test_channels_that_can_change_most_go_without_any_image(subject: Subject) -> None:
    done = run(ChannelLipschitzPruning(u=2.0), subject)
    assert done.figures == {"layers": 1, "channels": 7, "pruned_channels": 1}
    assert asr(subject, done.module) < 0.1
    assert accuracy(subject, done.module) == 1


class PreActivation(nn.Module):
    """BatchNorm comes before its convolution, as in pre-activation networks."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(torch.relu(self.bn(images))).mean((2, 3)))
        return logits


def test_a_norm_that_no_convolution_feeds_is_not_paired_with_one(subject: Subject) -> None:
    """Public code pairs by the order of modules, which is wrong for pre-activation networks."""
    other = replace(subject, module=PreActivation().eval())
    done = run(ChannelLipschitzPruning(), other)
    assert done.status is HardeningStatus.INAPPLICABLE
    assert "no convolution feeds a BatchNorm" in done.reason
    assert [layer.name for layer in flow_of(other).layers] == ["bn", "conv", "fc"]


@pytest.mark.parametrize("method", [AdversarialNeuronPruning(), ReconstructiveNeuronPruning()])
def test_masks_need_a_batch_norm(method: Hardener, subject: Subject) -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3)).eval()
    done = run(method, replace(subject, module=plain))
    assert done.status is HardeningStatus.INAPPLICABLE
    assert "the network has no BatchNorm" in done.reason


def test_an_oracle_is_refused_where_nobody_knows_the_truth(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").touch()
    (tmp_path / "d.npz").touch()
    for command, model in (("harden", "m.safetensors"), ("hardening", "--models=m.safetensors")):
        given = model if model.startswith("--") else str(tmp_path / model)
        call = [command, given.replace("m.safetensors", str(tmp_path / "m.safetensors"))]
        call = call if command == "hardening" else [command, given]
        result = CliRunner().invoke(
            main,
            [*call, "--data", str(tmp_path / "d.npz"), "--method", "anp:selection=oracle",
             "--out", str(tmp_path / "out")],
        )  # fmt: skip
        assert result.exit_code == 2, result.output
        assert "selection=oracle needs a study that knows the trigger" in result.output
