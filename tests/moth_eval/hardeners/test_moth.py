from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from moth_eval.distance import DistanceProtocol, class_distances
from moth_eval.errors import HardeningError, InputError
from moth_eval.hardeners import ENTRY_POINTS, HARDENERS
from moth_eval.hardeners.adversarial_training import AdversarialTraining
from moth_eval.hardeners.batches import Batches, augmented
from moth_eval.hardeners.held_triggers import Held, HeldTriggers
from moth_eval.hardeners.moth import Moth, moth_paper, moth_removal
from moth_eval.hardeners.pairwise import Pairwise
from moth_eval.hardeners.scheduling import PairScores
from moth_eval.hardeners.stamping import Stamp, Tally, stamped_step
from moth_eval.hardeners.trainer import Recipe, Trainer
from moth_eval.hardeners.universal import Universal
from moth_eval.hardening import Hardener, Hardening, HardeningStatus
from moth_eval.inversion.engine import invert
from moth_eval.inversion.problems import Inversion, Problem
from moth_eval.inversion.schedule import Schedule
from moth_eval.plugins import build, parse_spec
from moth_eval.robustness import PGD
from moth_eval.subject import Examples, Subject
from tests.support.subjects import prototype_subject

SMALL = Moth(
    rounds=12, pairs_per_round=3, first_steps=10, next_steps=5, fresh_steps=30,
    inversion_images=12, inversion_batch=6, stamped=4, clean=12, warm_up_rounds=2,
    warm_up_steps=30, recipe=Recipe(learning_rate=5e-2, final_share=0.0, batch_norm="eval"),
)  # fmt: skip


@pytest.fixture
def subject() -> Subject:
    return prototype_subject(classes=4, target=1, per_class=12)


@pytest.fixture(scope="module")
def data() -> Examples:
    return prototype_subject(classes=4, target=1, per_class=30).examples


def harden(moth: Moth, subject: Subject, data: Examples) -> Hardening:
    return moth.harden(subject, data, generator=torch.Generator().manual_seed(0))


def test_classes_lie_further_apart_afterwards_and_accuracy_stays(
    subject: Subject, data: Examples
) -> None:
    result = harden(SMALL, subject, data)
    assert result.module is not None
    protocol = DistanceProtocol(samples=12, seeds=(1, 2))
    pairs = [(0, 1), (2, 1), (3, 1)]  # towards the planted target: nearest by construction
    before = class_distances(subject, protocol, pairs=pairs)
    after = class_distances(replace(subject, module=result.module), protocol, pairs=pairs)
    assert min(after.distance(*pair) / before.distance(*pair) for pair in pairs) > 2
    assert replace(subject, module=result.module).accuracy() >= subject.accuracy() - 0.05


def test_both_directions_of_a_pair_are_trained_on_equally_often(
    subject: Subject, data: Examples
) -> None:
    counts = harden(SMALL, subject, data).pair_counts
    assert counts is not None
    assert torch.equal(counts, counts.T)
    assert int(counts.sum()) == 2 * SMALL.rounds * SMALL.pairs_per_round
    assert int(counts.diagonal().sum()) == 0


def test_without_symmetry_one_direction_is_trained_on(subject: Subject, data: Examples) -> None:
    counts = harden(replace(SMALL, symmetric=False), subject, data).pair_counts
    assert counts is not None
    assert int(counts.sum()) == SMALL.rounds * SMALL.pairs_per_round


def test_with_many_classes_every_step_still_stamps(data: Examples) -> None:
    many = prototype_subject(classes=43, per_class=2)
    moth = replace(SMALL, rounds=2, warm_up_rounds=0, largest_share=1.0, least_asr=0.0)
    result = harden(moth, many, many.examples)
    assert all(entry.stamped_accuracy is not None for entry in result.log)


