from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moth_eval.distance import (
    PRESETS,
    PUBLISHED_SEEDS,
    DistanceProtocol,
    class_distances,
    distance_stability,
    draw_samples,
    stability_protocol,
)
from moth_eval.distance_increase import METHOD, distance_increase
from moth_eval.distance_stability import stability_of
from moth_eval.distance_table import ClassDistances, SeedDistance
from moth_eval.errors import InputError
from moth_eval.inversion.presets import FAST, PAPER
from moth_eval.inversion.problems import Inversion
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.rounds import read_round
from moth_eval.loading.subjects import open_subject
from moth_eval.subject import Examples, Subject
from tests.support.subjects import prototype_subject

ONE_SEED = DistanceProtocol(samples=8, seeds=(3,))
PAIRS = [(0, 2), (2, 0), (1, 3)]


class Stubborn(nn.Module):
    """Answers class 0 whatever the image, and a little more surely on bright ones."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.pad(images.mean((1, 2, 3))[:, None] + 9, (0, 4), value=-9.0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return prototype_subject(target=2)


@pytest.fixture(scope="module")
def measured(subject: Subject) -> ClassDistances:
    return class_distances(subject, ONE_SEED, pairs=PAIRS)


def row(target: int, seed: int, distance: float | None, source: int = 0) -> SeedDistance:
    return SeedDistance(
        source=source, target=target, seed=seed, distance=distance, asr=0.95,
        valid=distance is not None, samples=100, steps=600,
    )  # fmt: skip


def table(*rows: SeedDistance, classes: int = 4) -> ClassDistances:
    return ClassDistances(num_classes=classes, rows=rows)


def per_pair(*pairs: tuple[float | None, ...]) -> ClassDistances:
    """Pairs 0 to 1, 2, ...: the distances of their seeds."""
    return table(
        *(row(t, s, d) for t, seeds in enumerate(pairs, start=1) for s, d in enumerate(seeds)),
        classes=len(pairs) + 1,
    )


def test_the_planted_target_is_closer_than_the_way_back(measured: ClassDistances) -> None:
    assert measured.failed == ()
    assert measured.distance(0, 2) < 0.5 * measured.distance(2, 0)
    assert measured.summary().smallest_pair == (0, 2)


def test_the_distance_is_the_sum_of_the_mask_over_all_channels(subject: Subject) -> None:
    found: list[tuple[SeedDistance, Inversion]] = []
    class_distances(subject, ONE_SEED, pairs=PAIRS[:1], on_pair=lambda r, i: found.append((r, i)))
    [(result, inversion)] = found
    images = subject.examples.images
    assert result.distance == pytest.approx(
        inversion.mask.expand_as(images[0]).sum().item(), rel=1e-4
    )
    used = images[draw_samples(subject.examples.labels, 0, 3, 8)]
    stamped = torch.lerp(used, inversion.pattern, inversion.mask)
    asr = (subject.logits(stamped).argmax(1) == 2).float().mean().item()
    assert result.asr == pytest.approx(asr)
    assert result.asr >= 0.9


def test_a_pair_alone_comes_out_as_it_does_among_all(
    subject: Subject, measured: ClassDistances
) -> None:
    for pair in PAIRS:
        alone = class_distances(subject, ONE_SEED, pairs=[pair])
        assert alone.distance(*pair) == pytest.approx(measured.distance(*pair), rel=0.02)
        assert alone.by_pair[pair][0].samples == measured.by_pair[pair][0].samples


def test_finished_rows_are_taken_over_and_not_computed_again(
    subject: Subject, measured: ClassDistances
) -> None:
    forged = replace(measured.rows[0], distance=1.25)
    told: list[SeedDistance] = []
    again = class_distances(
        subject, ONE_SEED, pairs=PAIRS, done=[forged, measured.rows[1]],
        on_pair=lambda result, _: told.append(result),
    )  # fmt: skip
    assert again.rows[:2] == (forged, measured.rows[1])
    assert [result.pair for result in told] == [(1, 3)]
    nothing = class_distances(subject, ONE_SEED, pairs=PAIRS, done=again.rows)
    assert (nothing.rows, nothing.backward_passes) == (again.rows, 0)


def test_the_subject_is_left_as_it_was(subject: Subject) -> None:
    before = {name: value.clone() for name, value in subject.module.state_dict().items()}
    state = torch.get_rng_state()
    class_distances(subject, ONE_SEED, pairs=PAIRS[:1])
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, subject.module.state_dict()[n]) for n, v in before.items())
    assert all(parameter.requires_grad for parameter in subject.module.parameters())


def test_progress_reaches_the_end_and_counts_rows_of_this_call_alone(subject: Subject) -> None:
    seen: list[tuple[int, int]] = []
    class_distances(
        subject, ONE_SEED, pairs=PAIRS[:2], on_progress=lambda *steps: seen.append(steps)
    )
    assert seen[-1] == (2 * FAST.steps, 2 * FAST.steps)
    assert seen == sorted(seen)


def test_a_pair_without_a_trigger_is_failed_and_never_0(subject: Subject) -> None:
    stubborn = replace(subject, module=Stubborn().eval())
    found = class_distances(stubborn, ONE_SEED, pairs=[(0, 1), (1, 0)])
    assert found.failed == ((0, 1),)
    assert found.by_pair[0, 1][0].distance is None
    assert math.isnan(found.matrix()[0, 1])
    assert math.isnan(found.distance(0, 1))
    summary = found.summary()
    assert (summary.pairs, summary.measured) == (2, 1)
    assert summary.mean == found.distance(1, 0)


def test_a_model_without_any_distance_has_no_mean() -> None:
    summary = table(row(1, 0, None)).summary()
    assert math.isnan(summary.mean)
    assert (summary.measured, summary.smallest_pair) == (0, None)


def test_the_minimum_is_over_valid_seeds_only() -> None:
    low_but_invalid = replace(row(1, 2, 5.0), valid=False)
    found = table(row(1, 0, 40.0), row(1, 1, 30.0), low_but_invalid, row(2, 0, None))
    assert found.distance(0, 1) == 30.0
    assert found.best[0, 1].seed == 1
    assert found.failed == ((0, 2),)


def test_the_matrix_has_sources_as_rows_and_nothing_where_nothing_is_known() -> None:
    expected = np.full((4, 4), math.nan)
    expected[0, 1], expected[0, 3] = 10.0, 7.0
    found = table(row(1, 0, 10.0), row(3, 0, 7.0), row(2, 0, None))
    np.testing.assert_array_equal(found.matrix(), expected)


def test_samples_are_drawn_without_replacement_per_seed_and_class(subject: Subject) -> None:
    labels = subject.examples.labels
    one, other = (draw_samples(labels, 1, seed, 6) for seed in (1, 2))
    assert len(set(one.tolist())) == 6
    assert set(labels[one].tolist()) == {1}
    assert torch.equal(one, draw_samples(labels, 1, 1, 6))
    assert not torch.equal(one, other)


def test_fewer_samples_than_asked_for_are_all_used_and_counted(subject: Subject) -> None:
    found = class_distances(subject, replace(ONE_SEED, samples=500), pairs=PAIRS[:1])
    assert found.rows[0].samples == 12
    assert found.short_classes(500) == {0: 12}
    assert found.short_classes(12) == {}


def test_the_default_protocol_is_the_published_one_but_for_its_schedule() -> None:
    protocol = DistanceProtocol()
    assert (protocol.samples, protocol.success_rate) == (100, 0.9)
    assert protocol.seeds == PUBLISHED_SEEDS == (1024, 557540351, 157301989)
    assert protocol.schedule == FAST
    assert DistanceProtocol(preset="paper").schedule == PAPER


def test_a_pass_of_the_published_schedule_is_a_pass_over_all_samples() -> None:
    schedule = DistanceProtocol(preset="paper", samples=200, success_rate=0.8).schedule
    assert (schedule.steps, schedule.steps_per_move, schedule.check_every) == (7000, 7, 7)
    assert schedule.batches == [32, 32, 32, 32, 32, 32, 8]
    few = DistanceProtocol(preset="paper", samples=20).schedule
    assert (few.steps, few.batches) == (1000, [20])
    assert schedule.success_rate == 0.8


def test_a_class_with_fewer_images_than_samples_takes_as_many_passes_over_those(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PRESETS, "paper", replace(PAPER, steps=10 * PAPER.steps_per_move))
    subject = prototype_subject(target=2, per_class=40)
    # 40 images of class 0 are two batches a pass, 6 of class 1 are one.
    few = torch.nonzero(subject.examples.labels == 1).flatten()[6:]
    kept = torch.ones(len(subject.examples), dtype=torch.bool)
    kept[few] = False
    examples = subject.examples
    short = replace(
        subject, examples=Examples(images=examples.images[kept], labels=examples.labels[kept])
    )
    pairs, protocol = [(0, 2), (1, 2)], DistanceProtocol(preset="paper", samples=40, seeds=(3,))
    told: list[tuple[int, int]] = []
    both = class_distances(short, protocol, pairs=pairs, on_progress=lambda *at: told.append(at))
    assert [(row.samples, row.steps) for row in both.rows] == [(40, 20), (6, 10)]
    assert told[-1] == (30, 30)
    whole = class_distances(subject, protocol, pairs=pairs[:1])
    alone = class_distances(short, replace(protocol, samples=6), pairs=pairs[1:])
    for row, same in zip(both.rows, (*whole.rows, *alone.rows), strict=True):
        assert replace(row, distance=None) == replace(same, distance=None)
        assert row.distance == pytest.approx(same.distance, rel=1e-4)


def test_where_classes_have_enough_images_the_schedule_is_that_of_the_samples() -> None:
    for preset in ("fast", "paper"):
        protocol = DistanceProtocol(preset=preset, samples=50)
        assert protocol.schedule_of(50) == protocol.schedule
    assert DistanceProtocol().schedule_of(3) == FAST


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"preset": "slow"}, "preset must be one of fast, paper, got 'slow'"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"seeds": ()}, "seeds must be given"),
        ({"seeds": (1, 1)}, "all different"),
        ({"success_rate": 0.0}, r"success_rate must be in \(0, 1\]"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistanceProtocol(**fields)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 5)], "0-5 is no pair of two classes: the model has the classes 0 to 4"),
        ([(1, 1)], "1-1 is no pair"),
        ([], "at least one pair"),
    ],
)
def test_pairs_that_are_none_are_refused(
    pairs: list[tuple[int, int]], message: str, subject: Subject
) -> None:
    with pytest.raises(InputError, match=message):
        class_distances(subject, ONE_SEED, pairs=pairs)


def test_a_source_class_needs_examples_and_a_target_class_does_not(subject: Subject) -> None:
    some = subject.examples.labels != 2
    examples = Examples(images=subject.examples.images[some], labels=subject.examples.labels[some])
    without = replace(subject, examples=examples)
    with pytest.raises(InputError, match="there is no example of class 2"):
        class_distances(without, ONE_SEED)
    assert class_distances(without, ONE_SEED, pairs=[(0, 2)]).failed == ()


def test_both_definitions_of_increase_agree_with_figures_worked_out_by_hand() -> None:
    found = distance_increase(per_pair((10.0,), (40.0,)), per_pair((30.0,), (60.0,)))
    assert found.mean_of_ratios == pytest.approx((2.0 + 0.5) / 2)
    assert found.ratio_of_means == pytest.approx(90 / 50 - 1)
    assert (found.pairs, found.left_out) == (2, ())


def test_an_increase_rests_on_pairs_that_are_valid_on_both_sides() -> None:
    before = per_pair((10.0, 12.0), (None, None), (20.0, None), (5.0, 5.0))
    after = per_pair((20.0, 15.0), (50.0, 60.0), (30.0, 40.0), (None, None))
    found = distance_increase(before, after)
    assert found.pairs == 2
    assert found.left_out == ((0, 2), (0, 4))
    assert found.mean_of_ratios == pytest.approx(0.5)
    assert found.ratio_of_means == pytest.approx(0.5)


def test_intervals_of_an_increase_hold_it_and_narrow_with_more_pairs() -> None:
    generator = np.random.default_rng(5)

    def made(pairs: int) -> tuple[ClassDistances, ClassDistances]:
        before = generator.uniform(20, 80, (pairs, 3))
        after = before * generator.uniform(1.5, 2.5, (pairs, 3))
        return per_pair(*map(tuple, before)), per_pair(*map(tuple, after))

    few, many = (distance_increase(*made(pairs)) for pairs in (8, 80))
    for found in (few, many):
        for value, interval in (
            (found.mean_of_ratios, found.mean_of_ratios_interval),
            (found.ratio_of_means, found.ratio_of_means_interval),
        ):
            assert interval is not None
            assert interval.low < value < interval.high
            count = METHOD.format(count=found.pairs, units="pairs")
            assert interval.method == count
    assert few.mean_of_ratios_interval and many.mean_of_ratios_interval
    assert many.mean_of_ratios_interval.width < 0.6 * few.mean_of_ratios_interval.width


def test_no_bound_says_that_distances_fall_below_nothing() -> None:
    before, after = per_pair(*[(100.0, 110.0, 120.0)] * 8), per_pair(*[(10.0, 150.0, 200.0)] * 8)
    found = distance_increase(before, after)
    assert found.mean_of_ratios == pytest.approx(-0.9)
    for interval in (found.mean_of_ratios_interval, found.ratio_of_means_interval):
        assert interval is not None
        assert -1 == interval.low < -0.9 < interval.high


def test_seeds_that_disagree_widen_the_interval() -> None:
    calm = [(20.0 + p, 20.0 + p, 20.0 + p) for p in range(30)]
    wild = [(20.0 + p, 45.0 + p, 80.0 + p) for p in range(30)]
    after = per_pair(*[(40.0 + 2 * p,) * 3 for p in range(30)])
    one, other = (distance_increase(per_pair(*rows), after) for rows in (calm, wild))
    assert one.mean_of_ratios_interval and other.mean_of_ratios_interval
    assert one.mean_of_ratios_interval.width < 0.1 * other.mean_of_ratios_interval.width


@pytest.mark.parametrize("pairs", [1, 2, 3])
def test_few_pairs_have_an_increase_and_no_interval(pairs: int) -> None:
    found = distance_increase(per_pair(*[(10.0,)] * pairs), per_pair(*[(15.0,)] * pairs))
    assert found.mean_of_ratios == pytest.approx(0.5)
    assert found.mean_of_ratios_interval is None
    four = distance_increase(per_pair(*[(10.0,)] * 4), per_pair(*[(15.0,)] * 4))
    assert four.mean_of_ratios_interval is not None


def test_pairs_of_one_target_count_as_one() -> None:
    """Six classes; distances grow by what their target does, so that 30 pairs tell of six."""
    growth = (1.2, 1.5, 1.8, 2.2, 2.6, 3.0)
    pairs = [(a, b) for a in range(6) for b in range(6) if a != b]
    before = table(*(row(b, 1, 10.0, source=a) for a, b in pairs), classes=6)
    after = table(*(row(b, 1, 10.0 * growth[b], source=a) for a, b in pairs), classes=6)
    alone = per_pair(*[(10.0,)] * 6), per_pair(*[(10.0 * g,) for g in growth])
    found, single = distance_increase(before, after), distance_increase(*alone)
    assert found.mean_of_ratios == pytest.approx(single.mean_of_ratios)
    assert found.mean_of_ratios_interval and single.mean_of_ratios_interval
    assert "6 target classes" in found.mean_of_ratios_interval.method
    assert found.mean_of_ratios_interval.width == pytest.approx(
        single.mean_of_ratios_interval.width, rel=0.1
    )


def test_an_interval_covers_what_it_promises() -> None:
    """Six pairs: plain percentiles cover 82 %."""
    generator = np.random.default_rng(3)
    truth, covered = np.exp(0.5 + 0.5**2 / 2) - 1, 0
    for _ in range(300):
        growth = np.exp(0.5 + 0.5 * generator.normal(size=6))
        found = distance_increase(
            per_pair(*[(10.0,)] * 6), per_pair(*[(10.0 * g,) for g in growth]), resamples=400
        ).mean_of_ratios_interval
        assert found is not None
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / 300 <= 0.98


def test_an_increase_between_other_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="got 1 and 2 of which 1 are common"):
        distance_increase(per_pair((10.0,)), per_pair((10.0,), (20.0,)))
    with pytest.raises(InputError, match="distance above 0 before and one after, got"):
        distance_increase(per_pair((None,)), per_pair((10.0,)))


def test_stability_is_mean_and_deviation_over_sets_worked_out_by_hand() -> None:
    found = stability_of(per_pair((10.0, 14.0), (30.0, 38.0), (5.0, None)))
    assert found.means == {(0, 1): 12.0, (0, 2): 34.0, (0, 3): 5.0}
    assert found.deviations[0, 1] == pytest.approx(math.sqrt(8))
    assert math.isnan(found.deviations[0, 3])
    assert found.mean == 17.0
    assert found.mean_deviation == pytest.approx((math.sqrt(8) + math.sqrt(32)) / 2)
    assert (found.sets, found.invalid) == (2, 1)
    assert math.isnan(found.deviation_of_mean)
    whole = stability_of(per_pair((10.0, 14.0), (30.0, 38.0)))
    assert whole.deviation_of_mean == pytest.approx(math.sqrt(18))


def test_a_stability_study_draws_a_set_of_samples_for_each_of_its_seeds(subject: Subject) -> None:
    found = distance_stability(subject, ONE_SEED, n_sets=3, pairs=PAIRS[:2])
    assert found.sets == 3
    assert found.deviations[0, 2] > 0
    assert found.means[0, 2] < found.means[2, 0]
    with pytest.raises(InputError, match="at least 2 sets of samples, got 1"):
        stability_protocol(ONE_SEED, 1)
    with pytest.raises(InputError, match=r"got \[1\] sets per pair"):
        stability_of(per_pair((10.0,)))


@pytest.mark.slow
def test_distances_of_the_published_network_are_near_the_published_ones(shared: Path) -> None:
    folder = shared / "moth-resnet20"
    model = folder / "resnet20_natural.safetensors"
    found = read_round(model, examples=shared / "cifar10/train.npz").models[0]
    source = ArchitectureSource.parse("moth_eval.networks:moth_resnet20")
    subject = open_subject(found, architecture=source, device=torch.device("cpu")).subject
    first = Examples(images=subject.examples.images[:2000], labels=subject.examples.labels[:2000])
    pairs = [(0, 1), (1, 4), (2, 3), (3, 5), (4, 7), (5, 8), (6, 2), (7, 9), (8, 0), (9, 6)]
    protocol = DistanceProtocol(precision="bfloat16")
    measured = class_distances(replace(subject, examples=first), protocol, pairs=pairs)
    lines = (folder / "distance_natural.csv").read_text().splitlines()
    published = [list(map(float, cells)) for cells in csv.reader(lines)]
    # The published table leaves the diagonal out.
    expected = torch.tensor([published[a][b - (b > a)] for a, b in pairs])
    found = torch.tensor([measured.distance(a, b) or torch.nan for a, b in pairs])
    assert float(found.mean()) == pytest.approx(float(expected.mean()), rel=0.1)
    assert float(torch.corrcoef(torch.stack([expected, found]))[0, 1]) >= 0.9
