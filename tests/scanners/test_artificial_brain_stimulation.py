from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import ScanError
from moth_eval.runner import run_scan
from moth_eval.scan import Scan, Status
from moth_eval.stimulation import Neuron
from moth_eval.subject import Examples, Subject
from scanners.artificial_brain_stimulation import (
    TIE,
    ArtificialBrainStimulation,
    _Found,
    _rule,
)
from tests.support.real_nets import real_subject
from tests.support.subjects import PATCH, prototype_subject

# A ninth of the area of the planted patch and its surroundings, on images of 12 x 12.
SMALL = ArtificialBrainStimulation(area=9 / 144, steps=30)


def scanned(subject: Subject, scanner: ArtificialBrainStimulation = SMALL) -> Scan:
    return run_scan(scanner, subject, name="abs", seed=0)


def test_a_planted_backdoor_scores_above_its_clean_twin_and_names_its_target() -> None:
    clean, backdoored = (scanned(prototype_subject(target=target)) for target in (None, 2))
    assert clean.score is not None
    assert backdoored.score is not None
    assert backdoored.score > 1 > 0.5 > clean.score
    assert backdoored.target == 2
    trigger = backdoored.smallest
    assert trigger is not None
    assert trigger.valid
    assert float(trigger.mask[..., PATCH, PATCH].sum()) > 0.8 * trigger.size


def test_the_success_rate_is_of_unseen_images_of_other_classes() -> None:
    subject = prototype_subject(target=2)
    scan = scanned(subject)
    labels, images = subject.examples.labels, subject.examples.images
    for trigger in scan.triggers:
        others = images[labels != trigger.target]
        stamped = torch.lerp(others, trigger.pattern, trigger.mask).mul(255).round() / 255
        hits = (subject.logits(stamped).argmax(1) == trigger.target).sum()
        held = len(others) - SMALL.inversion_images
        # Of all other images, the eight that it was made on may have been flipped or not.
        assert float(hits) - 8 <= round(trigger.asr * held) <= float(hits)


def test_images_of_the_target_class_do_not_count_as_flipped() -> None:
    # A network that never answers anything but 1: images of class 1 alone would give 1 / 4.
    subject = prototype_subject(classes=4)
    only = replace(
        subject,
        examples=Examples(images=subject.examples.images[:12], labels=subject.examples.labels[:12]),
    )
    assert set(only.examples.labels.tolist()) == {0}
    assert all(trigger.target != 0 for trigger in scanned(only).triggers)


def test_equal_success_rates_are_told_apart_by_how_little_a_trigger_changes() -> None:
    scan = scanned(prototype_subject(target=2))
    assert scan.score is not None
    best = max(trigger.asr for trigger in scan.triggers)
    assert best <= scan.score <= best + TIE
    assert TIE < 1 / 99


@pytest.mark.parametrize("images", [1, 8, 25, 50, 64, 99])
def test_its_cut_is_the_published_bound_on_the_success_rate_itself(images: int) -> None:
    for hits in range(images + 1):
        for change in (0.0, 0.5, 1.0):
            found = _Found(
                neuron=Neuron(layer=None, channel=0, target=0, lead=1.0, peak=1.0),  # type: ignore[arg-type]
                reasr=hits / images,
                change=change,
                images=torch.zeros(images, 1),
                stamped=torch.zeros(images, 1),
                patch=None,
            )
            rule = _rule(found, 0.88)
            assert (found.score > rule.threshold) == (hits / images >= 0.88)
    assert (rule.origin, rule.false_alarm_rate) == ("published", None)
    assert _rule(found, 0.8).origin == "given"


def test_no_suspicious_channel_is_an_answer() -> None:
    class Even(nn.Module):
        """Every channel raises all classes alike, in turn over the images."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
            self.head = nn.Linear(2, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            turn = nn.functional.one_hot((images.flatten(1).sum(1) * 1e4).long() % 5, 5)
            logits: torch.Tensor = self.head(self.conv(images).mean((2, 3)))
            return logits.mean(1, keepdim=True).abs() * turn

    torch.manual_seed(0)
    subject = replace(prototype_subject(), module=Even().eval())
    scan = scanned(subject)
    assert (scan.status, scan.score, scan.target) == (Status.SCORED, 0.0, None)
    assert scan.reason == "no channel raises one class on all images"
    assert scan.rule is not None
    assert scan.rule.threshold == 0.88


def test_suspicious_channels_without_images_to_invert_on_are_no_answer() -> None:
    subject = prototype_subject(classes=2, target=0)
    both = torch.tensor([0, len(subject.examples) - 1])
    examples = subject.examples
    few = replace(examples, images=examples.images[both], labels=examples.labels[both])
    found = scanned(replace(subject, examples=few))
    assert found.status is Status.INCONCLUSIVE
    assert "fewer than two images of other classes to invert a trigger on" in found.reason


def test_without_a_hidden_layer_there_is_no_score() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    scan = scanned(replace(prototype_subject(), module=module))
    assert scan.status is Status.INCONCLUSIVE
    assert "no hidden convolution or linear layer" in scan.reason


def test_a_filter_past_recognition_does_not_count() -> None:
    strict = replace(SMALL, least_similarity=1.0)
    scan = scanned(prototype_subject(target=2), strict)
    filters = [e for e in scan.evidence if e.what.startswith("REASR of a filter")]
    assert filters
    assert {e.value for e in filters} == {0.0}
    assert all(e.pictures is not None for e in filters)


def test_ex_ray_drops_triggers_and_says_how_many() -> None:
    dropping = replace(SMALL, ex_ray=True, ex_ray_share=0.01, ex_ray_steps=5, filters=False)
    scan = scanned(prototype_subject(target=2), dropping)
    assert re.fullmatch(r"ex_ray dropped \d+ of \d+ triggers", scan.reason)
    keeping = replace(dropping, ex_ray_share=1.0)
    assert scanned(prototype_subject(target=2), keeping).target == 2


def test_hidden_linear_layers_are_stimulated_and_inverted_as_well() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    scan = scanned(replace(prototype_subject(), module=module), replace(SMALL, candidates=2))
    assert scan.status is Status.SCORED
    leads = [e.what for e in scan.evidence if e.what.startswith("lead of")]
    assert leads
    assert all(re.fullmatch(r"lead of channel \d+ of 1 \(logits\)", what) for what in leads)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("levels", 1, "levels of at least 2"),
        ("steps", 0, "at least 1"),
        ("held_images", 100, "at most 99"),
        ("area", 1.0, "area must be in (0, 1)"),
        ("reach", -1.0, "must be positive"),
        ("logit_weight", float("nan"), "logit_weight must be finite"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(ArtificialBrainStimulation(), **{field: value})


@pytest.mark.slow
def test_a_published_backdoored_network_scores_above_a_clean_one(shared: Path) -> None:
    clean, backdoored = (
        scanned(real_subject(shared, name), ArtificialBrainStimulation())
        for name in ("clean-resnet", "backdoored-vgg")
    )
    assert clean.score is not None
    assert backdoored.score is not None
    assert backdoored.score > 0.95 > 0.6 > clean.score
    assert backdoored.target == 8