@pytest.mark.parametrize(
    ("rate", "trained_on", "measured"), [(0.2, 0, 0), (0.6, 1, 0), (1.0, 1, 1)]
)
def test_a_trigger_that_does_not_work_is_neither_trained_on_nor_measured(
    subject: Subject,
    data: Examples,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
    trained_on: int,
    measured: int,
) -> None:
    def found(network: object, images: object, problems: list[Problem], schedule: object) -> object:
        mask = torch.zeros(1, 12, 12)
        mask[0, 0, 0] = 1
        return [
            Inversion(
                problem=problem, mask=mask, pattern=torch.zeros(3, 12, 12), size=1.0, asr=rate,
                valid=rate >= 0.9, steps=1,
            )
            for problem in problems
        ]  # fmt: skip

    monkeypatch.setattr("moth_eval.hardeners.sitting.invert", found)
    for entry in harden(replace(SMALL, rounds=2), subject, data).log:
        assert (entry.stamped_accuracy is not None) is bool(trained_on)
        assert (entry.distance is not None) is bool(measured)


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (replace(SMALL, rounds=6), True),
        (replace(SMALL, rounds=6, reuse=False), False),
        (replace(SMALL, rounds=6, reuse=False, warm_up_rounds=0), False),
        (Pairwise(rounds=6, pairs_per_round=2, steps=6, clean=8), False),
    ],
)
def test_a_pair_goes_on_from_its_kept_trigger_only_where_triggers_are_reused(
    subject: Subject,
    data: Examples,
    monkeypatch: pytest.MonkeyPatch,
    method: Moth | Pairwise,
    kept: bool,
) -> None:
    starts: list[list[bool]] = []

    def recorded(network: Any, images: Any, problems: list[Problem], schedule: Any) -> Any:
        if all(problem.source is not None for problem in problems):
            starts.append([problem.start is not None for problem in problems])
        return invert(network, images, problems, schedule)

    monkeypatch.setattr("moth_eval.hardeners.sitting.invert", recorded)
    method.harden(subject, data, generator=torch.Generator().manual_seed(0))
    first_of_visits, repeats = starts[::2], starts[1::2]
    assert all(started is kept for visit in first_of_visits for started in visit)
    assert all(started for visit in repeats for started in visit)


def test_directions_beyond_the_bound_are_left_in_peace(subject: Subject, data: Examples) -> None:
    log = harden(replace(SMALL, largest_share=1e-6), subject, data).log
    assert all(entry.stamped_accuracy is None for entry in log)


def test_the_adversarial_variant_attacks_the_clean_images(subject: Subject, data: Examples) -> None:
    plain = harden(replace(SMALL, rounds=2), subject, data)
    strong = PGD(epsilon=0.5, step_size=0.2, steps=4)
    attacked = harden(replace(SMALL, rounds=2, adversarial=True, attack=strong), subject, data)
    assert attacked.cost.backward_passes > plain.cost.backward_passes
    assert attacked.log[0].loss > plain.log[0].loss


