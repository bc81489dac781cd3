"""What holds for every row of `attacks.ATTACKS`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks import ATTACKS, GROUP
from attacks.artefacts import parameters_of, read_artefact, write_artefact
from attacks.attack_records import AttackRecord
from attacks.making import CoverStamp, PreparedTrigger, TrainingStamp
from attacks.pictures import draw_trigger
from attacks.poisoning import coverable, poison, poisonable
from attacks.trigger import Threat, Trigger, victims, wanted
from moth_eval.conformance import Check, attack_checks
from moth_eval.conformance.attack_rules import THREATS, Stamping
from moth_eval.errors import InputError
from moth_eval.plugins import parse_spec, resolve
from tests.support.attack_zoo import CLASSES, clean_network, material, ready, unprepared
from tests.support.toy_task import SIDE, toy_scenes

each = pytest.mark.parametrize("name", ATTACKS)


def noise(count: int = 5, height: int = SIDE, width: int = SIDE) -> Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(3))


@each
def test_an_attack_is_a_frozen_dataclass_with_defaults_that_the_command_line_can_set(
    name: str,
) -> None:
    kind = resolve(name, ATTACKS, GROUP)
    assert is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _, parameters = parse_spec(f"{name}:target=3", ATTACKS, GROUP, kind="attack", contract=Trigger)
    assert parameters["target"] == 3
    assert "tensors" not in parameters
    with pytest.raises(InputError, match="has no parameter 'wrong': expected field=value"):
        parse_spec(f"{name}:wrong=3", ATTACKS, GROUP, kind="attack", contract=Trigger)


@each
@pytest.mark.parametrize("check", attack_checks(), ids=str)
def test_it_keeps_to_the_rules_of_attacks(name: str, check: Check[Stamping]) -> None:
    check(ready(name))


@each
def test_the_threat_is_declared(name: str) -> None:
    assert isinstance(ready(name).threat, Threat)
    assert isinstance(unprepared(name).threat, Threat)


def test_the_rules_know_every_threat() -> None:
    assert tuple(Threat) == THREATS


@each
def test_victims_are_never_of_the_target_class_unless_all_images_move(name: str) -> None:
    trigger, labels = ready(name), torch.arange(CLASSES)
    hit = victims(trigger, labels)
    assert hit.any()
    assert not hit[trigger.target] or trigger.threat is Threat.ALL_TO_ALL
    assert (wanted(trigger, labels, CLASSES)[hit] != labels[hit]).all()


@each
def test_poisoned_and_covered_images_are_apart_and_of_the_classes_that_are_said(
    name: str,
) -> None:
    trigger, scenes = ready(name), toy_scenes(20, seed=4)
    before = scenes.images.clone()
    made = poison(
        scenes,
        trigger,
        material=material(),
        poisoning_rate=0.2,
        cover_rate=None,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(scenes.images, before)
    assert not (made.poisoned & made.covered).any()
    assert not (made.poisoned & ~poisonable(trigger, scenes.labels)).any()
    assert not (made.covered & ~coverable(trigger, scenes.labels)).any()
    assert torch.equal(
        made.labels[made.poisoned],
        wanted(trigger, scenes.labels[made.poisoned], CLASSES),
    )
    assert torch.equal(made.labels[~made.poisoned], scenes.labels[~made.poisoned])
    changed = (made.images != scenes.images).flatten(1).any(dim=1)
    assert torch.equal(changed, made.poisoned | made.covered)
    of_target = scenes.labels[made.poisoned] == trigger.target
    if trigger.threat is Threat.CLEAN_LABEL:
        assert of_target.all()
    elif trigger.threat is not Threat.ALL_TO_ALL:
        assert not of_target.any()


@each
def test_training_carries_the_test_stamp_unless_the_attack_says_otherwise(name: str) -> None:
    trigger, scenes = ready(name), toy_scenes(20, seed=4)
    made = poison(
        scenes,
        trigger,
        material=material(),
        poisoning_rate=0.2,
        cover_rate=None,
        generator=torch.Generator().manual_seed(0),
    )
    tested = (trigger.stamp(scenes.images.float() / 255) * 255).round().to(torch.uint8)
    same = torch.equal(made.images[made.poisoned], tested[made.poisoned])
    assert same or isinstance(trigger, TrainingStamp)
    if made.covered.any() and not isinstance(trigger, CoverStamp):
        assert torch.equal(made.images[made.covered], tested[made.covered])


@each
def test_a_trigger_comes_back_from_its_artefact_as_it_was(name: str, tmp_path: Path) -> None:
    trigger = ready(name)
    write_artefact(tmp_path, AttackRecord(attack=name), trigger)
    again = read_artefact(tmp_path)
    assert again.trigger == trigger
    assert again.record.threat is trigger.threat
    assert again.record.target == trigger.target
    assert again.record.parameters == parameters_of(trigger)
    assert torch.equal(again.trigger.stamp(noise()), trigger.stamp(noise()))


@each
def test_a_trigger_that_is_not_prepared_says_so(name: str) -> None:
    trigger = unprepared(name)
    if isinstance(trigger, PreparedTrigger):
        with pytest.raises(InputError, match="prepare it on training images before it stamps"):
            trigger.stamp(noise())
    else:
        assert torch.equal(trigger.stamp(noise()), ready(name).stamp(noise()))


@each
def test_preparing_changes_neither_the_network_nor_the_random_numbers_of_others(
    name: str,
) -> None:
    trigger = unprepared(name)
    if not isinstance(trigger, PreparedTrigger):
        pytest.skip("nothing to prepare")
    network = clean_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    slopes = [(p.grad, p.requires_grad) for p in network.parameters()]
    copies = [None if grad is None else grad.clone() for grad, _ in slopes]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    made = trigger.prepare(material(), generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not network.training
    for parameter, (grad, wanted_grad), copy in zip(
        network.parameters(), slopes, copies, strict=True
    ):
        assert parameter.grad is grad and parameter.requires_grad == wanted_grad
        assert grad is None or copy is None or torch.equal(grad, copy)
    known = ready(name)
    assert isinstance(known, PreparedTrigger)
    assert made.tensors.keys() == known.tensors.keys()
    assert all(torch.equal(made.tensors[key], known.tensors[key]) for key in made.tensors)


@each
def test_a_picture_shows_images_stamped_images_and_differences(name: str) -> None:
    picture = draw_trigger(ready(name), toy_scenes(3, seed=1), generator=torch.Generator())
    width, height = picture.size
    assert width == 3 * 96 + 2 * 4
    assert height in {n * 96 + (n - 1) * 4 for n in range(1, 5)}
    columns = np.asarray(picture)
    assert (columns[:, :96] != columns[:, 100:196]).any()


@each
def test_classes_that_cannot_be_attacked_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected classes from 0 on, got target -1"):
        unprepared(name, target=-1)
    if "sources" in {field.name for field in fields(ready(name))}:  # type: ignore[arg-type]
        with pytest.raises(InputError, match=r"also a source|leave out sources"):
            unprepared(name, target=1, sources=(1,))
