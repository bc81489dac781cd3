from __future__ import annotations

import json
from dataclasses import replace
from math import log, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import InputError
from moth_eval.honesty import (
    HonestyReport,
    HonestySettings,
    finished_checks,
    honesty_checks,
)
from moth_eval.inversion.presets import SHORT
from moth_eval.inverter_table import InverterCheck, PairCheck, Restarts
from moth_eval.robustness import PGD
from moth_eval.seeds import generator_for
from moth_eval.subject import Subject
from tests.support.subjects import prototype_subject

BRIEF = replace(SHORT, steps=160)

SETTINGS = HonestySettings(
    pairs=((0, 2), (1, 2), (3, 4)),
    restarts=2,
    schedule=BRIEF,
    signed_schedule=BRIEF,
    attacks=(PGD(epsilon=0.4, step_size=0.1, steps=10),),
    patch_kinds=("crop", "optimised"),
    patch_sizes=(4, 9),
    patch_tries=2,
)


class Masked(nn.Module):
    """A network that gives the same answers and almost no gradient: every channel is rounded."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner((images * 255).round() / 255)
        return logits


@pytest.fixture(scope="module")
def before() -> Subject:
    return prototype_subject(target=2)


@pytest.fixture(scope="module")
def masked(before: Subject) -> HonestyReport:
    after = replace(before, name="masked", module=Masked(before.module).eval())
    return honesty_checks(before, after, SETTINGS, generator=generator_for(0))


@pytest.fixture(scope="module")
def mended(before: Subject) -> HonestyReport:
    after = replace(before, name="mended", module=prototype_subject().module)
    return honesty_checks(before, after, SETTINGS, generator=generator_for(0))


def test_hiding_the_gradient_is_given_away_by_transferred_triggers(masked: HonestyReport) -> None:
    for check in masked.inverters:
        assert check.missed("after") == 3
        assert check.growth() is None
        transferred = check.transferred("before")
        assert transferred is not None
        assert transferred >= check.success_rate
        together = check.growth(transfers=True)
        assert together is not None
        assert (together.factor, together.pairs) == (pytest.approx(1), 3)


def test_hiding_the_gradient_looks_robust_to_all_that_needs_it_but_not_to_pasted_crops(
    masked: HonestyReport,
) -> None:
    [robust] = masked.robustness
    assert robust.before.robust.value == 0
    assert robust.after.robust.value > 0.9
    crop, optimised = masked.curves
    assert crop.before[2].asr > 0.5
    assert [p.asr for p in crop.after] == pytest.approx([p.asr for p in crop.before], abs=0.1)
    assert optimised.after[2].asr < optimised.before[2].asr - 0.3


def test_an_honest_network_does_not_withstand_an_attack_of_that_size(
    mended: HonestyReport,
) -> None:
    assert mended.robustness[0].after.robust.value == 0


def test_removing_the_backdoor_grows_both_distances_and_triggers_do_not_transfer(
    mended: HonestyReport,
) -> None:
    trained, other = mended.inverters
    for check in (trained, other):
        grown, together = check.growth(), check.growth(transfers=True)
        assert grown is not None
        assert together is not None
        assert grown.factor > 1.5
        assert together.factor == pytest.approx(grown.factor, rel=0.3)
        transferred = check.transferred("before")
        assert transferred is not None
        assert transferred < check.success_rate
    assert mended.growth_ratio == pytest.approx(
        trained.growth().factor / other.growth().factor  # type: ignore[union-attr]
    )


def test_triggers_of_a_backdoor_that_came_later_do_not_work_before(before: Subject) -> None:
    clean = replace(before, name="clean", module=prototype_subject().module)
    few = replace(SETTINGS, pairs=((0, 2), (1, 2)), restarts=1, attacks=(), patch_kinds=())
    report = honesty_checks(clean, before, few, generator=generator_for(0))
    assert (report.robustness, report.curves) == ((), ())
    for check in report.inverters:
        transferred = check.transferred("after")
        assert transferred is not None
        assert transferred < 0.5


def test_the_same_network_twice_shows_no_change_anywhere(before: Subject) -> None:
    few = replace(SETTINGS, pairs=((0, 2),), restarts=1)
    report = honesty_checks(before, before, few, generator=generator_for(1))
    for check in report.inverters:
        growth = check.growth()
        assert growth is not None
        assert growth.factor == pytest.approx(1)
        assert growth.increase == pytest.approx(0)
        [pair] = check.pairs
        assert pair.before == pair.after
        assert pair.before.transferred == pytest.approx(pair.before.asrs[0])
    assert report.growth_ratio == pytest.approx(1)
    assert all(c.before == c.after for c in report.curves)
    assert all(r.before == r.after for r in report.robustness)
    assert (report.accuracy.lost, report.accuracy.gained) == (0, 0)


def test_the_report_is_written_as_json_without_loss(mended: HonestyReport) -> None:
    text = json.dumps(mended.to_json(), allow_nan=False)
    read = json.loads(text)
    assert read["growth_ratio"] == mended.growth_ratio
    assert [i["inverter"] for i in read["inverters"]] == ["mask-and-pattern", "signed-pixels"]
    assert read["inverters"][1]["derived"]["missed_after"] == mended.inverters[1].missed("after")
    sizes = read["inverters"][0]["pairs"][2]["before"]["sizes"]
    assert sizes == list(mended.inverters[0].pairs[2].before.sizes)
    assert read["settings"]["schedule"]["steps"] == 160
    assert read["curves"][0]["after"][1]["asr"] == mended.curves[0].after[1].asr


def test_all_passes_of_both_networks_are_counted(mended: HonestyReport) -> None:
    inversions = 2 * 2 * 3 * 2 * 160 * 16
    patches = 2 * 2 * 3 * 2 * 200 * 16
    assert mended.cost.backward_passes == inversions + patches + 2 * 60 * 10
    assert mended.cost.forward_passes > mended.cost.backward_passes


def restarts(*sizes: float | None, transferred: float | None = None) -> Restarts:
    return Restarts(sizes=sizes, asrs=(1.0,) * len(sizes), transferred=transferred)


def check(*pairs: tuple[Restarts, Restarts]) -> InverterCheck:
    return InverterCheck(
        inverter="mask-and-pattern",
        success_rate=0.9,
        pairs=tuple(PairCheck(source=0, target=1, before=b, after=a) for b, a in pairs),
    )


def test_growth_is_that_of_the_smallest_valid_trigger_of_each_pair() -> None:
    table = check(
        (restarts(10.0, 20.0), restarts(20.0, 25.0)),
        (restarts(None, 10.0), restarts(80.0, None)),
        (restarts(5.0, 5.0), restarts(None, None)),
    )
    growth = table.growth()
    assert growth is not None
    assert growth.factor == pytest.approx(sqrt(2 * 8))
    assert growth.increase == pytest.approx((1 + 7) / 2)
    assert (growth.pairs, growth.left_out) == (2, 1)
    assert (table.missed("before"), table.missed("after")) == (0, 1)


def test_a_trigger_that_transfers_counts_for_both_networks() -> None:
    table = check(
        (restarts(10.0, transferred=0.95), restarts(40.0, transferred=0.2)),
        (restarts(10.0, transferred=0.5), restarts(20.0, transferred=0.2)),
        (restarts(10.0, transferred=0.95), restarts(None)),
    )
    growth = table.growth(transfers=True)
    assert growth is not None
    assert growth.factor == pytest.approx(2 ** (1 / 3))
    assert growth.left_out == 0
    assert table.transferred("before") == pytest.approx((0.95 + 0.5 + 0.95) / 3)


def test_scatter_compares_the_middle_of_the_restarts_with_their_best() -> None:
    table = check(
        (restarts(10.0, 20.0, 30.0), restarts(10.0)),
        (restarts(10.0, 10.0), restarts(None)),
    )
    assert table.scatter("before") == pytest.approx(sqrt(2))
    assert table.scatter("after") is None


def test_without_a_pair_on_both_sides_there_is_no_growth() -> None:
    table = check((restarts(None), restarts(3.0)), (restarts(0.0), restarts(3.0)))
    assert table.growth() is None
    assert table.derived()["growth"] is None


def test_no_growth_means_a_factor_of_one() -> None:
    growth = check((restarts(7.0), restarts(7.0))).growth()
    assert growth is not None
    assert log(growth.factor) == pytest.approx(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": ()}, "at least one pair of two different classes"),
        ({"pairs": ((1, 1),)}, "at least one pair of two different classes"),
        ({"restarts": 0}, "restarts and images_per_class must be at least 1"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got .float16."),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **fields)


def test_subjects_with_different_examples_are_refused(before: Subject) -> None:
    other = prototype_subject(seed=9)
    with pytest.raises(InputError, match="must share classes, device and examples"):
        honesty_checks(before, other, SETTINGS, generator=generator_for(0))


def test_pairs_of_absent_classes_are_refused(before: Subject) -> None:
    for pair, message in (((0, 5), "classes 0 to 4"), ((7, 1), "classes 0 to 4")):
        with pytest.raises(InputError, match=message):
            honesty_checks(
                before, before, replace(SETTINGS, pairs=(pair,)), generator=generator_for(0)
            )
    six = replace(before, num_classes=6)
    with pytest.raises(InputError, match="no example of the source class 5"):
        honesty_checks(six, six, replace(SETTINGS, pairs=((5, 1),)), generator=generator_for(0))


def test_nothing_of_the_subjects_changes(before: Subject, mended: HonestyReport) -> None:
    fresh = prototype_subject(target=2)
    assert torch.equal(before.examples.images, fresh.examples.images)
    held = before.module.state_dict()
    assert all(torch.equal(held[k], v) for k, v in fresh.module.state_dict().items())
    assert all(p.grad is None for p in before.module.parameters())


def test_checks_one_by_one_are_the_checks_of_the_whole_whatever_is_skipped(
    before: Subject, mended: HonestyReport
) -> None:
    after = replace(before, name="mended", module=prototype_subject().module)
    left = {"signed-pixels", "patches-optimised"}
    skip = set(SETTINGS.checks) - left
    made = list(finished_checks(before, after, SETTINGS, generator=generator_for(0), skip=skip))
    assert [check.name for check in made] == ["signed-pixels", "patches-optimised"]
    assert [check.result for check in made] == [mended.inverters[1], mended.curves[1]]
    assert all(check.cost.backward_passes > 0 for check in made)


def test_every_check_has_a_name_of_its_own() -> None:
    settings = replace(SETTINGS, attacks=(PGD(), PGD(epsilon=0.5)))
    assert settings.checks == (
        "accuracy", "mask-and-pattern", "signed-pixels", "pgd-0", "pgd-1", "patches-crop",
        "patches-optimised",
    )  # fmt: skip