def test_settings_are_spelled_out_on_the_command_line_inner_ones_with_a_dot() -> None:
    spec = "moth:rounds=3,seconds=1.5,symmetric=false,recipe.learning_rate=0.5,attack.steps=2"
    method, parameters = parse_spec(spec, HARDENERS, ENTRY_POINTS, kind="method", contract=Hardener)
    moth = build(Moth, parameters)
    assert method == "moth"
    assert (moth.rounds, moth.seconds, moth.symmetric) == (3, 1.5, False)
    assert (moth.recipe.learning_rate, moth.attack.steps) == (0.5, 2)
    assert moth.recipe.shift == Moth().recipe.shift


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stamped": 0}, "expected at least 1, got stamped=0"),
        ({"rounds": 0, "warm_up_rounds": 0}, "at least one round"),
        ({"scheduling": "best"}, "scheduling must be one of gain"),
        ({"precision": "int8"}, "precision must be one of float32"),
        ({"seconds": 0.0}, r"seconds must be in \(0, inf\), got 0.0"),
        ({"patience": 0}, "expected at least 1, got patience=0"),
        ({"ageing_rounds": 0}, "expected at least 1, got ageing_rounds=0"),
        ({"up": 1.0}, r"up must be in \(1, inf\), got 1.0"),
        ({"next_cost": 0.0}, r"next_cost must be in \(0, inf\), got 0.0"),
        ({"success_rate": 0.0}, r"success_rate must be in \(0, 1\], got 0.0"),
        ({"warm_up_success_rate": 1.5}, r"warm_up_success_rate must be in \(0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(HardeningError, match=message):
        Moth(**changes)  # type: ignore[arg-type]


def test_the_published_figures_are_a_preset_that_can_be_changed() -> None:
    paper = moth_paper(rounds=10)
    assert (paper.rounds, paper.pairs_per_round, paper.scheduling) == (10, 1, "paper")
    assert (paper.recipe.optimiser, paper.recipe.learning_rate) == ("sgd", 1e-3)
    assert (paper.recipe.batch_norm, paper.recipe.distillation) == ("train", 0.0)
    assert (paper.patience, paper.up, paper.next_cost) == (10, 1.5, 0.2)
    assert (paper.warm_up_success_rate, paper.warm_up_apart) == (0.99, True)


def test_the_preset_for_removal_keeps_all_of_what_was_trained_and_can_be_changed() -> None:
    moth = moth_removal(rounds=3)
    assert (moth.rounds, moth.warm_up_rounds, moth.recipe.interpolation) == (3, 16, 1.0)
    assert moth.recipe.learning_rate == Moth().recipe.learning_rate


def test_a_warm_up_class_by_class_takes_a_step_for_each_on_the_trigger_of_the_first(
    subject: Subject, data: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool, float]] = []

    def recorded(network: Any, images: Any, problems: list[Problem], schedule: Schedule) -> Any:
        [problem] = problems
        seen.append((problem.target, problem.start is not None, schedule.success_rate))
        return invert(network, images, problems, schedule)

    monkeypatch.setattr("moth_eval.hardeners.sitting.invert", recorded)
    moth = replace(SMALL, rounds=0, warm_up_rounds=1, warm_up_apart=True, warm_up_success_rate=0.8)
    [entry] = harden(moth, subject, data).log
    assert seen == [(0, False, 0.8), (1, True, 0.8), (2, True, 0.8), (3, True, 0.8)]
    assert entry.steps == 4


def test_universal_triggers_are_squeezed_as_far_as_the_success_rate_that_was_asked_for(
    subject: Subject, data: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[float] = set()

    def recorded(network: Any, images: Any, problems: list[Problem], schedule: Schedule) -> Any:
        seen.add(schedule.success_rate)
        return invert(network, images, problems, schedule)

    monkeypatch.setattr("moth_eval.hardeners.sitting.invert", recorded)
    method = Universal(rounds=2, clean=8, first_steps=2, next_steps=2, success_rate=0.6)
    method.harden(subject, data, generator=torch.Generator().manual_seed(0))
    assert seen == {0.6}


def test_the_published_costs_start_low_go_on_high_and_start_again_after_a_failure(
    subject: Subject, data: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float | None, int]] = []

    def recorded(network: Any, images: Any, problems: list[Problem], schedule: Schedule) -> Any:
        seen.extend((problem.initial_cost, schedule.steps) for problem in problems)
        found = invert(network, images, problems, schedule)
        return [replace(one, valid=one.problem.seed % 2 == 0) for one in found]

    monkeypatch.setattr("moth_eval.hardeners.sitting.invert", recorded)
    moth = replace(SMALL, rounds=8, warm_up_rounds=0, next_cost=0.5, initial_cost=0.02)
    harden(moth, subject, data)
    assert set(seen) == {(None, 30), (0.02, 10), (0.5, 5)}
    seen.clear()
    harden(replace(moth, next_cost=1e-4), subject, data)
    assert set(seen) == {(None, 30), (0.02, 10), (1e-4, 5)}
    kept = replace(moth, next_cost=None)
    seen.clear()
    harden(kept, subject, data)
    assert {steps for _, steps in seen} == {30, 10, 5}
    assert 0.5 not in {cost for cost, _ in seen}


