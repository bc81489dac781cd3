from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from moth_eval.choosing import halves
from moth_eval.errors import ScanError
from moth_eval.hidden_layers import OpenNetwork, noise_like
from moth_eval.loading.vit import VisionTransformer, VitShape
from moth_eval.runner import run_scan
from moth_eval.scan import Scan, Status
from moth_eval.subject import Subject
from scanners.feature_re import FeatureRE, _last_features, _Pool, _Training
from tests.support.subjects import prototype_subject
from tests.support.trained import CLASSES, trained_subject

SHORT = FeatureRE(warm_up=5, steps=20, batch_size=8, base=4)


def scanned(subject: Subject, scanner: FeatureRE = SHORT) -> Scan:
    return run_scan(scanner, subject, name="feature-re", seed=0)


def with_rows(subject: Subject, rows: Tensor) -> Subject:
    """The subject with these of its examples, in this order."""
    images, labels = subject.examples.images[rows], subject.examples.labels[rows]
    return replace(subject, examples=replace(subject.examples, images=images, labels=labels))


def training(how: FeatureRE, group: list[int], subject: Subject) -> _Training:
    network = OpenNetwork(subject)
    noise = noise_like(network, 2, torch.Generator().manual_seed(0))
    layer = _last_features(network, noise)
    assert layer is not None
    rows = torch.arange(len(subject.examples))
    pool = _Pool(network, layer, subject, (rows[::2], rows[1::2]))
    return _Training(how, network, layer, pool, group, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["patch", "filter"])
def test_trained_backdoors_of_both_kinds_score_above_their_clean_twins(kind: str) -> None:
    for seed in (0, 3):
        clean, backdoored = (
            scanned(subject, FeatureRE())
            for subject in (trained_subject(None, seed), trained_subject(2, seed, kind))
        )
        assert clean.score is not None
        assert backdoored.score is not None
        assert backdoored.score > clean.score + 0.1
        assert backdoored.target == 2


def test_a_trained_backdoor_fits_better_than_the_same_class_of_the_clean_twin() -> None:
    how = replace(SHORT, steps=60, mask_share=0.15)
    clean, backdoored = (
        training(how, [2], subject).run()[0]
        for subject in (trained_subject(None, 3), trained_subject(2, 3))
    )
    assert backdoored.score > clean.score + 0.2
    assert backdoored.asr > 0.6


def test_the_score_is_the_success_less_cosine_and_excess_of_the_class_that_it_names() -> None:
    scan = scanned(trained_subject(2))
    asr, cosine, excess = (e.value for e in scan.evidence[:3])
    assert scan.score == pytest.approx(asr - cosine - excess)
    assert {e.target for e in scan.evidence[:3]} == {scan.target}
    scores = [
        scan.evidence[i].value - scan.evidence[i + 1].value - scan.evidence[i + 2].value
        for i in range(0, len(scan.evidence), 3)
    ]
    assert len(scores) == CLASSES
    assert scores == sorted(scores, reverse=True)


def test_its_cut_is_the_published_one_with_the_sign_turned() -> None:
    rule = scanned(trained_subject(2, 0)).rule
    assert rule is not None
    assert (rule.threshold, rule.origin, rule.false_alarm_rate) == (0.75, "published", None)


def test_figures_are_of_images_that_took_no_part() -> None:
    subject = trained_subject(2)
    images = subject.examples.images.clone()
    run = training(SHORT, [2], subject)
    (before,) = run.run()
    run.pool.held = torch.zeros_like(run.pool.held)
    run.pool.images = images[:0]
    with torch.no_grad():
        after = run._measured(0)
    assert after.asr != before.asr or after.cosine != before.cosine
    assert float(after.pictures[0].max()) == 0


def test_a_class_of_many_images_gains_nothing_by_their_number() -> None:
    """Without any feature of the transform, features of the class's own images would decide."""
    subject = trained_subject(None)
    labels = subject.examples.labels
    rows = torch.cat([torch.nonzero(labels == 2).flatten().repeat(5), torch.arange(len(labels))])
    run = training(SHORT, [2], with_rows(subject, rows))
    run.masks.values = lambda: torch.zeros_like(run.masks.logits)  # type: ignore[method-assign]
    assert float((run.pool.labels == 2).float().mean()) > 0.5
    with torch.no_grad():
        assert run._measured(0).asr < 0.2
        _, others = run._draw()
    flat, own = others[0].flatten(1), run.pool.features[run.pool.labels == 2].flatten(1)
    assert float(torch.cdist(flat, own).min()) > 0


