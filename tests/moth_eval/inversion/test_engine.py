from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import ScanError
from moth_eval.inversion.colour_filter import ColourFilter
from moth_eval.inversion.engine import _result, invert
from moth_eval.inversion.frozen import FrozenNetwork, fold_batch_norm, freeze
from moth_eval.inversion.objective import MaskAndPattern, Objective
from moth_eval.inversion.problems import Problem, pair_problems, universal_problems
from moth_eval.inversion.rows import Rows
from moth_eval.inversion.schedule import Schedule
from moth_eval.inversion.signed_pixels import SignedPixels
from moth_eval.inversion.square_patch import SquarePatch
from moth_eval.inversion.verifier import Verifier
from moth_eval.subject import Subject
from tests.support.subjects import PATCH, prototype_subject

SCHEDULE = Schedule(steps=200, batch_size=16, initial_cost=1e-2, patience=3, up=1.3, check_every=20)


@pytest.fixture
def subject() -> Subject:
    return prototype_subject(target=2)


def problems(subject: Subject) -> list[Problem]:
    return universal_problems(subject.examples.labels, range(5), [10, 11, 12, 13, 14])


def test_the_planted_trigger_is_found_where_it_is_and_is_the_smallest(subject: Subject) -> None:
    found = invert(FrozenNetwork(subject), subject.examples.images, problems(subject), SCHEDULE)
    assert all(result.valid for result in found)
    assert min(found, key=lambda r: r.size).problem.target == 2
    inside = found[2].mask[0, PATCH, PATCH].sum()
    assert inside > 0.8 * found[2].mask.sum()
    assert found[2].size < 0.3 * min(r.size for r in found if r.problem.target != 2)


def test_the_reported_success_rate_is_that_of_the_returned_trigger(subject: Subject) -> None:
    images = subject.examples.images
    for result in invert(FrozenNetwork(subject), images, problems(subject), SCHEDULE):
        stamped = torch.lerp(images[result.problem.images], result.pattern, result.mask)
        hits = subject.logits(stamped).argmax(1) == result.problem.target
        assert result.asr == pytest.approx(hits.float().mean().item(), abs=1e-6)
        assert result.size == pytest.approx(result.mask.sum().item(), rel=1e-5)