@pytest.mark.parametrize("kind", [Pairwise, Universal])
def test_comparisons_for_adversarially_trained_networks_attack_the_clean_images_too(
    subject: Subject, data: Examples, kind: type[Pairwise] | type[Universal]
) -> None:
    strong = PGD(epsilon=0.5, step_size=0.2, steps=4)
    generator = torch.Generator().manual_seed(0)
    plain = kind(rounds=1, clean=8).harden(subject, data, generator=generator)
    method = kind(rounds=1, clean=8, adversarial=True, attack=strong)
    attacked = method.harden(subject, data, generator=generator.manual_seed(0))
    assert attacked.log[0].loss > plain.log[0].loss


def test_a_budget_of_seconds_ends_the_rounds(subject: Subject, data: Examples) -> None:
    result = harden(replace(SMALL, rounds=10_000, seconds=0.5), subject, data)
    assert result.status is HardeningStatus.HARDENED
    assert 0 < len(result.log) < 1000
    assert result.reason == ""
    early = harden(replace(SMALL, seconds=1e-9), subject, data)
    assert (early.log, early.reason) == ((), "no round began within 1e-09 s")


class TestScheduling:
    def scores(self, *, symmetric: bool = True) -> PairScores:
        return PairScores(4, [0, 1, 2, 3], symmetric=symmetric)

    def choose(
        self, scores: PairScores, how: str, count: int, **options: float
    ) -> list[tuple[int, int]]:
        settings = {"random_share": 0.0, "age": 1.0, **options}
        return scores.choose(
            how,
            count,
            generator=torch.Generator().manual_seed(0),
            **settings,  # type: ignore[arg-type]
        )

    def test_a_pair_never_seen_is_tried_where_it_may_grow_faster_than_the_best(self) -> None:
        scores = self.scores()
        growths = {(0, 1): 2.0, (0, 2): 3.0, (0, 3): 3.0, (1, 2): 3.0, (1, 3): 3.0}
        for (a, b), growth in growths.items():
            for direction in ((a, b), (b, a)):
                scores.note(*direction, 10.0)
                scores.note(*direction, 10.0 * growth)
        assert self.choose(scores, "gain", 1) == [(2, 3)]

    def test_before_anything_is_measured_the_warm_up_says_which_classes_are_close(self) -> None:
        scores = self.scores()
        scores.universal[3, 1] = 0.9
        scores.universal[0, 2] = 0.5
        assert self.choose(scores, "gain", 2) == [(1, 3), (0, 2)]

    def test_a_pair_measured_once_is_measured_again_first(self) -> None:
        scores = self.scores()
        scores.universal[3, 1] = 0.9
        scores.note(0, 2, 10.0)
        scores.note(2, 0, 10.0)
        assert self.choose(scores, "gain", 1) == [(0, 2)]

    def test_a_pair_that_failed_at_first_tells_nothing_of_others_and_comes_after_them(self) -> None:
        scores = self.scores()
        for direction, growth in (((0, 1), 2.0), ((1, 0), 2.0), ((1, 2), 1.5), ((2, 1), 1.5)):
            scores.note(*direction, 10.0)
            scores.note(*direction, 10.0 * growth)
        before = self.choose(scores, "gain", 6)
        assert before.index((0, 3)) < before.index((2, 3))
        scores.note(0, 3, None)
        scores.note(3, 0, None)
        assert self.choose(scores, "gain", 6) == [p for p in before if p != (0, 3)] + [(0, 3)]
        fresh, failed = self.scores(), self.scores()
        failed.note(0, 1, None)
        for one in (fresh, failed):
            one.universal[2, 3] = 0.9
        assert self.choose(failed, "gain", 1) == self.choose(fresh, "gain", 1) == [(2, 3)]

    def test_with_many_classes_what_was_measured_decides_long_before_all_pairs_are(self) -> None:
        scores = PairScores(43, range(43), symmetric=True)
        for partner in range(4):
            for direction in ((partner, 42), (42, partner), (partner, 20), (20, partner)):
                scores.note(*direction, 10.0)
                scores.note(*direction, 14.0 + partner if 42 in direction else 10.0)
        chosen = self.choose(scores, "gain", 10)
        assert all(42 in pair for pair in chosen)
        assert any(min(pair) > 3 for pair in chosen)

    def test_the_pair_that_grew_fastest_comes_first(self) -> None:
        scores = self.scores()
        for a in range(4):
            for b in range(4):
                if a != b:
                    scores.note(a, b, 10.0)
                    scores.note(a, b, 30.0 if {a, b} == {1, 3} else 11.0)
        assert self.choose(scores, "gain", 1) == [(1, 3)]
        assert self.choose(scores, "paper", 1) == [(1, 3)]

    def test_a_failed_trigger_never_scores_best_and_changes_no_size(self) -> None:
        scores = self.scores()
        for a in range(4):
            for b in range(4):
                if a != b:
                    scores.note(a, b, 10.0)
                    scores.note(a, b, 12.0)
        scores.note(0, 1, None)
        scores.note(1, 0, None)
        assert float(scores.size[0, 1]) == 12.0
        assert (0, 1) not in self.choose(scores, "gain", 5)
        assert math.isfinite(float(scores.difference.abs().max()))

    def test_sizes_and_scores_share_no_memory(self) -> None:
        scores = self.scores()
        scores.note(0, 1, 40.0)
        assert float(scores.difference[0, 1]) == 0.0
        kept = scores.tensors()
        scores.note(0, 1, 80.0)
        assert float(kept["size"][0, 1]) == 40.0

    def test_all_pairs_come_once_before_any_comes_again(self) -> None:
        scores = self.scores(symmetric=False)
        seen = [pair for _ in range(4) for pair in self.choose(scores, "all", 3)]
        assert len(set(seen)) == len(seen) == 12

    def test_random_choice_follows_the_generator_and_repeats_nothing(self) -> None:
        pairs = self.choose(self.scores(), "random", 6)
        assert len(set(pairs)) == 6
        assert pairs == self.choose(self.scores(), "random", 6)

    def test_the_warm_up_score_counts_for_young_trainings_only(self) -> None:
        scores = self.scores()
        scores.universal[2, 0] = 1.0
        scores.difference[1, 3] = 1.0
        assert self.choose(scores, "paper", 1, age=0.0) == [(0, 2)]
        assert self.choose(scores, "paper", 1, age=1.0) == [(1, 3)]


