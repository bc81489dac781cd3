from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moth_eval.errors import InputError
from moth_eval.records import RESULT_VERSION, SCORES_SINCE
from moth_eval.scan_calibration import (
    CalibratedScanner,
    Calibration,
    CalibrationGroup,
    check_parameters,
    family_of,
    group_of,
    p_value,
    parse_policy,
    read_calibration,
    smallest_budget,
    threshold,
    write_calibration,
)


def calibration(**fields: Any) -> Calibration:
    group = CalibrationGroup(scores=(0.5, 1.0), models=("a", "b"), unanswered=1)
    scanner = CalibratedScanner(
        parameters={"method": "nc", "cut": 2.0, "parts": [1, 2]}, groups={"g": group}
    )
    values: dict[str, Any] = {
        "created": datetime(2026, 3, 4, tzinfo=UTC), "command": ("moth-eval", "calibrate"),
        "models": "/clean", "dataset": "", "seed": 0, "device": "cpu", "versions": {},
        "scanners": {"nc": scanner},
    }  # fmt: skip
    return Calibration(**{"result_version": RESULT_VERSION, **values, **fields})


@pytest.mark.parametrize("budget", [0.05, 0.1, 0.25])
@pytest.mark.parametrize("skew", ["normal", "cauchy", "coarse"])
def test_clean_models_are_accused_no_more_often_than_promised(budget: float, skew: str) -> None:
    generator = np.random.default_rng(1)
    draw = {
        "normal": lambda size: generator.normal(size=size),
        "cauchy": lambda size: generator.standard_cauchy(size=size),
        "coarse": lambda size: generator.integers(0, 4, size=size).astype(float),
    }[skew]
    trials = 4000
    accused = sum(p_value(draw(1)[0], draw(19)) <= budget + 1e-12 for _ in range(trials))
    error = np.sqrt(budget * (1 - budget) / trials)
    assert accused / trials <= budget + 3 * error
    if skew != "coarse":  # without ties the budget is used up, too: 20 models give steps of 5 %
        assert accused / trials >= budget - 3 * error


@given(
    clean=st.lists(st.integers(0, 9).map(float), min_size=1, max_size=40),
    score=st.integers(0, 9).map(float),
    budget=st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5]),
)
def test_a_score_lies_above_the_threshold_exactly_if_its_p_value_is_within_the_budget(
    clean: list[float], score: float, budget: float
) -> None:
    cut = threshold(clean, budget)
    within = p_value(score, clean) <= budget + 1e-9
    assert within == (cut is not None and score > cut)
    assert (cut is None) == (budget + 1e-9 < smallest_budget(len(clean)))


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("resnet18", "resnet"), ("wide_resnet50_2", "wide_resnet"), ("vgg11_bn", "vgg"),
        ("moth_eval.networks:cifar_resnet20", "cifar_resnet"), ("mobilenet_v2", "mobilenet_v"),
        ("shufflenet_v2_x1_0", "shufflenet_v"), ("inception_v3", "inception_v"), ("", "unnamed"),
        ("3net", "3net"),
    ],
)  # fmt: skip
def test_families_are_names_up_to_the_first_figure(architecture: str, family: str) -> None:
    assert family_of(architecture) == family


def test_groups_are_told_apart_by_data_set_classes_size_and_family() -> None:
    assert group_of("", 10, (3, 32, 32), "resnet18") == "10 classes, 3x32x32, resnet"
    assert group_of("gtsrb", 43, (3, 32, 32), "resnet18") == "gtsrb, 43 classes, 3x32x32, resnet"


def test_a_policy_is_one_fraction_or_two() -> None:
    assert parse_policy("0.05").model_dump() == {"backdoored": 0.05, "suspicious": 0.2}
    assert parse_policy("0.2").suspicious == 0.5
    assert parse_policy("0.6").suspicious == 0.6
    assert parse_policy("0.01,0.1").suspicious == 0.1
    for wrong in ("", "x", "0", "0.2,0.1", "1", "0.1,0.2,0.3", "nan"):
        with pytest.raises(InputError, match="--policy: expected one or two fractions"):
            parse_policy(wrong)


def test_a_calibration_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_calibration(tmp_path / "c.json", calibration())
    assert read_calibration(tmp_path / "c.json") == calibration()


def test_files_of_before_numbers_of_images_were_kept_are_read(tmp_path: Path) -> None:
    old = calibration().model_dump(mode="json")
    for scanner in old["scanners"].values():
        for group in scanner["groups"].values():
            del group["examples"]
    (tmp_path / "c.json").write_text(json.dumps(old))
    assert read_calibration(tmp_path / "c.json") == calibration()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"kind": "trojai"}', b"\xff" * 10])
def test_what_is_no_calibration_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match="is no calibration of schema version 1"):
        read_calibration(tmp_path / "c.json")
    with pytest.raises(InputError, match="no readable calibration"):
        read_calibration(tmp_path / "nowhere.json")


def test_other_scanners_than_the_calibrated_ones_are_refused() -> None:
    known = calibration()
    check_parameters(known, {"nc": {"method": "nc", "cut": 2.0, "parts": (1, 2)}})
    for version in (SCORES_SINCE - 1, RESULT_VERSION + 1):
        other = known.model_copy(update={"result_version": version})
        with pytest.raises(InputError, match="scores cannot be compared; calibrate anew"):
            check_parameters(other, {})
    check_parameters(known.model_copy(update={"result_version": SCORES_SINCE}), {})
    with pytest.raises(InputError, match="has no scanner 'abs': expected one of nc"):
        check_parameters(known, {"abs": {"method": "abs"}})
    with pytest.raises(InputError, match="'nc' was calibrated with another cut, extra"):
        check_parameters(known, {"nc": {"method": "nc", "cut": 3, "parts": (1, 2), "extra": 1}})