def test_a_row_of_a_batch_equals_the_same_problem_alone(subject: Subject) -> None:
    schedule = replace(SCHEDULE, steps=60)
    together = invert(FrozenNetwork(subject), subject.examples.images, problems(subject), schedule)
    for index, problem in enumerate(problems(subject)):
        network = FrozenNetwork(subject)
        [alone] = invert(network, subject.examples.images, [problem], schedule)
        torch.testing.assert_close(alone.mask, together[index].mask, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(alone.pattern, together[index].pattern, atol=1e-4, rtol=1e-3)
        assert (alone.valid, alone.steps) == (together[index].valid, together[index].steps)


def test_rows_that_wait_for_a_place_come_out_as_if_they_had_not(subject: Subject) -> None:
    schedule = replace(SCHEDULE, steps=60)
    images = subject.examples.images
    wide = invert(FrozenNetwork(subject), images, problems(subject), schedule)
    narrow = invert(FrozenNetwork(subject), images, problems(subject), schedule, window=2)
    for one, other in zip(wide, narrow, strict=True):
        assert one.problem.target == other.problem.target
        torch.testing.assert_close(one.mask, other.mask, atol=1e-4, rtol=1e-3)


def test_small_passes_give_the_same_gradient_as_one_large_one(subject: Subject) -> None:
    images, targets = subject.examples.images, subject.examples.labels.flip(0)
    large, hits = FrozenNetwork(subject, images_at_once=64).input_gradient(images, targets)
    small, same = FrozenNetwork(subject, images_at_once=7).input_gradient(images, targets)
    torch.testing.assert_close(large, small)
    assert torch.equal(hits, same)


def test_a_problem_without_a_solution_is_marked_invalid(subject: Subject) -> None:
    class Stubborn(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.nn.functional.pad(images.mean((1, 2, 3))[:, None], (1, 3), value=-9.0)

    stubborn = replace(subject, module=Stubborn().eval())
    [result] = invert(
        FrozenNetwork(stubborn), subject.examples.images, problems(subject)[:1],
        replace(SCHEDULE, steps=40),
    )  # fmt: skip
    assert not result.valid
    assert result.asr == 0


def test_pruned_averages_are_smaller_and_still_work(subject: Subject) -> None:
    images = subject.examples.images
    plain = invert(FrozenNetwork(subject), images, problems(subject), SCHEDULE)
    schedule = replace(SCHEDULE, average=0.9, prune=True)
    pruned = invert(FrozenNetwork(subject), images, problems(subject), schedule)
    assert sum(r.size for r in pruned) < sum(r.size for r in plain)
    for result in pruned:
        stamped = torch.lerp(images[result.problem.images], result.pattern, result.mask)
        hits = subject.logits(stamped).argmax(1) == result.problem.target
        assert result.asr == pytest.approx(hits.float().mean().item(), abs=1e-6)
        assert result.asr >= schedule.success_rate
    assert any((result.mask == 0).any() for result in pruned)


def test_pruning_takes_the_faint_and_leaves_the_rest() -> None:
    objective = MaskAndPattern()
    mask, pattern = torch.tensor([[[[0.01, 0.2, 0.9]]]]), torch.rand(1, 3, 1, 3)
    raw = (objective._unconstrained(mask), objective._unconstrained(pattern))
    pruned, same = objective.render(objective.prune(raw, torch.tensor([0.1])))
    torch.testing.assert_close(pruned, torch.tensor([[[[0.0, 0.2, 0.9]]]]))
    torch.testing.assert_close(same, pattern)


def test_pruning_without_an_average_is_refused() -> None:
    with pytest.raises(ScanError, match="average must be in"):
        replace(SCHEDULE, prune=True)


def test_half_precision_finds_the_planted_trigger_and_counts_in_full(subject: Subject) -> None:
    network = FrozenNetwork(subject, precision="bfloat16")
    images = subject.examples.images
    assert torch.equal(network.logits(images), FrozenNetwork(subject).logits(images))
    found = invert(network, images, problems(subject), SCHEDULE)
    assert all(result.valid for result in found)
    assert min(found, key=lambda r: r.size).problem.target == 2


def test_a_resumed_trigger_works_at_once_and_its_dead_pixels_can_grow_again(
    subject: Subject,
) -> None:
    images = subject.examples.images
    schedule = replace(SCHEDULE, average=0.9, prune=True)
    network = FrozenNetwork(subject)
    [first] = invert(network, images, problems(subject)[:1], schedule)
    start = replace(first.problem, start=(first.mask, first.pattern), initial_cost=first.cost)
    short = replace(schedule, steps=20)
    [resumed] = invert(network, images, [start], short)
    [fresh] = invert(network, images, [first.problem], short)
    assert resumed.valid
    assert resumed.size < 0.5 * (fresh.size if fresh.valid else first.mask.numel())
    empty = (torch.zeros(1, 12, 12), torch.rand(3, 12, 12))
    [grown] = invert(network, images, [replace(start, start=empty, initial_cost=0.0)], schedule)
    assert grown.valid


def test_finished_rows_are_reported_as_they_leave(subject: Subject) -> None:
    seen: dict[int, int] = {}
    found = invert(
        FrozenNetwork(subject), subject.examples.images, problems(subject), SCHEDULE, window=2,
        on_done=lambda place, result: seen.update({place: result.problem.target}),
    )  # fmt: skip
    assert seen == {place: result.problem.target for place, result in enumerate(found)}


def test_rows_stop_when_their_trigger_stops_shrinking(subject: Subject) -> None:
    schedule = replace(SCHEDULE, steps=2000, stop_patience=2, stop_tolerance=0.05)
    found = invert(FrozenNetwork(subject), subject.examples.images, problems(subject), schedule)
    assert all(result.valid and result.steps < 2000 for result in found)
    assert len({result.steps for result in found}) > 1


def test_nothing_of_the_subject_changes(subject: Subject) -> None:
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    images = subject.examples.images.clone()
    state = torch.get_rng_state()
    invert(
        FrozenNetwork(subject), subject.examples.images, problems(subject),
        replace(SCHEDULE, steps=20),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, subject.examples.images)
    assert all(torch.equal(before[k], v) for k, v in subject.module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in subject.module.parameters())


def test_batch_norm_is_folded_exactly_up_to_rounding() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    network(torch.randn(64, 3, 12, 12))
    images = torch.randn(8, 3, 12, 12)
    expected = network.eval()(images)
    folded, count = freeze(network)
    assert count == 2
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(images), expected)
    assert not any(p.requires_grad for p in folded.parameters())


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.bn(self.conv(self.conv(images)))
            return out

    _, count = fold_batch_norm(Twice().eval())
    assert count == 0


def test_a_convolution_whose_weight_is_used_elsewhere_is_not_folded() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.bn(self.conv(images))
            return torch.nn.functional.conv2d(out, self.conv.weight + self.conv.weight)

    _, count = fold_batch_norm(Tied().eval())
    assert count == 0


def test_a_convolution_in_two_places_is_not_folded() -> None:
    conv = nn.Conv2d(3, 3, 1)
    kept = nn.Identity()
    kept.add_module("again", conv)
    _, count = fold_batch_norm(nn.Sequential(conv, nn.BatchNorm2d(3), kept).eval())
    assert count == 0


@pytest.mark.parametrize("name", ["forward", "__call__", "eval", "add_module"])
def test_parts_under_the_names_of_methods_are_run_as_the_network_runs_them(name: str) -> None:
    """Code that `torch.fx` writes of a trace finds the method where the network runs the part."""
    turned = nn.Conv2d(3, 3, 1, bias=False)
    turned.weight.data = -torch.eye(3).reshape(3, 3, 1, 1)
    holder = nn.Identity()
    holder._modules[name] = turned
    network = nn.Sequential(
        holder, turned, nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    ).eval()
    images = torch.rand(4, 3, 6, 6)
    expected = network(images)
    frozen, count = freeze(network)
    assert count == 1
    torch.testing.assert_close(frozen(images), expected)
    assert not torch.allclose(network[2:](images), expected)


def test_a_network_that_answers_otherwise_when_folded_is_used_as_it_is() -> None:
    class TwoFaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.bn.running_mean = torch.ones(3)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.conv(images)
            return self.bn(found) if not isinstance(images, Tensor) else found

    network = TwoFaced().eval()
    images = torch.rand(4, 3, 6, 6)
    frozen, count = freeze(network, images)
    assert count == 0
    torch.testing.assert_close(frozen(images), network(images))
    _, trusting = freeze(network)
    assert trusting == 1


def test_a_frozen_network_is_held_against_its_subject(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 12), nn.BatchNorm2d(5), nn.Flatten())
    network = network.requires_grad_(False).eval()
    changed = replace(subject, module=network)
    assert FrozenNetwork(changed).folded == 1
    wrong = nn.Conv2d(3, 5, 12).requires_grad_(False)
    monkeypatch.setattr("moth_eval.inversion.frozen.fuse_conv_bn_eval", lambda *_: wrong)
    frozen = FrozenNetwork(changed)
    assert frozen.folded == 0
    images = subject.examples.images
    torch.testing.assert_close(frozen.logits(images), network(images))