class TestBatches:
    def test_every_image_of_a_class_comes_once_before_any_again(self, data: Examples) -> None:
        batches = Batches(data, torch.Generator().manual_seed(0))
        drawn = torch.cat([batches.of_class(2, 7) for _ in range(30)])
        counts = torch.bincount(drawn, minlength=len(data))[data.labels == 2]
        assert set(data.labels[drawn].tolist()) == {2}
        assert int(counts.max() - counts.min()) <= 1

    def test_mixed_batches_hold_every_class_alike(self, data: Examples) -> None:
        batches = Batches(data, torch.Generator().manual_seed(0))
        counts = torch.bincount(data.labels[batches.balanced(10)], minlength=4)
        assert sorted(counts.tolist()) == [2, 2, 3, 3]
        others = torch.bincount(data.labels[batches.except_class(1, 9)], minlength=4)
        assert others.tolist() == [3, 0, 3, 3]

    def test_moved_images_keep_their_content_and_the_originals(self) -> None:
        images = torch.rand(6, 3, 8, 8)
        given = images.clone()
        moved = augmented(images, torch.Generator().manual_seed(1), shift=2, flip=False)
        assert torch.equal(images, given)
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate")
        windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)
        for number in range(6):
            places = windows[number].permute(1, 2, 0, 3, 4).flatten(0, 1)
            assert any(torch.equal(moved[number], place) for place in places)
        assert not torch.equal(moved, images)