def test_more_classes_than_images_at_most_leave_none_out() -> None:
    scan = scanned(trained_subject(None), replace(SHORT, images=4))
    assert scan.status is Status.SCORED
    assert scan.reason == ""


def test_the_mask_never_takes_more_than_its_share() -> None:
    run = training(SHORT, [0, 2], trained_subject(2))
    run.run()
    share = run.masks.values().flatten(1).mean(1)
    assert (share <= SHORT.mask_share + 1e-4).all()


def test_what_is_exceeded_counts_against_a_class() -> None:
    run = training(SHORT, [0, 2], trained_subject(None))
    figures = torch.tensor([[0.2, 0.2], [1.0, 1.0], [0.01, 0.02], [0.5, 1.5]])
    torch.testing.assert_close(run._settle(figures), torch.tensor([-0.8, -0.8 + 1.0 + 0.5]))
    torch.testing.assert_close(run.pressed, torch.tensor([[0.0, 1.0], [0.0, 0.5], [0.0, 0.0]]))


def test_a_class_does_not_depend_on_those_beside_it() -> None:
    together = training(replace(SHORT, steps=10), [0, 2, 3], trained_subject(2)).run()
    alone = training(replace(SHORT, steps=10), [2], trained_subject(2)).run()
    assert together[1].target == alone[0].target == 2
    assert together[1].cosine == pytest.approx(alone[0].cosine, abs=0.02)


def test_features_are_the_last_maps_of_more_than_one_pixel() -> None:
    for module, name in (
        (trained_subject(None).module, "act"),
        (nn.Sequential(nn.Flatten(), nn.Linear(432, 9), nn.ReLU(), nn.Linear(9, 5)), "2"),
    ):
        network = OpenNetwork(replace(prototype_subject(), module=module.eval()))
        noise = noise_like(network, 2, torch.Generator().manual_seed(0))
        layer = _last_features(network, noise)
        assert layer is not None
        assert layer.name == name


def test_the_patches_of_a_transformer_are_not_its_last_features() -> None:
    """They are its only maps, and hardly more than pixels."""
    shape = VitShape(
        width=16, depth=4, heads=2, hidden=32, patch=4, tokens=9, channels=3, num_classes=5
    )
    module = VisionTransformer(shape)
    network = OpenNetwork(replace(prototype_subject(), module=module.eval()))
    layer = _last_features(network, noise_like(network, 2, torch.Generator().manual_seed(0)))
    assert layer is not None
    assert layer.maps
    assert 2 * layer.depth > max(one.depth for one in network.layers())


@pytest.mark.parametrize("labels", [torch.arange(100) % 10, torch.arange(9) % 3, torch.arange(6)])
def test_both_halves_hold_every_class_whatever_the_order_of_images(labels: Tensor) -> None:
    """By position alone, images that alternate between classes would lose half of them."""
    rows = torch.arange(len(labels))
    trained, held = halves(labels, rows)
    assert sorted([*trained.tolist(), *held.tolist()]) == rows.tolist()
    counts = torch.bincount(labels)
    assert torch.equal(torch.bincount(labels[trained]), (counts + 1) // 2)
    assert torch.equal(torch.bincount(labels[held], minlength=len(counts)), counts // 2)


def test_images_that_alternate_between_classes_leave_none_out() -> None:
    subject = trained_subject(2)
    order = torch.arange(len(subject.examples)).view(CLASSES, -1).T.flatten()
    scan = scanned(with_rows(subject, order))
    assert scan.reason == ""
    assert {e.target for e in scan.evidence} == set(range(CLASSES))


def test_classes_without_images_are_said_to_be_left_out() -> None:
    subject = trained_subject(2)
    rows = subject.examples.labels < 3
    scan = scanned(with_rows(subject, rows))
    assert scan.reason == "2 of 5 classes have no images"
    assert {e.target for e in scan.evidence} == {0, 1, 2}


def test_images_of_one_class_alone_and_networks_without_inner_layers_give_no_score() -> None:
    subject = trained_subject(2)
    rows = subject.examples.labels == 1
    scan = scanned(with_rows(subject, rows))
    assert scan.status is Status.INCONCLUSIVE
    assert scan.reason == "no class has clean images of its own and of others"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(432, 5)).eval()
    assert "no inner layer" in scanned(replace(subject, module=flat)).reason


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", 1, "images of at least 2"),
        ("steps", 9, "steps at least 10"),
        ("warm_up", -1, "warm_up must be at least 0"),
        ("distance", 0.0, "rates and bounds must be positive"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ScanError, match=re.escape(message)):
        replace(FeatureRE(), **{field: value})