def test_batch_norm_without_statistics_is_left_in_its_place() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten()
    ).eval()
    network[1].running_mean = network[1].running_var = None
    images = torch.rand(4, 3, 6, 6)
    frozen, count = freeze(network)
    assert count == 1
    torch.testing.assert_close(frozen(images), network(images))


def test_a_network_that_cannot_be_traced_is_used_as_it_is() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    network = Branching()
    assert fold_batch_norm(network) == (network, 0)


def test_folding_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_batch_norm(network)[1] == 1
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["module", "parameter", "buffer"])
def test_names_that_would_be_code_are_not_run(kind: str, tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    name = f'0", open("{flag}", "w")) or getattr(self, "0'.replace(".", "\\x2e")

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._modules["0"] = nn.Flatten()
            if kind == "module":
                self._modules[name] = nn.Linear(12, 3)
            elif kind == "parameter":
                self._parameters[name] = nn.Parameter(torch.ones(12, 3))
            else:
                self._buffers[name] = torch.ones(12, 3)

        def forward(self, images: Tensor) -> Tensor:
            flat = self._modules["0"](images)  # type: ignore[misc]
            found: Tensor = (
                self._modules[name](flat)  # type: ignore[misc]
                if kind == "module"
                else flat @ getattr(self, name)
            )
            return found

    folded, count = freeze(Odd().eval())
    assert count == 0
    assert folded(torch.ones(2, 3, 2, 2)).shape == (2, 3)
    assert not flag.exists()


def test_success_rate_counts_every_image_once(subject: Subject) -> None:
    problem = problems(subject)[0]
    objective = MaskAndPattern()
    nothing = (torch.full((1, 1, 12, 12), -20.0), torch.zeros((1, 3, 12, 12)))
    network = FrozenNetwork(subject, images_at_once=7)
    assert Verifier(network, subject.examples.images, objective).rate(problem, nothing) == 0
    assert network.forward_passes == len(problem.images)


def test_pair_problems_use_the_source_class_only(subject: Subject) -> None:
    labels = subject.examples.labels
    [problem] = pair_problems(labels, [(3, 1)], [0])
    assert set(labels[problem.images].tolist()) == {3}
    assert (problem.source, problem.target) == (3, 1)


def test_a_problem_without_images_is_refused() -> None:
    with pytest.raises(ScanError, match="target 1: expected at least one image"):
        Problem(target=1, images=torch.zeros(0, dtype=torch.int64), seed=0)


@pytest.mark.parametrize("field", ["steps", "batch_size", "check_every", "steps_per_move"])
def test_a_schedule_without_steps_is_refused(field: str) -> None:
    with pytest.raises(ScanError, match="must be at least 1"):
        replace(SCHEDULE, **{field: 0})


def test_a_hopeless_measurement_ends_early_and_stays_below_what_was_asked(subject: Subject) -> None:
    problem = problems(subject)[0]
    many = replace(problem, images=problem.images.repeat(20))
    nothing = (torch.full((1, 1, 12, 12), -20.0), torch.zeros((1, 3, 12, 12)))
    network = FrozenNetwork(subject, images_at_once=64)
    verifier = Verifier(network, subject.examples.images, MaskAndPattern())
    assert verifier.rate(many, nothing, at_least=0.99) < 0.99
    assert network.forward_passes < len(many.images)


def test_images_that_withstood_are_asked_first_and_rates_stay_what_they_are(
    subject: Subject,
) -> None:
    """A trigger that flips all images but the last two of a problem, once hidden behind 200."""
    target = 1
    network = FrozenNetwork(subject, images_at_once=1000)
    found = network.logits(subject.examples.images).argmax(1)
    already, others = (found == target).nonzero().flatten(), (found != target).nonzero().flatten()
    images = torch.cat([already.repeat(200 // len(already) + 1)[:198], others[:2]])
    problem = Problem(target=target, images=images, seed=0)
    nothing = (torch.full((1, 1, 12, 12), -20.0), torch.zeros((1, 3, 12, 12)))
    verifier = Verifier(network, subject.examples.images, MaskAndPattern())
    costs = []
    for _ in range(2):
        before = network.forward_passes
        assert verifier.rate(problem, nothing, at_least=0.995) < 0.995
        costs.append(network.forward_passes - before)
    assert costs == [200, 16]
    assert verifier.rate(problem, nothing) == pytest.approx(0.99)
    assert verifier.rate(problem, nothing, at_least=0.99) == pytest.approx(0.99)


def test_a_last_batch_completes_a_pass_over_all_images(subject: Subject) -> None:
    schedule = replace(SCHEDULE, batch_size=3, last_batch=2, steps_per_move=3, check_every=6)
    assert schedule.batches == [3, 3, 2, 3, 3, 2]
    problem = Problem(target=2, images=torch.arange(8), seed=0)
    network = FrozenNetwork(subject)
    invert(network, subject.examples.images, [problem], replace(schedule, steps=6))
    assert network.backward_passes == 16
    rows = Rows([problem], MaskAndPattern(), schedule, (3, 12, 12), torch.device("cpu"))
    for _ in range(3):
        assert sorted(rows.draw(8)[0].tolist()) == list(range(8))


PUBLISHED = replace(
    SCHEDULE, acceptance="moving", smoothing=0.0, steps_per_move=4, check_every=4, disturbance=0.01
)


@pytest.mark.parametrize(("acceptance", "accepted"), [("moving", True), ("measured", False)])
def test_what_counts_as_valid_is_the_schedules_to_say(acceptance: str, *, accepted: bool) -> None:
    schedule = replace(PUBLISHED, acceptance=acceptance, success_rate=0.9)
    problem = Problem(target=2, images=torch.arange(8), seed=0)
    rows = Rows([problem], MaskAndPattern(), schedule, (3, 12, 12), torch.device("cpu"))
    rows.controller.rate[:] = 0.95
    rows.settle(schedule, MaskAndPattern(), lambda problem, trigger, enough: 0.5)
    assert bool(torch.isfinite(rows.best_size[0])) is accepted
    assert rows.best_rates == [0.5 if accepted else 0.0]
    rows.controller.rate[:] = 0.85
    rows.best_size[:] = torch.inf
    rows.settle(schedule, MaskAndPattern(), lambda problem, trigger, enough: 0.85)
    assert not torch.isfinite(rows.best_size[0])


def test_a_published_record_comes_with_its_measured_success_rate(subject: Subject) -> None:
    images = subject.examples.images
    for result in invert(FrozenNetwork(subject), images, problems(subject), PUBLISHED):
        assert result.valid
        stamped = torch.lerp(images[result.problem.images], result.pattern, result.mask)
        hits = subject.logits(stamped).argmax(1) == result.problem.target
        assert result.asr == pytest.approx(hits.float().mean().item(), abs=1e-6)


def test_a_disturbance_moves_the_best_trigger_on_and_leaves_its_record() -> None:
    how = MaskAndPattern(reach=9.0)
    problem = Problem(target=2, images=torch.arange(8), seed=0)
    rows = Rows([problem] * 2, how, PUBLISHED, (3, 12, 12), torch.device("cpu"))
    rows.controller.rate[:] = torch.tensor([1.0, 0.5])
    before = [part.clone() for part in how.render(rows.parameters)]
    rows.settle(PUBLISHED, how, lambda problem, trigger, enough: 0.5)
    for old, new, best in zip(
        before, how.render(rows.parameters), how.render(rows.best), strict=True
    ):
        change = (new - old).abs().flatten(1).amax(1)
        assert 0.005 < float(change[0]) <= 0.01 + 1e-6
        assert float(change[1]) == 0.0
        torch.testing.assert_close(best[0], old[0])


def test_a_schedule_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ScanError, match="goes by the moves of the cost"):
        replace(PUBLISHED, check_every=8)
    with pytest.raises(ScanError, match="acceptance must be measured or moving"):
        replace(PUBLISHED, acceptance="best")
    with pytest.raises(ScanError, match="expected last_batch between 1 and batch_size"):
        replace(PUBLISHED, last_batch=17)
    with pytest.raises(ScanError, match="soft_share must be in"):
        replace(PUBLISHED, soft_share=1.0)
    with pytest.raises(ScanError, match="disturbance must be in"):
        replace(PUBLISHED, disturbance=1.0)


def test_the_loss_is_cross_entropy_and_a_soft_count_of_images_that_are_not_flipped(
    subject: Subject,
) -> None:
    images = subject.examples.images[:6]
    targets = torch.tensor([0, 1, 2, 3, 4, 2])
    for share in (0.0, 0.9):
        leaf = images.clone().requires_grad_()
        logits = subject.module(subject.preprocessing(leaf))
        log_p = logits.log_softmax(1).gather(1, targets[:, None])
        torch.autograd.backward(((share - 1) * log_p + share * (1 - log_p.exp())).sum())
        found, _ = FrozenNetwork(subject).input_gradient(images, targets, soft_share=share)
        assert leaf.grad is not None
        torch.testing.assert_close(found, leaf.grad, atol=1e-5, rtol=1e-3)


def test_the_schedule_says_what_the_loss_is(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, shares = FrozenNetwork(subject), set()
    gradient = network.input_gradient

    def noted(images: Tensor, targets: Tensor, *, soft_share: float) -> tuple[Tensor, Tensor]:
        shares.add(soft_share)
        return gradient(images, targets, soft_share=soft_share)

    monkeypatch.setattr(network, "input_gradient", noted)
    how = replace(SCHEDULE, steps=20, soft_share=0.8)
    soft = invert(network, subject.examples.images, problems(subject), how)
    assert shares == {0.8}
    plain = invert(
        FrozenNetwork(subject),
        subject.examples.images,
        problems(subject),
        replace(how, soft_share=0),
    )
    assert not torch.equal(soft[0].mask, plain[0].mask)


def test_a_trimmed_trigger_is_weaker_and_still_holds(subject: Subject) -> None:
    images, how = subject.examples.images, replace(SCHEDULE, steps=60, success_rate=0.9)
    plain = invert(FrozenNetwork(subject), images, problems(subject), how)
    trimmed = invert(FrozenNetwork(subject), images, problems(subject), replace(how, trim=True))
    for one, other in zip(plain, trimmed, strict=True):
        assert one.valid
        assert other.valid
        assert 0.69 * one.size < other.size <= one.size
        stamped = torch.lerp(images[other.problem.images], other.pattern, other.mask)
        hits = subject.logits(stamped).argmax(1) == other.problem.target
        assert other.asr == pytest.approx(hits.float().mean().item(), abs=1e-6)
        assert other.asr >= 0.9
        torch.testing.assert_close(one.pattern, other.pattern)
    assert sum(r.size for r in trimmed) < sum(r.size for r in plain)


def test_a_trigger_whose_rate_is_just_as_wanted_is_trimmed_too(
    monkeypatch: pytest.MonkeyPatch, subject: Subject
) -> None:
    """0.9 in float32 is below 0.9, and 90 of 100 images is what inversion ends at."""
    how = MaskAndPattern()
    schedule = replace(SCHEDULE, success_rate=0.9, trim=True)
    verifier = Verifier(FrozenNetwork(subject), subject.examples.images, how)
    monkeypatch.setattr(verifier, "rate", lambda problem, trigger, at_least=0.0: 0.9)
    problem = Problem(target=2, images=torch.arange(10), seed=0)
    rows = Rows([problem], how, schedule, (3, 12, 12), torch.device("cpu"))
    rows.controller.rate[:] = 1.0
    rows.settle(schedule, how, lambda problem, trigger, enough: 0.9)
    found = _result(rows, 0, verifier, how, schedule)
    assert found.asr == 0.9
    assert found.size < 0.75 * float(rows.best_size[0])


def test_a_filter_that_only_the_last_measurement_finds_to_work_has_its_own_size(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parameters are no mask whose sum would mean anything."""
    monkeypatch.setattr(Rows, "settle", lambda self, how, *_: (self.steps >= how.steps).cpu())
    rows = (subject.examples.labels == 2).nonzero().flatten()
    problem = Problem(target=2, images=rows, seed=0)  # its own class: anything works
    palette = subject.examples.images[:4].permute(0, 2, 3, 1).reshape(-1, 3)
    for objective in (ColourFilter(palette=palette), MaskAndPattern()):
        [found] = invert(
            FrozenNetwork(subject), subject.examples.images, [problem],
            replace(SCHEDULE, steps=20), objective=objective,
        )  # fmt: skip
        assert found.valid
        if isinstance(objective, ColourFilter):
            assert found.size == pytest.approx(float(objective.size((found.mask,))[0]), rel=1e-4)
            assert found.size != pytest.approx(float(found.mask.sum()), rel=0.1)
        else:
            assert found.size == pytest.approx(float(found.mask.sum()), rel=1e-4)


def test_masks_and_patterns_start_uniform() -> None:
    """Not at a logit's 0 to 1, nor at ones, as public code has it."""
    how = MaskAndPattern()
    start = how.initial((3, 40, 40), torch.Generator().manual_seed(0))
    for part in how.render(tuple(one[None] for one in start)):
        assert float(part.mean()) == pytest.approx(0.5, abs=0.05)
        assert float(part.std()) == pytest.approx(12**-0.5, abs=0.02)
        assert (float(part.min()), float(part.max())) == pytest.approx((0, 1), abs=0.01)


@pytest.mark.parametrize("how", [MaskAndPattern(), SignedPixels(), SquarePatch(side=3)])
def test_a_scaled_trigger_is_no_larger_and_at_full_strength_the_same(how: Objective) -> None:
    start = how.initial((3, 12, 12), torch.Generator().manual_seed(0))
    parameters = tuple(part[None] for part in start)
    same, half = how.scaled(parameters, 1.0), how.scaled(parameters, 0.5)
    for one, other in zip(how.render(parameters), how.render(same), strict=True):
        torch.testing.assert_close(one, other)
    assert float(how.size(half)[0]) <= float(how.size(parameters)[0])
    if isinstance(how, MaskAndPattern):
        torch.testing.assert_close(how.size(half), how.size(parameters) / 2)