def test_stamped_images_carry_their_own_trigger_and_true_label(
    subject: Subject, data: Examples
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watching(Trainer):
        def step(self, images: torch.Tensor, labels: torch.Tensor, **how: Any):  # type: ignore[no-untyped-def]
            seen.append((images.clone(), labels.clone()))
            return super().step(images, labels, **how)

    recipe = Recipe(learning_rate=1e-3)
    shape = (3, 12, 12)
    stamps = [
        Stamp(source=0, target=2, mask=torch.ones(1, 12, 12), pattern=torch.full(shape, 0.2)),
        Stamp(source=2, target=0, mask=torch.ones(1, 12, 12), pattern=torch.full(shape, 0.7)),
        Stamp(source=None, target=1, mask=torch.ones(1, 12, 12), pattern=torch.full(shape, 0.9)),
    ]
    stamped_step(
        Watching(subject, recipe, torch.Generator().manual_seed(0)),
        Batches(data, torch.Generator().manual_seed(0)), stamps, Tally(),
        stamped=[3, 1, 2], clean=8, done=0.0, recipe=recipe,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    [(images, labels)] = seen
    assert images.shape[0] == 8 + 3 + 1 + 2
    assert labels[8:12].tolist() == [0, 0, 0, 2]
    assert 1 not in labels[12:].tolist()
    for part, value in ((slice(8, 11), 0.2), (slice(11, 12), 0.7), (slice(12, 14), 0.9)):
        assert torch.all(images[part] == value)
    assert not torch.any(images[:8] == 0.2)


def test_distillation_holds_on_to_the_answers_of_the_network_as_it_came(
    subject: Subject, data: Examples
) -> None:
    wrong = (data.labels + 1) % 4
    drift = []
    for share in (0.0, 1.0):
        recipe = Recipe(learning_rate=1e-2, distillation=share, batch_norm="eval")
        trainer = Trainer(subject, recipe, torch.Generator().manual_seed(0))
        for _ in range(20):
            answers = trainer.original_answers(data.images)
            trainer.step(data.images, wrong, done=0.0, answers=answers)
        after = replace(subject, module=trainer.network).logits(data.images)
        drift.append(float((after - subject.logits(data.images)).abs().mean()))
    assert drift[1] < 0.1 * drift[0]


def test_the_weights_that_come_out_are_the_mean_over_the_last_steps(
    subject: Subject, data: Examples
) -> None:
    recipe = Recipe(learning_rate=1e-2, average_over=0.5)
    trainer = Trainer(subject, recipe, torch.Generator().manual_seed(0))
    weight = trainer.network.get_parameter("fc.weight")
    after = []
    for done in (0.0, 0.25, 0.5, 0.75):
        trainer.step(data.images, (data.labels + 1) % 4, done=done)
        after.append(weight.detach().clone())
    assert not torch.equal(after[2], after[3])
    torch.testing.assert_close(
        trainer.finished().get_parameter("fc.weight"), (after[2] + after[3]) / 2
    )
    with pytest.raises(HardeningError, match="average_over must be in"):
        Recipe(learning_rate=1e-2, average_over=1.0)


def test_interpolated_weights_lie_on_the_way_from_the_original_to_the_trained_ones(
    subject: Subject, data: Examples
) -> None:
    ends = []
    for share in (1.0, 0.25):
        recipe = Recipe(learning_rate=1e-2, interpolation=share, batch_norm="train")
        trainer = Trainer(subject, recipe, torch.Generator().manual_seed(0))
        trainer.step(data.images, (data.labels + 1) % 4, done=0.0)
        ends.append({k: v.clone() for k, v in trainer.finished().state_dict().items()})
    for name, original in subject.module.state_dict().items():
        trained, between = ends[0][name], ends[1][name]
        if original.is_floating_point():
            torch.testing.assert_close(between, 0.75 * original + 0.25 * trained)
        else:
            assert torch.equal(between, trained)
    with pytest.raises(HardeningError, match="interpolation must be in"):
        Recipe(learning_rate=1e-2, interpolation=0.0)


def test_averaged_weights_go_on_where_an_earlier_trainer_stopped(
    subject: Subject, data: Examples
) -> None:
    def trainer() -> Trainer:
        recipe = Recipe(learning_rate=1e-2, average_over=0.5)
        return Trainer(subject, recipe, torch.Generator().manual_seed(0))

    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(2):
        whole.step(data.images, data.labels.flip(0), done=0.5)
    first.step(data.images, data.labels.flip(0), done=0.5)
    second.restore(first.tensors(), steps=1, images=len(data))
    second.step(data.images, data.labels.flip(0), done=0.5)
    expected, found = (t.finished().state_dict() for t in (whole, second))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_dropout_follows_the_generator_alone(subject: Subject, data: Examples) -> None:
    leaky = replace(subject, module=torch.nn.Sequential(torch.nn.Dropout(), subject.module).eval())
    results = []
    for _ in range(2):
        torch.rand(3)
        result = harden(replace(SMALL, rounds=1), leaky, data)
        assert result.module is not None
        results.append(result.module.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_learning_rate_rises_and_falls_as_the_recipe_says() -> None:
    recipe = Recipe(learning_rate=1.0, final_share=0.1, warm_up=0.5)
    rates = [recipe.learning_rate_at(done) for done in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert rates == pytest.approx([0.02, 0.52, 1.0, 0.55, 0.1])


def test_batch_norm_statistics_move_only_where_the_policy_says_so(
    subject: Subject, data: Examples
) -> None:
    for policy, moves in (("train", True), ("eval", False)):
        trainer = Trainer(
            subject,
            Recipe(learning_rate=1e-3, batch_norm=policy),  # type: ignore[arg-type]
            torch.Generator().manual_seed(0),
        )
        trainer.step(data.images[:16], data.labels[:16], done=0.0)
        before = subject.module.get_buffer("bn.running_mean")
        after = trainer.network.get_buffer("bn.running_mean")
        assert torch.equal(before, after) is not moves
        assert not trainer.network.training


def test_kept_triggers_are_found_by_direction_and_fall_back_on_the_universal_one() -> None:
    held = HeldTriggers()
    universal, own = (
        Held(mask=torch.full((1, 2, 2), v), pattern=torch.zeros(3, 2, 2), cost=v)
        for v in (0.1, 0.9)
    )
    held.put(-1, 2, universal)
    assert held.get(0, 2) is universal
    held.put(0, 2, own)
    assert held.get(0, 2) is own
    assert held.get(2, 0) is None
    again = HeldTriggers()
    again.restore(dict(held.tensors()))
    found = again.get(0, 2)
    assert found is not None
    assert found.cost == pytest.approx(0.9)


def test_a_limit_is_taken_away_by_none() -> None:
    _, settings = parse_spec(
        "moth:recipe.largest_gradient=none,seconds=None",
        HARDENERS,
        ENTRY_POINTS,
        kind="method",
        contract=Hardener,
    )
    method = build(Moth, settings)
    assert Moth().recipe.largest_gradient == 20.0
    assert (method.recipe.largest_gradient, method.seconds) == (None, None)
    with pytest.raises(InputError, match="rounds takes a int, got 'none'"):
        parse_spec("moth:rounds=none", HARDENERS, ENTRY_POINTS, kind="method", contract=Hardener)


def test_the_attack_of_adversarial_training_rises_to_its_full_size() -> None:
    method = AdversarialTraining(rounds=10, rising=0.5, attack=PGD(epsilon=0.1, step_size=0.02))
    sizes = [method.attack_at(done).epsilon for done in (0.0, 0.2, 0.4, 0.9)]
    assert sizes == pytest.approx([0.02, 0.06, 0.1, 0.1])
    assert method.attack_at(0.2).step_size == pytest.approx(0.012)
    assert replace(method, rising=0.0).attack_at(0.0).epsilon == 0.1
    with pytest.raises(HardeningError, match="rising must be in"):
        AdversarialTraining(rising=2.0)
